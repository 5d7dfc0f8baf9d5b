"""Saliency-guided augmentation on the device: maps of the live model, regions, compositing, and the stage over them.

Knows PyTorch only, and works with any loader.
"""

from dali_salaug.cutout import Cutout, KeepCutout, selective_cut
from dali_salaug.method import Augmented, Clean, Method
from dali_salaug.paste import KeepPaste, selective_paste
from dali_salaug.saliency import saliency_map
from dali_salaug.stage import SaliencyStage, StageTrace

__all__ = [
    "Augmented",
    "Clean",
    "Cutout",
    "KeepCutout",
    "KeepPaste",
    "Method",
    "SaliencyStage",
    "StageTrace",
    "saliency_map",
    "selective_cut",
    "selective_paste",
]
