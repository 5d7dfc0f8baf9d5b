"""Saliency-guided augmentation on the device: maps of the live model, regions, compositing, and the stage over them.

Knows PyTorch only, and works with any loader.
"""

from .attentive_cutmix import AttentiveCutMix
from .cutmix import CutMix, KeepCutMix
from .cutout import Cutout, KeepCutout, selective_cut
from .early_head import EarlyLogits, WithEarlyHead
from .method import Augmented, Clean, Draw, Method
from .paste import KeepPaste, selective_paste
from .puzzlemix import PuzzleMix
from .random_erasing import KeepRandomErasing, RandomErasing
from .resizemix import ResizeMix
from .saliency import saliency_map
from .saliency_cutout import SaliencyCutout
from .snapmix import SnapMix
from .stage import SaliencyStage, StageTrace

__all__ = [
    "AttentiveCutMix",
    "Augmented",
    "Clean",
    "CutMix",
    "Cutout",
    "Draw",
    "EarlyLogits",
    "KeepCutMix",
    "KeepCutout",
    "KeepPaste",
    "KeepRandomErasing",
    "Method",
    "PuzzleMix",
    "RandomErasing",
    "ResizeMix",
    "SaliencyCutout",
    "SaliencyStage",
    "SnapMix",
    "StageTrace",
    "WithEarlyHead",
    "saliency_map",
    "selective_cut",
    "selective_paste",
]
