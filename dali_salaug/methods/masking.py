"""The common parts of the methods that blank many small regions spread over each image."""

import math

import torch
from torch import Tensor

from .._checks import check_number, is_whole
from ..compositing import replace
from .base import MaskDraw, Method


class MaskingMethod(Method[MaskDraw]):
    """A method that draws a mask for each image and blanks what is under it.

    Args:
        probability: that an image is masked at all, in [0, 1]; for HideAndSeek, that a patch is hidden.
        fill: the value written; 0 is the mean of normalised images.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    def __init__(self, probability: float, fill: float) -> None:
        check_number("probability", probability, 0, 1)
        check_number("fill", fill, -math.inf, math.inf)
        self.probability = probability
        self.fill = fill

    def apply(self, images: Tensor, drawn: MaskDraw, augmented: Tensor | None) -> Tensor:
        """Fill what is under the masks."""
        return replace(images, drawn.masks, self.fill)


def phases(images: Tensor, periods: Tensor, offsets: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Return each pixel's place in its period, down and across a pattern rotated about the image's centre.

    Args:
        images: (B, C, H, W); only their shape and device are used.
        periods, offsets: down and across, in pixels, (2, B, 1).
        angle: in degrees, (B, 1).

    Returns:
        Two tensors (B, H, W), float32 in [0, period).
    """
    height, width = images.shape[-2:]
    y = (torch.arange(height, device=images.device) + 0.5 - height / 2)[:, None]
    x = torch.arange(width, device=images.device) + 0.5 - width / 2
    turn = torch.deg2rad(angle)[:, None]
    # Drawn in float64, which keeps whole numbers exact; float32 suffices for the pixels, which are many more.
    cos, sin = turn.cos().float(), turn.sin().float()
    periods, offsets = periods[..., None].float(), offsets[..., None].float()
    down = (cos * y - sin * x + offsets[0]).remainder(periods[0])
    return down, (sin * y + cos * x + offsets[1]).remainder(periods[1])


def check_rotate(rotate: object) -> None:
    """Require a whole number of degrees from 1 to 360."""
    if not is_whole(rotate) or not 1 <= rotate <= 360:  # type: ignore[operator]
        raise ValueError(f"rotate must be a whole number of degrees from 1 to 360; got {rotate!r}")
