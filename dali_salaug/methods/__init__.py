"""The augmentation methods, one file each. A method is registered by its line here."""

# isort: off
# ``METHODS``, and so every list of methods, has the order of these lines.
from .base import KINDS, METHODS, BoxDraw, Draw, MaskDraw, Method, MethodEntry, MoveDraw, register
from .baselines import Augmented, Clean
from .cutout import Cutout, KeepCutout, selective_cut
from .drop_cutout import DropCutout
from .saliency_cutout import SaliencyCutout
from .random_erasing import KeepRandomErasing, RandomErasing
from .hide_and_seek import HideAndSeek
from .gridmask import GridMask
from .fencemask import FenceMask
from .salfmix import SalfMix, salfmix
from .cutmix import CutMix, KeepCutMix
from .mixup import Mixup
from .saliencymix import SaliencyMix
from .resizemix import ResizeMix
from .attentive_cutmix import AttentiveCutMix
from .snapmix import SnapMix
from .puzzlemix import PuzzleMix
from .hybridmix import HybridMix
from .keep_paste import KeepPaste, selective_paste
# isort: on

__all__ = [
    "KINDS",
    "METHODS",
    "AttentiveCutMix",
    "Augmented",
    "BoxDraw",
    "Clean",
    "CutMix",
    "Cutout",
    "Draw",
    "DropCutout",
    "FenceMask",
    "GridMask",
    "HideAndSeek",
    "HybridMix",
    "KeepCutMix",
    "KeepCutout",
    "KeepPaste",
    "KeepRandomErasing",
    "MaskDraw",
    "Method",
    "MethodEntry",
    "Mixup",
    "MoveDraw",
    "PuzzleMix",
    "RandomErasing",
    "ResizeMix",
    "SalfMix",
    "SaliencyCutout",
    "SaliencyMix",
    "SnapMix",
    "register",
    "salfmix",
    "selective_cut",
    "selective_paste",
]
