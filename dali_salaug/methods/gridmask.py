"""GridMask: a rotated grid of evenly spaced squares is blanked."""

import math

import torch
from torch import Tensor

from .._checks import check_number, check_range
from .base import ONE_IMAGE, MaskDraw, MethodEntry, register
from .masking import MaskingMethod, check_rotate, phases


@register(
    MethodEntry(
        "gridmask",
        ONE_IMAGE,
        description="a rotated grid of squares set to zero",
        source="Chen et al. 2020",
        reference="arXiv:2001.04086",
    )
)
class GridMask(MaskingMethod):
    """A blank grid of evenly spaced squares, rotated by a random angle.

    Chen et al. 2020, arXiv:2001.04086, and the authors' code (dvlab-research/GridMask, imagenet_grid, "mode 1"). In
    each d × d pixels, one square of side d − ⌈rd⌉ is blanked, about (1 − r)² of the image. d and the offsets (whole
    pixels, uniform) and the angle (whole degrees, uniform, about the image's centre) are drawn for each image. The
    defaults are those of the authors' ImageNet training, in which the probability rises linearly from 0 over the first
    240 of 300 epochs; here it is constant.

    Args:
        unit: least (included) and greatest (excluded) d, as shares of the image's shorter side: 96 to 224 pixels at
            224×224. Never less than 2 pixels.
        ratio: r in [0, 1], the share of each unit's side that is kept.
        rotate: the angle is below this number of degrees, 1 to 360; 1 means no rotation.
        probability, fill: see :class:`~dali_salaug.methods.masking.MaskingMethod`.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    def __init__(
        self,
        unit: tuple[float, float] = (96 / 224, 1.0),
        *,
        ratio: float = 0.6,
        rotate: int = 360,
        probability: float = 0.8,
        fill: float = 0.0,
    ) -> None:
        super().__init__(probability, fill)
        check_range("unit", unit, math.inf)
        check_number("ratio", ratio, 0, 1)
        check_rotate(rotate)
        self.unit = unit
        self.ratio = ratio
        self.rotate = rotate

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> MaskDraw:
        uniforms = torch.rand((5, len(images), 1), generator=generator, dtype=torch.float64, device=images.device)
        least, most = (share * min(images.shape[-2:]) for share in self.unit)
        period = (least + (most - least) * uniforms[0]).floor().clamp(min=2)
        hole = period - (period * self.ratio).ceil()
        angle = (uniforms[1] * self.rotate).floor()
        offsets = (uniforms[2:4] * period).floor()
        down, across = phases(images, period.expand(2, -1, -1), offsets, angle)
        masks = (down < hole[:, None]) & (across < hole[:, None])
        return MaskDraw((masks & (uniforms[4] < self.probability)[:, None])[:, None])

    def __repr__(self) -> str:
        unit = tuple(round(share, 4) for share in self.unit)
        options = f"ratio={self.ratio:g}, rotate={self.rotate}, probability={self.probability:g}, fill={self.fill:g}"
        return f"GridMask({unit}, {options})"
