"""Images from disk to the device: one decode, one crop, one flip, clean and augmented, by NVIDIA DALI."""

from .augmix import AugMix
from .build import image_loader
from .datasets import DataError, Dataset, find_dataset
from .loader import Batch, ImageLoader
from .policies import POLICIES, Policy, RandAugment, TrivialAugment, find_policy
from .sub_policies import AutoAugment, SubPolicies

__all__ = [
    "POLICIES", "AugMix", "AutoAugment", "Batch", "DataError", "Dataset", "ImageLoader", "Policy", "RandAugment",
    "SubPolicies", "TrivialAugment", "find_dataset", "find_policy", "image_loader",
]  # fmt: skip
