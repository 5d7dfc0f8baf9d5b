"""SalfMix: the least salient patch of an image is overwritten by its most salient one."""

import torch
from torch import Tensor

from .._checks import check_given, check_images, check_saliency
from ..compositing import move_boxes
from .base import ONE_IMAGE, SALFMIX, MethodEntry, MoveDraw, register
from .patches import PatchMethod


def salfmix(
    images: Tensor,
    saliency: Tensor,
    *,
    grid: int | None = 4,
    ratio: float = 0.3,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Copy a patch around each image's most salient cell over a patch around its least salient cell.

    SalfMix, Algorithm 1 and §4.3. The map is averaged over a grid of n × n cells. Both patches have ⌊side · ratio⌋
    pixels in each direction. The place of each is uniform among the positions that contain its cell and lie in the
    image. Where they overlap, the copy still comes from the original image.

    Args:
        images: (B, C, H, W), floating point; not written to.
        saliency: (B, h, w), floating point, at any resolution; values that are not finite count as 0. Of equal cells
            the first in reading order counts as the most or the least salient.
        grid: n; None means 4 below 64 pixels and 8 from 64 pixels on, the paper's at 32×32 and 64×64.
        ratio: r, side of the patch over side of the image, in (0, 1]. A patch must cover a cell.
        generator: on the images' device; None for the global one.

    Returns:
        The self-mixed images (B, C, H, W), the source boxes and the target boxes, both (B, 4), int64: top, left,
        bottom, right in image pixels, half-open.

    Raises:
        ValueError: for an argument outside the ranges above.

    Example:
        >>> saliency = saliency_map(model, images, labels, target="loss")
        >>> inputs, sources, targets = salfmix(images, saliency)
    """
    method = SalfMix(grid, ratio=ratio)
    images = check_images("images", images)
    drawn = method.draw(images, check_saliency(saliency, images), generator)
    return method.apply(images, drawn, None), drawn.sources, drawn.boxes


@register(
    MethodEntry(
        "salfmix",
        ONE_IMAGE,
        description="the most salient patch copied over the least salient",
        source=SALFMIX,
        reference="§4.3, Algorithm 1, table 4",
        target="loss",
        plain="salfmix_random",
    ),
    MethodEntry(
        "salfmix_random",
        ONE_IMAGE,
        description="SalfMix without saliency: two random patches",
        source=f"{SALFMIX} §6.2",
        reference="table 9",
        options={"use_saliency": False},
    ),
)
class SalfMix(PatchMethod[MoveDraw]):
    """:func:`salfmix` as an object; without saliency it is the paper's ablation, akin to Self-Augmentation.

    Args:
        grid, ratio: as for :func:`salfmix`; by default the grid depends on the images' size.
        use_saliency: False takes two random cells instead of the most and the least salient (SalfMix §6.2, table 9).
            The paper says only "randomly selected"; here the two cells differ, as the two cells of a map do.

    Raises:
        ValueError: for an argument outside the ranges above; at the draw, if ``ratio`` makes a patch of the images
            smaller than a cell.
    """

    def __init__(self, grid: int | None = None, *, ratio: float = 0.3, use_saliency: bool = True) -> None:
        super().__init__(grid, ratio)
        if not isinstance(use_saliency, bool):
            raise ValueError(f"use_saliency must be True or False; got {use_saliency!r}")
        self.uses_saliency = use_saliency
        self.default_warmup_epochs = int(use_saliency)

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> MoveDraw:
        most, least = self._draw_cells(images, saliency, generator)
        sources, boxes = self._draw_patches(images, torch.stack([most, least]), generator).unbind()
        return MoveDraw(boxes=boxes, sources=sources)

    def _draw_cells(
        self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return the source cell and the target cell of each image, both (B,), int64."""
        if self.uses_saliency:
            means = self._cell_means(images, check_given("saliency", saliency))
            return means.argmax(1), means.argmin(1)
        cells = self._cells_along(images) ** 2
        uniforms = torch.rand((2, len(images)), generator=generator, dtype=torch.float64, device=images.device)
        most = (uniforms[0] * cells).long()
        return most, (most + 1 + (uniforms[1] * (cells - 1)).long()) % cells

    def apply(self, images: Tensor, drawn: MoveDraw, augmented: Tensor | None) -> Tensor:
        return move_boxes(images, drawn.sources, drawn.boxes, self._patch_size(images))

    def __repr__(self) -> str:
        return f"SalfMix({self.grid}, ratio={self.ratio:g}, use_saliency={self.uses_saliency})"
