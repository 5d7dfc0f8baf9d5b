"""Regions of an image: the score of every candidate, the threshold by rank, and the uniform draw.

KeepAugment §3: eq. 1 (a region's score is the sum of the map inside it) and "Remark" (the threshold is a quantile of
the scores of all candidates; the region is drawn uniformly among those that pass it).

A candidate is a position on the *map's* grid, which may be coarser than the image; the region's size is scaled to
it and its place scaled back. All candidates of all images are handled at once, without a loop, a rejection or a
value read back to the host.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_region_fits

BORDERS = ("inside", "clip")


class Axis(NamedTuple):
    """One axis of the candidates: where the n of them begin and end (half-open), on the map and in the image."""

    map_start: Tensor
    map_stop: Tensor
    image_start: Tensor
    image_stop: Tensor


def candidate_axis(cells: int, pixels: int, size: int, border: str, device: torch.device) -> Axis:
    """The candidates along one axis, for a region of ``size`` image pixels.

    Args:
        cells: the map's length.
        pixels: the image's length.
        size: the region's length in image pixels, 1 ≤ size ≤ pixels.
        border: "inside", the region lies wholly in the image; "clip", its centre c is any position, it covers
            [c − ⌊size/2⌋, c − ⌊size/2⌋ + size) and is clipped to the image.
        device: of the result.

    Returns:
        Four int64 tensors (n,).
    """
    map_size = min(max(round(size * cells / pixels), 1), cells)
    if border == "inside":
        map_start = torch.arange(cells - map_size + 1, device=device)
        image_start = (map_start * pixels // cells).clamp(max=pixels - size)
        return Axis(map_start, map_start + map_size, image_start, image_start + size)
    centre = torch.arange(cells, device=device)
    map_start = centre - map_size // 2
    image_start = centre * pixels // cells - size // 2
    return Axis(
        map_start.clamp(min=0),
        (map_start + map_size).clamp(max=cells),
        image_start.clamp(min=0),
        (image_start + size).clamp(max=pixels),
    )


def region_scores(saliency: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """The score of every candidate: the sum of the map inside it (KeepAugment eq. 1).

    The map is put into fixed point first, per image, so that sums are exact whatever their order: regions with
    equal content tie, as those of a flat map must. Scores are therefore comparable within an image only. The
    resolution is 2⁻⁴⁶ of the map's peak at 224×224, finer than float32 resolves the map itself.

    Args:
        saliency: (B, h, w), floating point. Values that are not finite count as 0.
        rows, columns: candidates along the height (m of them) and the width (n).

    Returns:
        (B, m, n), int64.
    """
    bits = 62 - math.ceil(math.log2(saliency[0].numel()))  # so that the sum of the whole map fits into int64
    finite = saliency.double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    peak = finite.abs().amax((1, 2), keepdim=True)
    fixed = (finite / torch.where(peak > 0, peak, 1.0) * 2.0**bits).round().long()
    by_rows = _range_sums(fixed, rows.map_start, rows.map_stop, dim=1)
    return _range_sums(by_rows, columns.map_start, columns.map_stop, dim=2)


def _range_sums(values: Tensor, start: Tensor, stop: Tensor, dim: int) -> Tensor:
    """Sums of ``values`` over [start, stop) along ``dim``, from one running sum."""
    before_first = [0, 0] * (values.ndim - 1 - dim) + [1, 0]
    running = F.pad(values.cumsum(dim), before_first)
    return running.index_select(dim, stop) - running.index_select(dim, start)


def draw_candidates(scores: Tensor, uniforms: Tensor, *, tau: float, keep: str) -> Tensor:
    """One candidate for each image, uniform among those on one side of the τ-quantile of its scores.

    The quantile is the usual one (position τ·(N − 1) among N sorted scores, interpolated), used as a rank: "low"
    keeps every score ≤ it, "high" every score ≥ it. Ties at the threshold qualify, so a flat map is a uniform draw
    over all candidates.

    Args:
        scores: (B, N), int64.
        uniforms: (B,), float64 in [0, 1): the draw.
        tau: τ in [0, 1].
        keep: "low" (selective-cut) or "high" (selective-paste).

    Returns:
        (B,), int64 in [0, N).
    """
    position = tau * (scores.shape[1] - 1)
    if keep == "low":
        rank = math.floor(position + 1e-9)  # the tolerance: 0.6 · 15 is 9, in floats a little less
        qualifies = scores <= scores.kthvalue(rank + 1, dim=1, keepdim=True).values
    else:
        rank = math.ceil(position - 1e-9)
        qualifies = scores >= scores.kthvalue(rank + 1, dim=1, keepdim=True).values
    running = qualifies.cumsum(1, dtype=torch.int32)
    count = running[:, -1:]
    nth = torch.minimum((uniforms[:, None] * count).int(), count - 1) + 1
    return torch.searchsorted(running, nth).squeeze(1)


def draw_boxes(
    image_size: tuple[int, int],
    size: tuple[int, int],
    uniforms: Tensor,
    *,
    border: str,
    saliency: Tensor | None = None,
    tau: float = 0.6,
    keep: str = "low",
) -> Tensor:
    """One region for each image: uniform among the candidates that the saliency admits, or among all without one.

    Args:
        image_size: the image's (H, W).
        size: the region's (height, width) in image pixels, not larger than the image.
        uniforms: (B,), float64 in [0, 1), on the images' device: the draw.
        border: "inside" or "clip", see :func:`candidate_axis`.
        saliency: (B, h, w), at any resolution.
        tau, keep: see :func:`draw_candidates`.

    Returns:
        Boxes (B, 4), int64: top, left, bottom, right in image pixels, half-open, clipped to the image.
    """
    grid = image_size if saliency is None else saliency.shape[-2:]
    rows = candidate_axis(grid[0], image_size[0], size[0], border, uniforms.device)
    columns = candidate_axis(grid[1], image_size[1], size[1], border, uniforms.device)
    if saliency is None:
        candidates = len(rows.map_start) * len(columns.map_start)
        chosen = (uniforms * candidates).long().clamp(max=candidates - 1)
    else:
        chosen = draw_candidates(region_scores(saliency, rows, columns).flatten(1), uniforms, tau=tau, keep=keep)
    row, column = chosen // len(columns.map_start), chosen % len(columns.map_start)
    corners = (
        rows.image_start[row],
        columns.image_start[column],
        rows.image_stop[row],
        columns.image_stop[column],
    )
    return torch.stack(corners, 1)


def default_length(image_size: tuple[int, int]) -> int:
    """The side of the square region: 16 at 32×32 and 40 at 224×224 (KeepAugment §4), on a straight line between.

    At other sizes the line goes on, up to the image's shorter side.
    """
    side = min(image_size)
    return min(12 + side // 8, side)


def draw_regions(
    images: Tensor,
    size: tuple[int, int] | None,
    generator: torch.Generator | None,
    *,
    border: str,
    saliency: Tensor | None = None,
    tau: float = 0.6,
    keep: str = "low",
) -> Tensor:
    """Boxes for a batch: :func:`draw_boxes` with the draw made by ``generator`` and a default for ``size``.

    Args:
        images: (B, C, H, W); only their shape and device are used.
        size: the region's (height, width); None for a square of :func:`default_length`.
        generator: on the images' device; the global one where it is None.
        border, saliency, tau, keep: see :func:`draw_boxes`.

    Raises:
        ValueError: where the region is larger than the images.
    """
    image_size = (images.shape[-2], images.shape[-1])
    size = size or (default_length(image_size), default_length(image_size))
    check_region_fits(size, images)
    uniforms = torch.rand(len(images), generator=generator, dtype=torch.float64, device=images.device)
    return draw_boxes(image_size, size, uniforms, border=border, saliency=saliency, tau=tau, keep=keep)
