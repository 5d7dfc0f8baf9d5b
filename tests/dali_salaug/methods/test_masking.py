"""Hide-and-Seek, GridMask, FenceMask: masks against loops in float64, shares hidden, offsets; the compositing."""

import math

import pytest
import torch
from scipy import stats

from dali_salaug import FenceMask, GridMask, HideAndSeek
from dali_salaug.compositing import replace

SIDES = (26, 41)
METHODS = [HideAndSeek(), GridMask(), FenceMask()]


def draw(method, count=200, sides=SIDES, seed=0):
    masks = method.draw(torch.zeros(count, 1, *sides), None, torch.Generator().manual_seed(seed)).masks
    assert masks.dtype == torch.bool
    assert masks.shape == (count, 1, *sides)
    return masks[:, 0]


def replayed(numbers, count, seed=0):
    """The numbers in [0, 1) that the method drew, one row for each image."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((numbers, count, 1), generator=generator, dtype=torch.float64)[:, :, 0].T.tolist()


def patches(mask, size):
    return [
        mask[top : top + size, left : left + size]
        for top in range(0, mask.shape[0], size)
        for left in range(0, mask.shape[1], size)
    ]


def test_hide_and_seek_hides_whole_patches_independently():
    masks = draw(HideAndSeek((7,), probability=0.3), 2000)
    hidden = torch.empty(2000, 4, 6)
    for image, mask in enumerate(masks):
        for place, patch in enumerate(patches(mask, 7)):
            assert patch.all() or not patch.any()
            hidden[image, place // 6, place % 6] = patch[0, 0]
    assert stats.binomtest(int(hidden.sum()), hidden.numel(), 0.3).pvalue > 1e-3
    correlations = torch.corrcoef(hidden.flatten(1).T) - torch.eye(24)
    assert correlations.abs().max() < 0.1


def test_hide_and_seek_draws_a_size_for_each_image():
    masks = draw(HideAndSeek((0, 4, 9)), 1200, (36, 72))
    counts = {0: 0, 4: 0, 9: 0}
    for mask in masks:
        fits = [size for size in (4, 9) if all(patch.all() or not patch.any() for patch in patches(mask, size))]
        # Each of 32 patches or more is hidden with probability one half: none is, only where nothing is to be hidden.
        counts[fits[0] if mask.any() else 0] += 1
        assert len(fits) == (1 if mask.any() else 2)
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize(("side", "sizes"), [(224, {16, 32, 44, 56}), (32, {2, 5, 6, 8}), (448, {32, 64, 88, 112})])
def test_hide_and_seeks_default_sizes_are_the_authors_at_224(side, sizes):
    masks = draw(HideAndSeek(), 60, (side, side + 10))
    found = {
        next(size for size in sorted(sizes, reverse=True) if all(p.all() or not p.any() for p in patches(mask, size)))
        for mask in masks
        if mask.any()
    }
    assert found == sizes


def turned(sides, angle):
    """Each pixel's centre relative to the image's, turned by ``angle`` degrees, as (down, across)."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for row in range(sides[0]):
        for column in range(sides[1]):
            y, x = row + 0.5 - sides[0] / 2, column + 0.5 - sides[1] / 2
            yield row, column, cos * y - sin * x, sin * y + cos * x


def on_an_edge(phase, edge, period):
    """Where float32 may fall on the other side."""
    return min(abs(phase - edge), phase, period - phase) < 1e-3


@pytest.mark.parametrize("rotate", [1, 360])
def test_grid_mask_is_the_loops(rotate):
    method = GridMask((0.2, 0.9), ratio=0.45, rotate=rotate, probability=0.7)
    masks = draw(method, 40)
    for mask, (unit, angle, down, across, masked) in zip(masks, replayed(5, 40), strict=True):
        period = math.floor(26 * (0.2 + 0.7 * unit))
        hole = period - int(period * 0.45 + 0.5)
        angle, down, across = math.floor(angle * rotate), math.floor(down * period), math.floor(across * period)
        for row, column, y, x in turned(SIDES, angle):
            phases = (y + down) % period, (x + across) % period
            expected = masked < 0.7 and max(phases) < hole
            same = mask[row, column] == expected
            assert same or any(on_an_edge(phase, hole, period) for phase in phases)


@pytest.mark.parametrize("rotate", [1, 360])
def test_fence_mask_is_the_loops(rotate):
    method = FenceMask((0.04, 0.2), (0.1, 0.5), rotate=rotate, probability=0.7)
    masks = draw(method, 40)
    for mask, numbers in zip(masks, replayed(8, 40), strict=True):
        strips = [max(round(26 * (0.04 + 0.16 * number)), 1) for number in numbers[:2]]
        periods = [strip + round(26 * (0.1 + 0.4 * number)) for strip, number in zip(strips, numbers[2:4], strict=True)]
        angle = math.floor(numbers[4] * rotate)
        offsets = [math.floor(number * period) for number, period in zip(numbers[5:7], periods, strict=True)]
        for row, column, *place in turned(SIDES, angle):
            phases = [(p + offset) % period for p, offset, period in zip(place, offsets, periods, strict=True)]
            expected = numbers[7] < 0.7 and any(phase < strip for phase, strip in zip(phases, strips, strict=True))
            same = mask[row, column] == expected
            assert same or any(map(on_an_edge, phases, strips, periods))


def test_grid_mask_hides_one_square_in_each_unit():
    masks = draw(GridMask((0.25, 0.25), ratio=0.6, rotate=1, probability=1.0), 4000, (32, 64))
    # d = 8, squares of 8 − ⌊0.6 · 8 + ½⌋ = 3: whole units, whatever the offsets.
    assert (masks.flatten(1).sum(1) == (32 // 8) * (64 // 8) * 9).all()
    # Every offset, down and across, is equally likely.
    rows, columns = masks.any(2).int(), masks.any(1).int()
    for lines in (rows, columns):
        edges = (lines[:, 1:9] > lines[:, :8]).int().argmax(1)
        assert stats.chisquare(edges.bincount(minlength=8)).pvalue > 1e-3


@pytest.mark.parametrize("sides", [(224, 224), (32, 32), (96, 160)])
def test_shares_hidden_by_default(sides):
    count = 200
    grid = draw(GridMask(probability=1.0), count, sides).float().mean((1, 2))
    # (1 − r)², to within the roundings of d and of its share.
    assert abs(grid.mean() - 0.16) < 0.025
    fence = draw(FenceMask(probability=1.0), count, sides).float().mean((1, 2))
    assert abs(fence.mean() - 0.4) < 0.06
    assert fence.max() < 0.8
    hide = draw(HideAndSeek(), count, sides).float().mean((1, 2))
    assert abs(hide.mean() - 0.4) < 0.04  # one half, but for the size 0 of five


def test_probability_is_that_of_an_image():
    for method in (GridMask(probability=0.3), FenceMask(probability=0.3)):
        masked = draw(method, 3000, (32, 32)).flatten(1).any(1)
        assert stats.binomtest(int(masked.sum()), 3000, 0.3).pvalue > 1e-3
    assert not draw(HideAndSeek(probability=0.0)).any()


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_only_what_is_masked_is_written(method, memory_format, dtype):
    images = torch.randn(8, 3, *SIDES, dtype=dtype).contiguous(memory_format=memory_format)
    before = images.clone()
    method.fill = 0.25
    drawn = method.draw(images, None, torch.Generator().manual_seed(2))
    inputs = method.apply(images, drawn, None)
    assert inputs.dtype == dtype
    assert inputs.is_contiguous(memory_format=memory_format)
    assert torch.equal(images, before)
    for image, was, mask in zip(inputs, before, drawn.masks[:, 0], strict=True):
        for channel in range(3):
            assert (image[channel][mask] == 0.25).all()
            assert torch.equal(image[channel][~mask], was[channel][~mask])
    labels = torch.arange(8)
    assert method.targets(labels, drawn, SIDES) is labels


def test_replace_takes_another_batch():
    images, other = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    masks = torch.rand(2, 1, 4, 5) < 0.5
    assert torch.equal(replace(images, masks, other), images * ~masks + other * masks)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (HideAndSeek, {"sizes": (16, -1)}, "each of sizes must be a whole number of pixels, 0 or more; got -1"),
        (HideAndSeek, {"sizes": (0, 0)}, r"sizes must have one above 0; got \(0, 0\)"),
        (HideAndSeek, {"sizes": 16}, "sizes must be whole numbers of pixels in a tuple or list; got 16"),
        (HideAndSeek, {"sizes": (True, 16)}, "each of sizes must be a whole number of pixels, 0 or more; got True"),
        (HideAndSeek, {"probability": 2}, r"probability must be a number in \[0, 1\]; got 2"),
        (GridMask, {"unit": (0.5, 0.2)}, r"unit must be \(least, greatest\) with 0 < least <= greatest"),
        (GridMask, {"ratio": 1.5}, r"ratio must be a number in \[0, 1\]; got 1.5"),
        (GridMask, {"rotate": 0}, "rotate must be a whole number of degrees from 1 to 360; got 0"),
        (GridMask, {"fill": "mean"}, "fill must be a number"),
        (FenceMask, {"strip": (0.0, 0.1)}, "strip must be"),
        (FenceMask, {"gap": (0.1,)}, "gap must be"),
    ],
)
def test_bad_options_are_named(method, options, message):
    with pytest.raises(ValueError, match=message):
        method(**options)
