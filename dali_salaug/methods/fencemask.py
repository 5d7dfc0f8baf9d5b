"""FenceMask: a rotated fence of thin strips is blanked."""

import math

import torch
from torch import Tensor

from .._checks import check_range
from .base import ONE_IMAGE, MaskDraw, MethodEntry, register
from .masking import MaskingMethod, check_rotate, phases


@register(
    MethodEntry(
        "fencemask",
        ONE_IMAGE,
        description="a rotated fence of thin strips set to zero",
        source="Li et al. 2020",
        reference="arXiv:2006.07877",
    )
)
class FenceMask(MaskingMethod):
    """A blank fence: parallel strips in two directions at right angles, rotated by a random angle.

    Li et al. 2020, arXiv:2006.07877, who turn GridMask's squares into thin strips that hide a part of every object and
    the whole of none. Widths, gaps (one of each for each direction, whole pixels), offsets and angle are drawn
    uniformly for each image. The defaults are this library's, not the authors'; they blank about two fifths of an
    image.

    Args:
        strip: least and greatest width of the strips, as shares of the image's shorter side; never less than 1 pixel.
        gap: least and greatest gap between two strips, likewise.
        rotate: the angle is below this number of degrees, 1 to 360; 1 means no rotation.
        probability, fill: see :class:`~dali_salaug.methods.masking.MaskingMethod`.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    def __init__(
        self,
        strip: tuple[float, float] = (0.03, 0.09),
        gap: tuple[float, float] = (0.12, 0.3),
        *,
        rotate: int = 360,
        probability: float = 0.8,
        fill: float = 0.0,
    ) -> None:
        super().__init__(probability, fill)
        check_range("strip", strip, math.inf)
        check_range("gap", gap, math.inf)
        check_rotate(rotate)
        self.strip = strip
        self.gap = gap
        self.rotate = rotate

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> MaskDraw:
        uniforms = torch.rand((8, len(images), 1), generator=generator, dtype=torch.float64, device=images.device)
        side = min(images.shape[-2:])
        widths, gaps = (
            ((least + (most - least) * drawn) * side).round().clamp(min=1)
            for (least, most), drawn in ((self.strip, uniforms[:2]), (self.gap, uniforms[2:4]))
        )
        angle = (uniforms[4] * self.rotate).floor()
        offsets = (uniforms[5:7] * (widths + gaps)).floor()
        down, across = phases(images, widths + gaps, offsets, angle)
        masks = (down < widths[0][:, None]) | (across < widths[1][:, None])
        return MaskDraw((masks & (uniforms[7] < self.probability)[:, None])[:, None])

    def __repr__(self) -> str:
        options = f"rotate={self.rotate}, probability={self.probability:g}, fill={self.fill:g}"
        return f"FenceMask({self.strip}, {self.gap}, {options})"
