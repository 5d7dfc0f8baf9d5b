"""Saliency-guided augmentation on the device: maps of the live model, regions, compositing, and the stage over them.

Knows PyTorch only, and works with any loader.
"""

from .cutout import Cutout, KeepCutout, selective_cut
from .early_head import EarlyLogits, WithEarlyHead
from .method import Augmented, Clean, Method
from .paste import KeepPaste, selective_paste
from .saliency import saliency_map
from .stage import SaliencyStage, StageTrace

__all__ = [
    "Augmented",
    "Clean",
    "Cutout",
    "EarlyLogits",
    "KeepCutout",
    "KeepPaste",
    "Method",
    "SaliencyStage",
    "StageTrace",
    "WithEarlyHead",
    "saliency_map",
    "selective_cut",
    "selective_paste",
]
