"""Hide-and-Seek, GridMask and FenceMask: many small regions spread over each image are blanked."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .._checks import check_number, check_range, check_whole_number
from .._tensors import known_to_host
from ..compositing import replace
from .base import Draw, Method


class MaskingMethod(Method):
    """A method that blanks what is under a mask, drawn for each image.

    Args:
        probability: in [0, 1]: that an image is masked at all, but for what :class:`HideAndSeek` means by it.
        fill: the value written; 0 is the mean of normalised images.

    Raises:
        ValueError: for an argument outside of what is said above.
    """

    def __init__(self, probability: float, fill: float) -> None:
        check_number("probability", probability, 0, 1)
        check_number("fill", fill, -math.inf, math.inf)
        self.probability = probability
        self.fill = fill

    def apply(self, images: Tensor, drawn: Draw, augmented: Tensor | None) -> Tensor:
        assert drawn.masks is not None
        return replace(images, drawn.masks, self.fill)


class HideAndSeek(MaskingMethod):
    """Each image is divided into square patches, and each of them is blanked with a probability.

    Singh et al. 2018, arXiv:1811.02545, §3.1, and the authors' hide_patch.py: the side of the patches is drawn for each
    image from a set, in which 0 stands for hiding nothing. The patches begin at the upper left corner, and those at the
    lower and right border are cut short where the side does not divide the image. The paper fills with the mean of the
    training pixels.

    Args:
        sizes: the sides to draw from, in pixels, 0 or more; by default the authors' (0, 16, 32, 44, 56) at 224×224,
            and in proportion to the image's shorter side at other sizes.
        probability: that a patch is blanked, in [0, 1].
        fill: the value written; 0 is the mean of normalised images.

    Raises:
        ValueError: for an argument outside of what is said above.
    """

    def __init__(self, sizes: Sequence[int] | None = None, *, probability: float = 0.5, fill: float = 0.0) -> None:
        super().__init__(probability, fill)
        if sizes is not None:
            if not isinstance(sizes, Sequence):
                raise ValueError(f"sizes must be whole numbers of pixels in a tuple or list; got {sizes!r}")
            for size in sizes:
                check_whole_number("each of sizes", size, 0, of=" of pixels")
            if not any(sizes):
                raise ValueError(f"sizes must have one above 0; got {sizes!r}")
        self.sizes = None if sizes is None else tuple(sizes)

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> Draw:
        batch, (height, width), device = len(images), images.shape[-2:], images.device
        unit = min(height, width) / 224
        sizes = self.sizes or tuple(max(round(size * unit), 1 if size else 0) for size in (0, 16, 32, 44, 56))
        chosen = torch.rand((1, batch), generator=generator, dtype=torch.float64, device=device)
        size = known_to_host(sizes, device).index_select(0, (chosen[0] * len(sizes)).long())[:, None]
        # As many numbers for each image as the smallest patches need.
        smallest = min(size for size in sizes if size)
        rows, columns = -(-height // smallest), -(-width // smallest)
        hidden = torch.rand((batch, rows * columns), generator=generator, device=device) < self.probability
        row = torch.arange(height, device=device) // size.clamp(min=1)
        column = torch.arange(width, device=device) // size.clamp(min=1)
        patch = row.clamp(max=rows - 1)[:, :, None] * columns + column.clamp(max=columns - 1)[:, None]
        masks = hidden.gather(1, patch.flatten(1)).view(batch, 1, height, width)
        return Draw(masks=masks & (size > 0)[:, :, None, None])

    def __repr__(self) -> str:
        return f"HideAndSeek({self.sizes}, probability={self.probability:g}, fill={self.fill:g})"


class GridMask(MaskingMethod):
    """A grid of evenly spaced squares, turned by a random angle, is blanked.

    Chen et al. 2020, arXiv:2001.04086, and the authors' code (dvlab-research/GridMask, imagenet_grid, "mode 1"). One
    square of side d − ⌊rd + ½⌋ in each d × d pixels is blanked; d, the offsets (both whole pixels, uniform) and the
    angle (whole degrees, uniform, about the image's centre) are drawn for each image. The share blanked is thus about
    (1 − r)². The defaults are those of the authors' ImageNet training, in which the probability rises linearly from 0
    over the first 240 of 300 epochs; here it is constant.

    Args:
        unit: least (included) and greatest (excluded) d, as shares of the image's shorter side: 96 to 224 pixels at
            224×224. Never less than 2 pixels.
        ratio: r in [0, 1], the share of each unit's side that is kept.
        rotate: the angle is below so many degrees, 1 to 360; 1 turns nothing.
        probability, fill: see :class:`MaskingMethod`.

    Raises:
        ValueError: for an argument outside of what is said above.
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
        _check_rotate(rotate)
        self.unit = unit
        self.ratio = ratio
        self.rotate = rotate

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> Draw:
        uniforms = torch.rand((5, len(images), 1), generator=generator, dtype=torch.float64, device=images.device)
        least, most = (share * min(images.shape[-2:]) for share in self.unit)
        period = (least + (most - least) * uniforms[0]).floor().clamp(min=2)
        hole = period - (period * self.ratio + 0.5).floor()
        angle = (uniforms[1] * self.rotate).floor()
        offsets = (uniforms[2:4] * period).floor()
        down, across = _phases(images, period.expand(2, -1, -1), offsets, angle)
        masks = (down < hole[:, None]) & (across < hole[:, None])
        return Draw(masks=(masks & (uniforms[4] < self.probability)[:, None])[:, None])

    def __repr__(self) -> str:
        unit = tuple(round(share, 4) for share in self.unit)
        options = f"ratio={self.ratio:g}, rotate={self.rotate}, probability={self.probability:g}, fill={self.fill:g}"
        return f"GridMask({unit}, {options})"


class FenceMask(MaskingMethod):
    """A fence is blanked: parallel strips in two directions at right angles, turned by a random angle.

    Li et al. 2020, arXiv:2006.07877, who change GridMask's squares into thin strips that hide a part of every object
    and the whole of none. Widths, gaps (one of each for each direction, whole pixels), offsets and angle are drawn for
    each image, uniformly. The defaults are this library's, not the authors': they blank about two fifths of an image.

    Args:
        strip: least and greatest width of the strips, as shares of the image's shorter side; never less than 1 pixel.
        gap: least and greatest gap between two strips, likewise.
        rotate: the angle is below so many degrees, 1 to 360; 1 turns nothing.
        probability, fill: see :class:`MaskingMethod`.

    Raises:
        ValueError: for an argument outside of what is said above.
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
        _check_rotate(rotate)
        self.strip = strip
        self.gap = gap
        self.rotate = rotate

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> Draw:
        uniforms = torch.rand((8, len(images), 1), generator=generator, dtype=torch.float64, device=images.device)
        side = min(images.shape[-2:])
        widths, gaps = (
            ((least + (most - least) * drawn) * side).round().clamp(min=1)
            for (least, most), drawn in ((self.strip, uniforms[:2]), (self.gap, uniforms[2:4]))
        )
        angle = (uniforms[4] * self.rotate).floor()
        offsets = (uniforms[5:7] * (widths + gaps)).floor()
        down, across = _phases(images, widths + gaps, offsets, angle)
        masks = (down < widths[0][:, None]) | (across < widths[1][:, None])
        return Draw(masks=(masks & (uniforms[7] < self.probability)[:, None])[:, None])

    def __repr__(self) -> str:
        options = f"rotate={self.rotate}, probability={self.probability:g}, fill={self.fill:g}"
        return f"FenceMask({self.strip}, {self.gap}, {options})"


def _phases(images: Tensor, periods: Tensor, offsets: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel's centre lies within its period, down and across a pattern turned about the image's centre.

    Args:
        images: (B, C, H, W); only their shape and device are used.
        periods, offsets: down and across, in pixels, (2, B, 1).
        angle: in degrees, (B, 1).

    Returns:
        Twice (B, H, W), float32 in [0, period).
    """
    height, width = images.shape[-2:]
    y = (torch.arange(height, device=images.device) + 0.5 - height / 2)[:, None]
    x = torch.arange(width, device=images.device) + 0.5 - width / 2
    turn = torch.deg2rad(angle)[:, None]
    # PolicyDraw in float64, which whole numbers survive; float32 does for the pixels, of which there are many more.
    cos, sin = turn.cos().float(), turn.sin().float()
    periods, offsets = periods[..., None].float(), offsets[..., None].float()
    down = (cos * y - sin * x + offsets[0]).remainder(periods[0])
    return down, (sin * y + cos * x + offsets[1]).remainder(periods[1])


def _check_rotate(rotate: object) -> None:
    if not isinstance(rotate, int) or not 1 <= rotate <= 360:
        raise ValueError(f"rotate must be a whole number of degrees from 1 to 360; got {rotate!r}")
