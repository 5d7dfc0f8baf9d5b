"""Hide-and-Seek: patches of a grid are blanked at random."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .._checks import check_whole_number
from .._tensors import known_to_host
from .base import ONE_IMAGE, MaskDraw, MethodEntry, register
from .masking import MaskingMethod


@register(
    MethodEntry(
        "hide_and_seek",
        ONE_IMAGE,
        description="some patches of a grid set to zero",
        source="Singh et al. 2018",
        reference="arXiv:1811.02545, §3.1",
    )
)
class HideAndSeek(MaskingMethod):
    """A grid of square patches over each image, each of which is blank with a given probability.

    Singh et al. 2018, arXiv:1811.02545, §3.1, and the authors' hide_patch.py. The side of the patches is drawn for each
    image from a set, in which 0 means that nothing is hidden. The grid starts at the upper left corner; patches at the
    lower and right border are cut short where the side does not divide the image. The paper fills with the mean of the
    training pixels.

    Args:
        sizes: the sides to draw from, in pixels, 0 or more. By default the authors' (0, 16, 32, 44, 56) at 224×224,
            and in proportion to the image's shorter side at other sizes.
        probability: that a patch is blanked, in [0, 1].
        fill: the value written; 0 is the mean of normalised images.

    Raises:
        ValueError: for an argument outside the ranges above.
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

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> MaskDraw:
        batch, (height, width), device = len(images), images.shape[-2:], images.device
        unit = min(height, width) / 224
        sizes = self.sizes or tuple(max(round(size * unit), 1 if size else 0) for size in (0, 16, 32, 44, 56))
        chosen = torch.rand((1, batch), generator=generator, dtype=torch.float64, device=device)
        size = known_to_host(sizes, device).index_select(0, (chosen[0] * len(sizes)).long())[:, None]
        # Each image draws as many numbers as the smallest patches need.
        smallest = min(size for size in sizes if size)
        rows, columns = -(-height // smallest), -(-width // smallest)
        hidden = torch.rand((batch, rows * columns), generator=generator, device=device) < self.probability
        row = torch.arange(height, device=device) // size.clamp(min=1)
        column = torch.arange(width, device=device) // size.clamp(min=1)
        patch = row.clamp(max=rows - 1)[:, :, None] * columns + column.clamp(max=columns - 1)[:, None]
        masks = hidden.gather(1, patch.flatten(1)).view(batch, 1, height, width)
        return MaskDraw(masks & (size > 0)[:, :, None, None])

    def __repr__(self) -> str:
        return f"HideAndSeek({self.sizes}, probability={self.probability:g}, fill={self.fill:g})"
