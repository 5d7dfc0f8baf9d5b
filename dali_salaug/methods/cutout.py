"""Cutout and KeepCutout: a blank square, anywhere or only where the saliency is low."""

import math

import torch
from torch import Tensor

from .._checks import check_choice, check_images, check_number, check_region, check_saliency
from ..compositing import replace_boxes
from ..regions import BORDERS
from .base import KEEPAUGMENT, ONE_IMAGE, BoxDraw, CuttingMethod, MethodEntry, register


def selective_cut(
    images: Tensor,
    saliency: Tensor,
    size: int | tuple[int, int],
    *,
    tau: float = 0.6,
    border: str = "clip",
    fill: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Blank one region of each image, drawn uniformly among those whose saliency is at most the τ-quantile.

    KeepAugment, Algorithm 1(a), eq. 2 and "Remark".

    Args:
        images: (B, C, H, W), floating point; not written to.
        saliency: (B, h, w), floating point, at any resolution; values that are not finite count as 0.
        size: side of the square, or (height, width), in image pixels; not larger than the image.
        tau: τ in [0, 1], the quantile of the scores of all candidate regions of an image.
        border: "clip": the region's centre is any pixel, and the region is clipped to the image, as Cutout's
            authors do. "inside": the region lies wholly in the image.
        fill: the value written; 0 is the mean of normalised images.
        generator: on the images' device; None for the global one.

    Returns:
        The images with the region filled, (B, C, H, W), and the boxes (B, 4), int64: top, left, bottom, right in
        image pixels, half-open, clipped to the image.

    Raises:
        ValueError: for an argument outside the ranges above.

    Example:
        >>> saliency = saliency_map(model, images, labels)
        >>> inputs, boxes = selective_cut(images, saliency, 16)
    """
    method = KeepCutout(size, tau=tau, border=border, fill=fill)
    images = check_images("images", images)
    drawn = method.draw(images, check_saliency(saliency, images), generator)
    return method.apply(images, drawn, None), drawn.boxes


@register(
    MethodEntry(
        "cutout",
        ONE_IMAGE,
        description="a square at a random place set to zero",
        source="DeVries & Taylor 2017",
        reference="arXiv:1708.04552, §3.2",
    )
)
class Cutout(CuttingMethod[BoxDraw]):
    """A blank square at a random place of each image.

    DeVries & Taylor 2017, arXiv:1708.04552, §3.2. The square's centre is any pixel; the square is clipped to the image.

    Args:
        size: side of the square, or (height, width), in pixels; by default 16 at 32×32 and 40 at 224×224.
        border: "clip" or "inside", as for :func:`selective_cut`.
        fill: the value written; 0 is the mean of normalised images.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    def __init__(self, size: int | tuple[int, int] | None = None, *, border: str = "clip", fill: float = 0.0) -> None:
        check_choice("border", border, BORDERS)
        check_number("fill", fill, -math.inf, math.inf)
        self.size = None if size is None else check_region(size)
        self.border = border
        self.fill = fill

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> BoxDraw:
        return BoxDraw(self._draw_boxes(images, self.size, saliency, generator))

    def apply(self, images: Tensor, drawn: BoxDraw, augmented: Tensor | None) -> Tensor:
        return replace_boxes(images, drawn.boxes, self.fill)

    def __repr__(self) -> str:
        return f"Cutout(size={self.size}, border={self.border!r}, fill={self.fill:g})"


@register(
    MethodEntry(
        "keep_cutout",
        ONE_IMAGE,
        description="Cutout that spares what is salient",
        source=KEEPAUGMENT,
        reference="Algorithm 1(a), eq. 2, §4.1",
        plain="cutout",
    )
)
class KeepCutout(Cutout):
    """Cutout that spares what is salient: :func:`selective_cut` as an object (KeepAugment §3 and §4.1).

    Args:
        tau: τ in [0, 1]. A square may be cut only where its saliency is at most the τ-quantile of all squares'.
        size, border, fill: as for :class:`Cutout`.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    uses_saliency = True

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        *,
        tau: float = 0.6,
        border: str = "clip",
        fill: float = 0.0,
    ) -> None:
        super().__init__(size, border=border, fill=fill)
        check_number("tau", tau, 0, 1)
        self.tau = tau

    def __repr__(self) -> str:
        return f"KeepCutout(size={self.size}, tau={self.tau:g}, border={self.border!r}, fill={self.fill:g})"
