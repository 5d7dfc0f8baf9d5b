"""Saliency-guided augmentation on the device: maps of the live model, regions, compositing, and the stage over them.

Knows PyTorch only, and works with any loader. Three papers are cited by name:

- KeepAugment: Gong et al. 2021, CVPR, "KeepAugment: A Simple Information-Preserving Data Augmentation Approach";
- SalfMix: Choi et al. 2021, Sensors 21(24), "SalfMix: A Novel Single Image-Based Data Augmentation Technique Using a
  Saliency Map", which has HybridMix too;
- "Saliency Map Based Data Augmentation": Al-afandi et al. 2022, arXiv:2205.14686.
"""

from .attentive_cutmix import AttentiveCutMix
from .consistency import ConsistencyLoss, SaliencyConsistency
from .cutmix import CutMix, KeepCutMix
from .cutout import Cutout, KeepCutout, selective_cut
from .early_head import EarlyLogits, WithEarlyHead
from .hybrid_mix import HybridMix
from .masking import FenceMask, GridMask, HideAndSeek
from .method import Augmented, Clean, Draw, Method
from .mixup import Mixup
from .paste import KeepPaste, selective_paste
from .puzzlemix import PuzzleMix
from .random_erasing import KeepRandomErasing, RandomErasing
from .resizemix import ResizeMix
from .salfmix import SalfMix, salfmix
from .saliency import saliency_map
from .saliency_cutout import SaliencyCutout
from .saliency_mix import SaliencyMix
from .snapmix import SnapMix
from .stage import SaliencyStage, StageTrace

__version__ = "0.1.0"  # of the whole distribution; pyproject.toml reads it here

__all__ = [
    "AttentiveCutMix",
    "Augmented",
    "Clean",
    "ConsistencyLoss",
    "CutMix",
    "Cutout",
    "Draw",
    "EarlyLogits",
    "FenceMask",
    "GridMask",
    "HideAndSeek",
    "HybridMix",
    "KeepCutMix",
    "KeepCutout",
    "KeepPaste",
    "KeepRandomErasing",
    "Method",
    "Mixup",
    "PuzzleMix",
    "RandomErasing",
    "ResizeMix",
    "SalfMix",
    "SaliencyConsistency",
    "SaliencyCutout",
    "SaliencyMix",
    "SaliencyStage",
    "SnapMix",
    "StageTrace",
    "WithEarlyHead",
    "salfmix",
    "saliency_map",
    "selective_cut",
    "selective_paste",
]
