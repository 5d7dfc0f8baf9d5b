"""SalfMix: its cells, the placements of its patches and its pixels, against loops in float64."""

import pytest
import torch
from scipy import stats

from dali_salaug import MoveDraw, SalfMix, salfmix
from dali_salaug.compositing import move_boxes


def oracle_cell(index, side, grid):
    return index * side // grid, -(-(index + 1) * side // grid)


def oracle_cells(saliency, grid):
    """The most and the least salient cell of one map, (row, column), the first of equals."""
    means = {}
    for i in range(grid):
        for j in range(grid):
            top, bottom = oracle_cell(i, saliency.shape[0], grid)
            left, right = oracle_cell(j, saliency.shape[1], grid)
            values = [float(saliency[y, x]) for y in range(top, bottom) for x in range(left, right)]
            means[i, j] = sum(v if abs(v) < float("inf") else 0.0 for v in values) / len(values)  # NaN < inf is False
    return max(means, key=lambda cell: (means[cell], -cell[0], -cell[1])), min(means, key=means.get)


def oracle_placements(cell, sides, grid, ratio):
    """(top, left) of every patch that contains the cell and lies in the image."""
    axes = []
    for index, side in zip(cell, sides, strict=True):
        start, stop = oracle_cell(index, side, grid)
        patch = int(side * ratio)
        axes.append([s for s in range(side - patch + 1) if s <= start and stop <= s + patch])
    return [(top, left) for top in axes[0] for left in axes[1]]


@pytest.mark.parametrize(
    ("sides", "map_size", "grid", "ratio"),
    [
        ((32, 32), (16, 16), 4, 0.3),  # the paper's
        ((32, 48), (16, 24), 5, 0.25),  # not square, the grid divides none of the sides
        ((33, 29), (33, 29), 3, 0.4),
        ((64, 70), (32, 35), None, 0.2),  # 8 cells from 64 pixels on
        ((16, 80), (8, 40), None, 0.35),  # 4, by the shorter side
    ],
)
def test_pairs_of_placements_are_equally_likely(sides, map_size, grid, ratio):
    n = grid or {64: 8, 16: 4}[sides[0]]
    maps = torch.rand(2, *map_size, generator=torch.Generator().manual_seed(3))
    maps[0, 2, 3], maps[1, 5, 5], maps[1, 0, 7] = float("nan"), float("inf"), -float("inf")
    for saliency in maps:
        most, least = oracle_cells(saliency, n)
        assert most != least
        sources = oracle_placements(most, sides, n, ratio)
        targets = oracle_placements(least, sides, n, ratio)
        count = 60 * len(sources) * len(targets)
        drawn = SalfMix(grid, ratio=ratio).draw(
            torch.empty(count, 0, *sides), saliency.expand(count, -1, -1), torch.Generator().manual_seed(1)
        )
        patch = [int(side * ratio) for side in sides]
        for boxes in (drawn.sources, drawn.boxes):
            assert (boxes[:, 2:] - boxes[:, :2] == torch.tensor(patch)).all()
        pairs = torch.cat([drawn.sources[:, :2], drawn.boxes[:, :2]], 1)
        seen, counts = pairs.unique(dim=0, return_counts=True)
        assert {tuple(pair) for pair in seen.tolist()} == {s + t for s in sources for t in targets}
        assert stats.chisquare(counts.numpy()).pvalue > 0.001


@pytest.mark.parametrize("shape", [(5, 3, 32, 32), (6, 1, 30, 41), (4, 2, 64, 66)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_pixels_by_a_loop(move_box, shape, layout, dtype):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(shape, generator=generator).to(dtype, memory_format=layout)
    saliency, before = torch.rand(shape[0], 11, 13, generator=generator), images.clone()
    for method_grid, n in ((4, 4), (5, 5)):
        mixed, sources, targets = salfmix(images, saliency, grid=method_grid, ratio=0.4, generator=generator)
        for i in range(shape[0]):
            source, target = sources[i].tolist(), targets[i].tolist()
            most, least = oracle_cells(saliency[i], n)
            assert tuple(source[:2]) in oracle_placements(most, shape[2:], n, 0.4)
            assert tuple(target[:2]) in oracle_placements(least, shape[2:], n, 0.4)
            assert torch.equal(mixed[i], move_box(images[i], source, target))
        assert torch.equal(images, before)
        assert mixed.dtype == dtype
        assert mixed.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (-2, 3), (4, -1), (-5, -5)])
def test_overlapping_boxes_are_read_before_they_are_written(move_box, shift):
    images = torch.arange(2 * 3 * 20 * 21).float().view(2, 3, 20, 21)
    before, target = images.clone(), torch.tensor([[6, 7, 12, 14], [5, 6, 11, 13]])
    source = target + torch.tensor([*shift, *shift])
    moved = move_boxes(images, source, target, (6, 7))
    for i in range(2):
        assert torch.equal(moved[i], move_box(images[i], source[i].tolist(), target[i].tolist()))
    assert torch.equal(images, before)
    assert moved.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("value", [0.1, 1e-30, 3e38, float("nan")])
def test_a_flat_map_takes_the_first_cell_for_both(value):
    """With a grid that does not divide the map, so that cells differ in size."""
    saliency = torch.full((50, 23, 17), value)
    _, sources, targets = salfmix(torch.zeros(50, 1, 40, 40), saliency, grid=5)
    for boxes in (sources, targets):
        assert (boxes[:, :2] == 0).all()


@pytest.mark.parametrize("sides", [(30, 30), (33, 45)])
def test_without_saliency_every_pair_of_two_cells_is_equally_likely(sides):
    method = SalfMix(3, ratio=1 / 3, use_saliency=False)  # a patch is a cell
    assert not method.uses_saliency
    drawn = method.draw(torch.empty(7200, 0, *sides), None, torch.Generator().manual_seed(0))
    side = torch.tensor(sides) // 3
    assert (drawn.sources[:, :2] % side == 0).all()
    cells = torch.cat([drawn.sources[:, :2] // side, drawn.boxes[:, :2] // side], 1)
    seen, counts = cells.unique(dim=0, return_counts=True)
    assert len(seen) == 9 * 8
    assert (seen[:, :2] != seen[:, 2:]).any(1).all()
    assert stats.chisquare(counts.numpy()).pvalue > 0.001


def test_a_grid_of_one_cell_is_the_whole_image():
    images = torch.randn(2, 3, 8, 8)
    for method in (SalfMix(1, ratio=1), SalfMix(1, ratio=1, use_saliency=False)):
        drawn = method.draw(images, torch.rand(2, 4, 4), None)
        assert drawn.boxes.tolist() == drawn.sources.tolist() == [[0, 0, 8, 8]] * 2
        assert torch.equal(method.apply(images, drawn, None), images)


def test_an_injected_draw_is_applied():
    images = torch.randn(1, 3, 8, 8)
    drawn = MoveDraw(boxes=torch.tensor([[0, 0, 2, 2]]), sources=torch.tensor([[5, 6, 7, 8]]))
    assert torch.equal(SalfMix().apply(images, drawn, None)[:, :, :2, :2], images[:, :, 5:7, 6:8])


def test_the_patch_has_the_floor_of_the_decimal_ratio():
    """0.29 · 100 is 28.999… in floats."""
    drawn = SalfMix(4, ratio=0.29).draw(torch.empty(1, 0, 100, 100), torch.rand(1, 4, 4), None)
    assert (drawn.boxes[0, 2:] - drawn.boxes[0, :2]).tolist() == [29, 29]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 0}, "grid must be a whole number of cells along a side, 1 or more; got 0"),
        ({"grid": 4, "ratio": 0.24}, "ratio must make the patch cover a cell, at least 1/4 with a grid of 4×4 cells"),
        ({"ratio": 0.12}, "at least 1/8"),
        ({"ratio": 1.1}, "ratio must be a number in"),
        ({"use_saliency": "no"}, "use_saliency must be True or False; got 'no'"),
    ],
)
def test_bad_options_are_refused_when_constructed(options, message):
    with pytest.raises(ValueError, match=message):
        SalfMix(**options)


def test_bad_batches_are_refused():
    images, saliency = torch.zeros(2, 3, 32, 32), torch.zeros(2, 16, 16)
    with pytest.raises(ValueError, match="images must be a floating-point tensor"):
        salfmix(images[0], saliency)
    with pytest.raises(ValueError, match=r"saliency must be a floating-point tensor \(B, h, w\) with B = 2"):
        salfmix(images, saliency[:1])
    with pytest.raises(ValueError, match="7 of 30 pixels, a cell of the 4×4 grid 8; give a larger ratio or grid"):
        salfmix(images[:, :, :30], saliency, ratio=0.25)
