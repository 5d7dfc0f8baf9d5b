"""Saliency-guided augmentation on the device: maps of the live model, regions, compositing, and the stage over them.

Knows PyTorch only, and works with any loader. Three papers are cited by name:

- KeepAugment: Gong et al. 2021, CVPR, "KeepAugment: A Simple Information-Preserving Data Augmentation Approach";
- SalfMix: Choi et al. 2021, Sensors 21(24), "SalfMix: A Novel Single Image-Based Data Augmentation Technique Using a
  Saliency Map", which has HybridMix too;
- "Saliency Map Based Data Augmentation": Al-afandi et al. 2022, arXiv:2205.14686.
"""

from .consistency.loss import ConsistencyLoss, SaliencyConsistency
from .methods.attentive_cutmix import AttentiveCutMix
from .methods.base import Augmented, Clean, Draw, Method
from .methods.cutmix import CutMix, KeepCutMix
from .methods.cutout import Cutout, KeepCutout, selective_cut
from .methods.hybridmix import HybridMix
from .methods.keep_paste import KeepPaste, selective_paste
from .methods.masking import FenceMask, GridMask, HideAndSeek
from .methods.mixup import Mixup
from .methods.puzzlemix import PuzzleMix
from .methods.random_erasing import KeepRandomErasing, RandomErasing
from .methods.resizemix import ResizeMix
from .methods.salfmix import SalfMix, salfmix
from .methods.saliency_cutout import SaliencyCutout
from .methods.saliencymix import SaliencyMix
from .methods.snapmix import SnapMix
from .saliency.early_head import EarlyLogits, WithEarlyHead
from .saliency.maps import saliency_map
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
