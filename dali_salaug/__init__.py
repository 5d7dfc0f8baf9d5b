"""Saliency-guided augmentation on the device: maps of the live model, regions, compositing, and the stage over them.

The package knows only PyTorch and works with any loader. It cites three papers by name:

- KeepAugment: Gong et al. 2021, CVPR, "KeepAugment: A Simple Information-Preserving Data Augmentation Approach";
- SalfMix: Choi et al. 2021, Sensors 21(24), "SalfMix: A Novel Single Image-Based Data Augmentation Technique Using a
  Saliency Map", which introduces HybridMix too;
- "Saliency Map Based Data Augmentation": Al-afandi et al. 2022, arXiv:2205.14686.
"""

from . import methods
from .consistency.loss import ConsistencyLoss, SaliencyConsistency
from .methods import *  # noqa: F403 (a method is imported there, and nowhere else)
from .saliency.early_head import EarlyLogits, WithEarlyHead
from .saliency.maps import saliency_map
from .saliency.memory import SaliencyMemory
from .stage import SaliencyStage, StageTrace

__version__ = "0.1.0"  # of the whole distribution; pyproject.toml reads it here

__all__ = [
    "ConsistencyLoss",
    "EarlyLogits",
    "SaliencyConsistency",
    "SaliencyMemory",
    "SaliencyStage",
    "StageTrace",
    "WithEarlyHead",
    "saliency_map",
]
__all__ += methods.__all__
