"""DropCutout: the most salient square is blanked, so that the network learns from the rest."""

import math

import torch
from torch import Tensor

from .._checks import check_number, check_region
from ..compositing import replace_boxes
from ..regions import draw_regions
from .base import ONE_IMAGE, BoxDraw, Method, MethodEntry, register


@register(
    MethodEntry(
        "drop_cutout",
        ONE_IMAGE,
        plain="cutout",
        description="the most salient square set to zero",
        source="Hu et al. 2019 (WS-DAN)",
        reference="attention dropping, arXiv:1901.09891, on a saliency map; squares and scores of KeepAugment",
    )
)
class DropCutout(Method[BoxDraw]):
    """A blank square where each image is most salient: the opposite of :class:`KeepCutout`.

    What a network relies on most is hidden, so that it must learn from the rest of the image. That breaks a shortcut: a
    mark, a frame or a background that gives the class away in training alone. Attention dropping of Hu et al. (2019,
    arXiv:1901.09891) blanks what exceeds a threshold of an attention map. Here, it is the square whose mean
    saliency is greatest among all those wholly in the image; of several such, one is drawn uniformly.

    Args:
        size: side of the square, or (height, width), in pixels; by default 16 at 32×32 and 40 at 224×224.
        fill: the value written; 0 is the mean of normalised images.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    uses_saliency = True

    def __init__(self, size: int | tuple[int, int] | None = None, *, fill: float = 0.0) -> None:
        check_number("fill", fill, -math.inf, math.inf)
        self.size = None if size is None else check_region(size)
        self.fill = fill

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> BoxDraw:
        return BoxDraw(
            draw_regions(images, self.size, generator, border="inside", saliency=saliency, tau=1.0, keep="high")
        )

    def apply(self, images: Tensor, drawn: BoxDraw, augmented: Tensor | None) -> Tensor:
        return replace_boxes(images, drawn.boxes, self.fill)

    def __repr__(self) -> str:
        return f"DropCutout(size={self.size}, fill={self.fill:g})"
