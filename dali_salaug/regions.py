"""Regions of an image: the score of every candidate, the threshold by rank, and the uniform draw.

KeepAugment §3: eq. 1 (a region's score, see :func:`region_scores`) and "Remark" (the threshold is a quantile of the
scores of all candidates; the region is drawn uniformly among those that pass it).

A candidate is a position on the *map's* grid, which may be coarser than the image. The region's size is scaled to the
map, and its place is scaled back. All candidates of all images are handled at once, without a loop, without rejection
sampling and without reading a value back to the host.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_region_fits

BORDERS = ("inside", "clip")


class Axis(NamedTuple):
    """One axis of the candidates: where on the map each of the n begins and ends (half-open).

    S is B where every image has its own region size, and 1 where all share one.
    """

    start: Tensor  # (S, n), int64, like the next one
    stop: Tensor
    valid: Tensor  # (S, n), bool: the leading positions that are candidates
    number: Tensor | int  # of these: (S,), int64; or one number, which the host knows


def candidate_axis(
    cells: int, pixels: int, size: Tensor | int, border: str, device: torch.device | None = None
) -> Axis:
    """Return the candidates along one axis.

    Args:
        cells: the map's length.
        pixels: the image's length.
        size: the region's length in image pixels, in [0, pixels]: (S,), int64; or one number, which takes fewer
            launches.
        border: "inside": the region lies wholly in the image. "clip": its centre c is any position; it covers
            [c − ⌊size/2⌋, c − ⌊size/2⌋ + size) and is clipped to the image.
        device: with one number, that of the result.
    """
    place = torch.arange(cells, device=size.device if isinstance(size, Tensor) else device)[None]
    length = _map_length(cells, pixels, size)
    number = _number(cells, length, border)
    if isinstance(length, Tensor):
        length = length[:, None]
    if border == "inside":
        return Axis(place, (place + length).clamp(max=cells), place <= cells - length, number)
    start = place - length // 2
    valid = torch.ones_like(start, dtype=torch.bool)
    return Axis(start.clamp(min=0), (start + length).clamp(max=cells), valid, number)


def _map_length(cells: int, pixels: int, size: Tensor | int) -> Tensor | int:
    """Return the region's length on the map: ``size`` scaled, and at least 1."""
    if isinstance(size, Tensor):
        return (size if cells == pixels else (size.double() * cells / pixels).round().long()).clamp(1, cells)
    return min(max(round(size * cells / pixels), 1), cells)  # half to even, as torch rounds


def _number(cells: int, length: Tensor | int, border: str) -> Tensor | int:
    return cells if border == "clip" else cells - length + 1


def in_image(place: Tensor, cells: int, pixels: int, size: Tensor | int, border: str) -> tuple[Tensor, Tensor]:
    """Return where in the image a candidate at ``place`` (B,) of the map begins and ends; the rest as above."""
    if cells != pixels:
        place = place * pixels // cells
    if border == "inside":
        start = place.clamp(max=pixels - size)
        return start, start + size
    start = place - size // 2
    return start.clamp(min=0), (start + size).clamp(max=pixels)


def are_candidates(rows: Axis, columns: Axis) -> Tensor:
    """Return which pairs of positions are candidates, (S, n·m), bool, in the order of flattened `region_scores`."""
    return (rows.valid[:, :, None] & columns.valid[:, None, :]).flatten(1)


def region_scores(saliency: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Return the score of every candidate: the mean of the map inside it.

    KeepAugment eq. 1 sums the map, which orders candidates of one size alike. Squares clipped at the border hold fewer
    pixels; a sum would rank them low for being small.

    Equal means tie exactly. Each image's map is first converted to fixed point, which makes sums exact in any order;
    and a correctly rounded quotient is the same for equal fractions. So regions of equal content tie, as those of a
    flat map must. The unit is a power of two, at most 2⁻³⁶ of the map's peak at 224×224, finer than float32 resolves
    the map itself; whole numbers below 2³⁶ are not rounded at all. Scores are comparable only within an image.

    Args:
        saliency: (B, h, w), floating point. Values that are not finite count as 0.
        rows, columns: candidates along the height (m of them) and the width (n).

    Returns:
        (B, m, n), float64; without meaning where a candidate is not valid.
    """
    bits = 53 - math.ceil(math.log2(saliency[0].numel()))  # so that float64 holds the sum of the whole map
    # In place: at full resolution and with a large batch, each of these tensors takes a fifth of a gigabyte.
    finite = saliency.to(torch.float64, copy=True).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    exponent = torch.frexp(finite.abs().amax((1, 2), keepdim=True)).exponent.clamp(min=-900)
    fixed = finite.mul_(torch.exp2(bits - exponent.double())).round_().long()
    del finite
    by_rows = _range_sums(fixed, rows.start, rows.stop, dim=1)
    del fixed
    sums = _range_sums(by_rows, columns.start, columns.stop, dim=2)
    del by_rows
    heights, widths = rows.stop - rows.start, columns.stop - columns.start
    return sums.double().div_(heights[:, :, None] * widths[:, None])


def _range_sums(values: Tensor, start: Tensor, stop: Tensor, dim: int) -> Tensor:
    """Sum ``values`` (B, h, w) over [start, stop) along ``dim``, by means of one running sum."""
    before_first = [0, 0] * (2 - dim) + [1, 0]
    running = F.pad(values.cumsum(dim), before_first)
    return _take(running, stop, dim).sub_(_take(running, start, dim))


def _take(values: Tensor, places: Tensor, dim: int) -> Tensor:
    """Take ``values`` (B, h, w) at ``places`` (S, n) along ``dim``; with S = 1 all images share the places."""
    if len(places) == 1:
        return values.index_select(dim, places[0])
    index = (
        places[:, :, None].expand(-1, -1, values.shape[2])
        if dim == 1
        else places[:, None].expand(-1, values.shape[1], -1)
    )
    return values.gather(dim, index)


def admitted(scores: Tensor, valid: Tensor, *, tau: float, keep: str, number: int | None = None) -> Tensor:
    """Return which candidates are on one side of the τ-quantile of their image's scores.

    The quantile is the usual one (position τ·(N − 1) among N sorted scores, interpolated), used as a rank: "low"
    admits every score ≤ it, "high" every score ≥ it. Ties at the threshold qualify, so all candidates of a flat map do.

    Args:
        scores: (B, M), float64.
        valid: (S, M), bool: which of the M places are candidates. Their number N may differ between images.
        tau: τ in [0, 1].
        keep: "low" (selective-cut) or "high" (selective-paste).
        number: N, where it is the same for all images and the host knows it.

    Returns:
        (B, M), bool; true for at least one candidate of each image.
    """
    # The tolerance: 0.6 · 15 is 9, in floats a little less.
    if number is not None:
        whole = number == scores.shape[1]
        position = tau * (number - 1)
        rank = math.floor(position + 1e-9) if keep == "low" else math.ceil(position - 1e-9)
        threshold = _kth_value(scores if whole else torch.where(valid, scores, math.inf), rank)
        sided = scores <= threshold if keep == "low" else scores >= threshold
        return sided if whole else valid & sided
    # kthvalue sorts nothing, but takes one rank for all images, although N differs between them. So of the places that
    # are no candidates, as many are set below all scores of their image as make its own rank the common one; the rest
    # are set above.
    position = tau * (scores.shape[1] - 1)
    own = tau * (valid.sum(1, keepdim=True).double() - 1)
    if keep == "low":
        rank, own_rank = math.floor(position + 1e-9), (own + 1e-9).floor()
    else:
        rank, own_rank = math.ceil(position - 1e-9), (own - 1e-9).ceil()
    below = (~valid).cumsum(1, dtype=torch.int32) <= rank - own_rank
    ranked = torch.where(valid, scores, math.inf).masked_fill_(below & ~valid, -math.inf)
    threshold = _kth_value(ranked, rank)
    del ranked
    return valid & (scores <= threshold if keep == "low" else scores >= threshold)


def _kth_value(values: Tensor, rank: int) -> Tensor:
    """Return the value of one rank, from 0, in each row of ``values`` (B, M): (B, 1)."""
    if torch.are_deterministic_algorithms_enabled():
        # kthvalue then raises on a GPU, for the index that it returns too: among equal values it is any of theirs.
        return values.sort(1).values[:, rank, None]
    return values.kthvalue(rank + 1, dim=1, keepdim=True).values


def draw_candidates(
    scores: Tensor, valid: Tensor, uniforms: Tensor, *, tau: float, keep: str, number: int | None = None
) -> Tensor:
    """Draw one candidate for each image, uniformly among those that are :func:`admitted`.

    Args:
        scores, valid, tau, keep, number: as for :func:`admitted`.
        uniforms: (B,), float64 in [0, 1): the random numbers.

    Returns:
        (B,), int64 in [0, M).
    """
    running = admitted(scores, valid, tau=tau, keep=keep, number=number).cumsum(1, dtype=torch.int32)
    count = running[:, -1:]
    nth = torch.minimum((uniforms[:, None] * count).int(), count - 1) + 1
    return torch.searchsorted(running, nth).squeeze(1)


def draw_boxes(
    image_size: tuple[int, int],
    size: Tensor | tuple[int, int],
    uniforms: Tensor,
    *,
    border: str,
    saliency: Tensor | None = None,
    tau: float = 0.6,
    keep: str = "low",
) -> Tensor:
    """Draw one region for each image, uniformly among the candidates that the saliency admits; without one, among all.

    Args:
        image_size: the image's (H, W).
        size: the regions' height and width in image pixels, not larger than the image: (S, 2), int64, S = B or 1; or
            two numbers.
        uniforms: (B,), float64 in [0, 1), on the images' device: the random numbers.
        border: "inside" or "clip", see :func:`candidate_axis`.
        saliency: (B, h, w), at any resolution.
        tau, keep: see :func:`admitted`.

    Returns:
        Boxes (B, 4), int64: top, left, bottom, right in image pixels, half-open, clipped to the image.
    """
    grid = image_size if saliency is None else (saliency.shape[-2], saliency.shape[-1])
    sizes: tuple[Tensor | int, ...] = size.unbind(1) if isinstance(size, Tensor) else size
    across: Tensor | int
    if saliency is None:
        of_rows, across = (
            _number(pixels, _map_length(pixels, pixels, length), border)
            for pixels, length in zip(image_size, sizes, strict=True)
        )
        number = of_rows * across
        chosen = (uniforms * number).long().clamp(max=number - 1)
    else:
        rows, columns = (
            candidate_axis(cells, pixels, length, border, uniforms.device)
            for cells, pixels, length in zip(grid, image_size, sizes, strict=True)
        )
        valid = are_candidates(rows, columns)
        scores = region_scores(saliency, rows, columns).flatten(1)
        number, across = rows.number * columns.number, grid[1]
        known = number if isinstance(number, int) else None
        chosen = draw_candidates(scores, valid, uniforms, tau=tau, keep=keep, number=known)
    top, bottom = in_image(chosen // across, grid[0], image_size[0], sizes[0], border)
    left, right = in_image(chosen % across, grid[1], image_size[1], sizes[1], border)
    return torch.stack([top, left, bottom, right], 1)


def default_length(image_size: tuple[int, int]) -> int:
    """Return the side of the square region: 16 at 32×32 and 40 at 224×224 (KeepAugment §4), linear in the image's side.

    It never exceeds the image's shorter side.
    """
    side = min(image_size)
    return min(12 + side // 8, side)


def draw_regions(
    images: Tensor,
    size: tuple[int, int] | Tensor | None,
    generator: torch.Generator | None,
    *,
    border: str,
    saliency: Tensor | None = None,
    tau: float = 0.6,
    keep: str = "low",
) -> Tensor:
    """Draw boxes for a batch: :func:`draw_boxes` with random numbers from ``generator`` and a default for ``size``.

    Args:
        images: (B, C, H, W); only their shape and device are used.
        size: the region's (height, width); or (B, 2), int64, one for each image, which must fit; None for a square of
            :func:`default_length`.
        generator: on the images' device; None for the global one.
        border, saliency, tau, keep: see :func:`draw_boxes`.

    Raises:
        ValueError: where the region is larger than the images.
    """
    image_size = (images.shape[-2], images.shape[-1])
    if not isinstance(size, Tensor):
        height, width = size or (default_length(image_size),) * 2
        check_region_fits((height, width), images)
        size = height, width
    uniforms = torch.rand(len(images), generator=generator, dtype=torch.float64, device=images.device)
    return draw_boxes(image_size, size, uniforms, border=border, saliency=saliency, tau=tau, keep=keep)
