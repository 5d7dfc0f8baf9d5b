"""Images from disk to the device: one decode, one crop, one flip, clean and augmented, by NVIDIA DALI."""

from .build import image_loader
from .datasets import Dataset
from .loader import Batch, ImageLoader
from .policies.augmix import AugMix
from .policies.registry import POLICIES, Policy, RandAugment, TrivialAugment, find_policy
from .policies.sub_policies import AutoAugment, SubPolicies
from .policies.transforms import Affine, SimCLR
from .readers.base import DataError
from .sources import find_dataset

__all__ = [
    "POLICIES", "Affine", "AugMix", "AutoAugment", "Batch", "DataError", "Dataset", "ImageLoader", "Policy",
    "RandAugment", "SimCLR", "SubPolicies", "TrivialAugment", "find_dataset", "find_policy", "image_loader",
]  # fmt: skip
