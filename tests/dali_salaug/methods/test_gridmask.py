"""GridMask: its masks against a loop in float64, its squares and offsets."""

import math

import pytest
from scipy import stats

from dali_salaug import GridMask

SIDES = (26, 41)


@pytest.mark.parametrize("rotate", [1, 360])
def test_the_mask_is_the_loops(draw_masks, replayed_numbers, turned_pixels, on_an_edge, rotate):
    method = GridMask((0.2, 0.9), ratio=0.45, rotate=rotate, probability=0.7)
    masks = draw_masks(method, 40)
    for mask, (unit, angle, down, across, masked) in zip(masks, replayed_numbers(5, 40), strict=True):
        period = math.floor(26 * (0.2 + 0.7 * unit))
        hole = period - math.ceil(period * 0.45)  # the authors' l
        angle, down, across = math.floor(angle * rotate), math.floor(down * period), math.floor(across * period)
        for row, column, y, x in turned_pixels(SIDES, angle):
            phases = (y + down) % period, (x + across) % period
            expected = masked < 0.7 and max(phases) < hole
            same = mask[row, column] == expected
            assert same or any(on_an_edge(phase, hole, period) for phase in phases)


def test_it_hides_one_square_in_each_unit(draw_masks):
    masks = draw_masks(GridMask((0.25, 0.25), ratio=0.6, rotate=1, probability=1.0), 4000, (32, 64))
    # d = 8, squares of 8 − ⌈0.6 · 8⌉ = 3: whole units, whatever the offsets.
    assert (masks.flatten(1).sum(1) == (32 // 8) * (64 // 8) * 9).all()
    # Every offset, down and across, is equally likely.
    rows, columns = masks.any(2).int(), masks.any(1).int()
    for lines in (rows, columns):
        edges = (lines[:, 1:9] > lines[:, :8]).int().argmax(1)
        assert stats.chisquare(edges.bincount(minlength=8)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": (0.5, 0.2)}, r"unit must be \(least, greatest\) with 0 < least <= greatest"),
        ({"ratio": 1.5}, r"ratio must be a number in \[0, 1\]; got 1.5"),
        ({"rotate": 0}, "rotate must be a whole number of degrees from 1 to 360; got 0"),
        ({"rotate": True}, "rotate must be .*; got True"),
        ({"fill": "mean"}, "fill must be a number"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GridMask(**options)
