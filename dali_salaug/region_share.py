"""How much of an image's saliency a method keeps or cuts: a measurement during training, on the device."""

import torch
from torch import Tensor

from ._tensors import finite_or_zero
from .methods.base import BoxDraw, Draw, MaskDraw
from .methods.hybridmix import HybridMixDraw
from .methods.puzzlemix import PuzzleMixDraw


def region_share(saliency: Tensor, drawn: Draw, image_size: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
    """Return the share of each map's mass in the drawn region, and the region's share of the image's area.

    For a method that `keeps_region`, such as :class:`KeepPaste`, this is the share that was kept. For every other
    method it is the share that was cut away from the image itself (not from its partner). The two shares of a region
    drawn without saliency are equal on average. Nothing waits for the device.

    Args:
        saliency: of the images, (B, h, w), floating point, at any resolution; values that are not finite count as 0,
            and a map without mass as uniform.
        drawn: what the method drew. For HybridMix the region is that of its SalfMix; for PuzzleMix it is what is hidden
            of the image's blocks.
        image_size: (H, W).

    Returns:
        Two tensors (B,), float32 in [0, 1], which are 0 for an image without a region; None if the draw has no regions.
    """
    if isinstance(drawn, HybridMixDraw):
        drawn = drawn.first
    maps = finite_or_zero(saliency.float())
    grid = (maps.shape[-2], maps.shape[-1])
    if isinstance(drawn, PuzzleMixDraw):
        n = drawn.shares.shape[-1]
        rows, columns = (_covered(_unit_intervals(n, maps.device), n, cells) for cells in grid)
        mass = (rows @ maps @ columns.mT).flatten(1).gather(1, drawn.moves[:, 0].flatten(1)).view(-1, n, n)
        hidden = 1 - drawn.shares.float()
        return _share((hidden * mass).sum((1, 2)), maps.sum((1, 2)), hidden.mean((1, 2)))
    if isinstance(drawn, MaskDraw):
        rows, columns = (
            _covered(_unit_intervals(pixels, maps.device), pixels, cells)
            for pixels, cells in zip(image_size, grid, strict=True)
        )
        inside = rows.mT @ drawn.masks.squeeze(1).float() @ columns
    elif isinstance(drawn, BoxDraw):
        rows, columns = (_covered(drawn.boxes[:, axis::2].float(), image_size[axis], grid[axis]) for axis in (0, 1))
        inside = rows[:, :, None] * columns[:, None, :]
    else:
        return None
    return _share((inside * maps).sum((1, 2)), maps.sum((1, 2)), inside.mean((1, 2)))


def _covered(intervals: Tensor, length: int, cells: int) -> Tensor:
    """Return how much of each map cell along one axis the intervals (N, 2) in [0, length] cover: (N, cells)."""
    edges = torch.arange(cells + 1, device=intervals.device) * (length / cells)
    start, stop = intervals.split(1, 1)
    covered = torch.minimum(stop, edges[1:]) - torch.maximum(start, edges[:-1])
    return covered.clamp(min=0) * (cells / length)


def _unit_intervals(count: int, device: torch.device) -> Tensor:
    """Return the intervals [0, 1], [1, 2] … as (count, 2)."""
    start = torch.arange(count, device=device, dtype=torch.float32)
    return torch.stack([start, start + 1], 1)


def _share(inside: Tensor, mass: Tensor, area: Tensor) -> tuple[Tensor, Tensor]:
    """Return the share of the mass and that of the area, each (B,); a map without mass counts as uniform."""
    return torch.where(mass > 0, inside / mass, area).clamp(0, 1), area
