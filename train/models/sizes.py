"""The sizes of images that a model takes, found on the meta device, where nothing is computed."""

import copy
from itertools import islice

import torch
from torch import nn

from train.config import Config, ResolvedConfig
from train.models.registry import FOR_A_SIZE, build_model

# Sides in pixels that networks are made for.
SIDES = (32, 48, 64, 96, 112, 128, 160, 192, 224, 240, 256, 288, 299, 320, 336, 384, 392, 448, 512, 518)


def takes(model: nn.Module, size: tuple[int, int]) -> bool:
    """Return whether a model can be trained on images (2, 3, *size); the model is left as it was."""
    model = copy.deepcopy(model).train()  # two: BatchNorm may need more than one value per channel
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            model(torch.zeros(2, 3, *size, device=device))
    except Exception:
        return False
    return True


def only_side(name: str) -> int | None:
    """Return the side of the images that a model is made for, where it takes no other; None where it takes several.

    Or where it can be built for several, and thus for the data's.

    Args:
        name: see `build_model`.
    """
    model = None if name in FOR_A_SIZE else _on_meta(name, None)
    if model is None:
        return None
    taken = list(islice((side for side in SIDES if takes(model, (side, side))), 2))  # a second one decides
    return taken[0] if len(taken) == 1 else None


def map_scale(config: Config, resolved: ResolvedConfig) -> float:
    """Return the scale of the saliency map: as stated, or the method's, but 1 for a model without reduced images.

    Args:
        config: as stated.
        resolved: the same, with the method's scale.
    """
    size, scale = resolved.size, resolved.saliency_scale
    if config.saliency_scale is not None or scale == 1:
        return scale
    model = _on_meta(resolved.model, size[0] if size[0] == size[1] else None)
    if model is None or takes(model, (round(size[0] * scale), round(size[1] * scale))) or not takes(model, size):
        return scale
    return 1.0


def _on_meta(name: str, image_size: int | None) -> nn.Module | None:
    """Return a model without weights; None where it cannot be built so, which says nothing of its sizes."""
    try:
        with torch.device("meta"):
            return build_model(name, 2, image_size)
    except Exception:
        return None
