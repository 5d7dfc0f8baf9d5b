"""Images from disk to the device: one decode, one crop, one flip, clean and augmented, by NVIDIA DALI."""

from .build import image_loader
from .datasets import DataError, Dataset, find_dataset
from .loader import Batch, ImageLoader
from .policies import POLICIES, AutoAugment, Policy, RandAugment, TrivialAugment

__all__ = [
    "POLICIES", "AutoAugment", "Batch", "DataError", "Dataset", "ImageLoader", "Policy", "RandAugment",
    "TrivialAugment", "find_dataset", "image_loader",
]  # fmt: skip
