"""Saliency-guided Cutout: the least salient patch, as SalfMix chooses it, is blanked."""

import math

import torch
from torch import Tensor

from .._checks import check_given, check_number
from ..compositing import replace_boxes
from .base import ONE_IMAGE, SALFMIX, BoxDraw, MethodEntry, register
from .patches import PatchMethod


@register(
    MethodEntry(
        "saliency_cutout",
        ONE_IMAGE,
        description="the least salient patch set to zero",
        source=f"{SALFMIX} §6.2",
        reference="table 9; cells and patches of §4.3",
        target="loss",
        plain="cutout",
    )
)
class SaliencyCutout(PatchMethod[BoxDraw]):
    """A blank patch around the least salient cell of each image.

    SalfMix §6.2, with the cells and patches of §4.3. The map is averaged over a grid of n × n cells. The patch has
    ⌊side · ratio⌋ pixels in each direction. Its place is uniform among the positions that contain the least salient
    cell and lie in the image.

    Args:
        grid: n; by default 4 below 64 pixels and 8 from there on.
        ratio: side of the patch over side of the image, in (0, 1]. A patch must cover a cell.
        fill: the value written; 0 is the mean of normalised images.

    Raises:
        ValueError: for an argument outside the ranges above; at the draw, if ``ratio`` makes a patch of the images
            smaller than a cell.
    """

    uses_saliency = True

    def __init__(self, grid: int | None = None, *, ratio: float = 0.3, fill: float = 0.0) -> None:
        super().__init__(grid, ratio)
        check_number("fill", fill, -math.inf, math.inf)
        self.fill = fill

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> BoxDraw:
        means = self._cell_means(images, check_given("saliency", saliency))
        return BoxDraw(self._draw_patches(images, means.argmin(1)[None], generator)[0])

    def apply(self, images: Tensor, drawn: BoxDraw, augmented: Tensor | None) -> Tensor:
        return replace_boxes(images, drawn.boxes, self.fill)

    def __repr__(self) -> str:
        return f"SaliencyCutout({self.grid}, ratio={self.ratio:g}, fill={self.fill:g})"
