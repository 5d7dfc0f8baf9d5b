"""Saliency-guided Cutout: the least salient patch is blanked, as SalfMix chooses it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_number, check_whole_number
from .compositing import replace_boxes
from .method import Draw, Method


class SaliencyCutout(Method):
    """A patch around the least salient cell of each image is blanked.

    SalfMix §6.2, with the cells and patches of §4.3. The map is averaged over a grid of n × n cells; the patch,
    ⌊side · ratio⌋ pixels in each direction, is placed uniformly among the positions that contain the least salient cell
    and lie in the image.

    Args:
        grid: n; by default 4 below 64 pixels and 8 from there on.
        ratio: side of the patch over side of the image, in (0, 1]. A patch must cover a cell.
        fill: the value written; 0 is the mean of normalised images.
    """

    uses_saliency = True

    def __init__(self, grid: int | None = None, *, ratio: float = 0.3, fill: float = 0.0) -> None:
        if grid is not None:
            check_whole_number("grid", grid, 1, of=" of cells along a side")
        check_number("ratio", ratio, 0, 1, open_low=True)
        self.grid = grid
        self.ratio = ratio
        self.fill = fill

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> Draw:
        assert saliency is not None
        height, width = images.shape[-2:]
        grid = self.grid or (4 if min(height, width) < 64 else 8)
        cells = F.adaptive_avg_pool2d(saliency.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)[:, None], grid)
        least = cells.flatten(1).argmin(1)
        uniforms = torch.rand((2, len(images)), generator=generator, dtype=torch.float64, device=images.device)
        top, bottom = self._patch(least // grid, height, grid, uniforms[0])
        left, right = self._patch(least % grid, width, grid, uniforms[1])
        return Draw(torch.stack([top, left, bottom, right], 1))

    def _patch(self, cell: Tensor, pixels: int, grid: int, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Begin and end of the patch along one axis, given its cell there."""
        patch = int(pixels * self.ratio)
        largest = max(-(-(i + 1) * pixels // grid) - i * pixels // grid for i in range(grid))
        if patch < largest:
            raise ValueError(
                f"ratio must make the patch cover a cell: with ratio={self.ratio:g} it has {patch} of {pixels} pixels, "
                f"a cell of the {grid}×{grid} grid {largest}; give a larger ratio or grid"
            )
        cell_start = cell * pixels // grid
        cell_stop = -(-(cell + 1) * pixels // grid)
        first = (cell_stop - patch).clamp(min=0)
        last = cell_start.clamp(max=pixels - patch)
        start = torch.minimum(first + (uniforms * (last - first + 1)).long(), last)
        return start, start + patch

    def apply(self, images: Tensor, drawn: Draw, augmented: Tensor | None) -> Tensor:
        assert drawn.boxes is not None
        return replace_boxes(images, drawn.boxes, self.fill)

    def __repr__(self) -> str:
        return f"SaliencyCutout({self.grid}, ratio={self.ratio:g}, fill={self.fill:g})"
