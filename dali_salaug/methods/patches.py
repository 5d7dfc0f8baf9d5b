"""SalfMix's cells and patches: the map averaged over a grid, and a patch placed around one of its cells."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_number, check_whole_number
from .._tensors import finite_or_zero
from .base import DrawT, Method


class PatchMethod(Method[DrawT]):
    """A method that places patches around cells of a grid over the image (SalfMix §4.3).

    Along an axis, cell i reaches from ⌊i · pixels / n⌋ to ⌈(i + 1) · pixels / n⌉, as in adaptive pooling. These are the
    paper's cells where n divides the side, and always n cells.

    Args:
        grid: n, the cells along a side; by default 4 below 64 pixels and 8 from 64 pixels on.
        ratio: side of the patch over side of the image, in (0, 1]. It must be at least 1 / n, so that a patch covers a
            cell.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    def __init__(self, grid: int | None, ratio: float) -> None:
        if grid is not None:
            check_whole_number("grid", grid, 1, of=" of cells along a side")
        check_number("ratio", ratio, 0, 1, open_low=True)
        finest = grid or 8
        if ratio * finest < 1 - 1e-9:
            raise ValueError(
                f"ratio must make the patch cover a cell, at least 1/{finest} with a grid of {finest}×{finest} cells; "
                f"got {ratio!r}"
            )
        self.grid = grid
        self.ratio = ratio

    def _cells_along(self, images: Tensor) -> int:
        return self.grid or (4 if min(images.shape[-2:]) < 64 else 8)

    def _cell_means(self, images: Tensor, saliency: Tensor) -> Tensor:
        """Return the map's mean in each cell, (B, n²), float64; the cells of a flat map are exactly equal.

        Values that are not finite count as 0. Of equal cells, argmax and argmin return the first.
        """
        finite = finite_or_zero(saliency.double())
        return F.adaptive_avg_pool2d(finite[:, None], self._cells_along(images)).flatten(1)

    def _draw_patches(self, images: Tensor, cells: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw patches uniformly among those in the image that contain their cells.

        Args:
            images: (B, C, H, W).
            cells: (P, B), int64: of P patches of each image.
            generator: on the images' device; None for the global one.

        Returns:
            Boxes (P, B, 4), int64.
        """
        grid, (height, width), patch = self._cells_along(images), images.shape[-2:], self._patch_size(images)
        shape = len(cells), 2, len(images)
        uniforms = torch.rand(shape, generator=generator, dtype=torch.float64, device=images.device)
        top = self._draw_start(cells // grid, height, grid, patch[0], uniforms[:, 0])
        left = self._draw_start(cells % grid, width, grid, patch[1], uniforms[:, 1])
        return torch.stack([top, left, top + patch[0], left + patch[1]], 2)

    def _patch_size(self, images: Tensor) -> tuple[int, int]:
        height, width = images.shape[-2:]
        # The tolerance: 0.29 · 100 is 29, but slightly less in floats.
        return math.floor(height * self.ratio + 1e-9), math.floor(width * self.ratio + 1e-9)

    def _draw_start(self, cell: Tensor, pixels: int, grid: int, patch: int, uniforms: Tensor) -> Tensor:
        """Draw the start of the patch along one axis, from the index of its cell."""
        largest = max(-(-(i + 1) * pixels // grid) - i * pixels // grid for i in range(grid))
        if patch < largest:
            raise ValueError(
                f"ratio must make the patch cover a cell: with ratio={self.ratio:g} it has {patch} of {pixels} pixels, "
                f"a cell of the {grid}×{grid} grid {largest}; give a larger ratio or grid"
            )
        if pixels % grid == 0:
            cell_start = cell * (pixels // grid)
            cell_stop = cell_start + pixels // grid
        else:
            cell_start = cell * pixels // grid
            cell_stop = ((cell + 1) * pixels + (grid - 1)) // grid
        first = (cell_stop - patch).clamp_(min=0)
        last = cell_start.clamp(max=pixels - patch)
        return torch.minimum((uniforms * (last - first + 1)).long().add_(first), last)
