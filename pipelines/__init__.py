"""Images from disk to the device by NVIDIA DALI: one decode, one crop, one flip, clean and augmented."""

from .build import image_loader
from .datasets import Dataset
from .detection import detection_loader
from .graph.transform import GraphBatch, GraphTransform
from .labels.objects import BatchObjects, Objects
from .loading.batch import Batch
from .loading.loader import ImageLoader
from .policies.augmix import AugMix
from .policies.base import Policy
from .policies.randaugment import RandAugment
from .policies.registry import POLICIES, find_policy
from .policies.sub_policies import AutoAugment, SubPolicies
from .policies.transforms import Affine, SimCLR
from .policies.trivialaugment import TrivialAugment
from .readers.base import DataError
from .sources import find_dataset, find_validation
from .sources.detection import find_detection

__all__ = [
    "POLICIES", "Affine", "AugMix", "AutoAugment", "Batch", "BatchObjects", "DataError", "Dataset", "GraphBatch",
    "GraphTransform", "ImageLoader", "Objects", "Policy", "RandAugment", "SimCLR", "SubPolicies", "TrivialAugment",
    "detection_loader", "find_dataset", "find_detection", "find_policy", "find_validation", "image_loader",
]  # fmt: skip
