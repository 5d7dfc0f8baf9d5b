"""FenceMask: its masks against a loop in float64."""

import math

import pytest

from dali_salaug import FenceMask

SIDES = (26, 41)


@pytest.mark.parametrize("rotate", [1, 360])
def test_the_mask_is_the_loops(draw_masks, replayed_numbers, turned_pixels, on_an_edge, rotate):
    method = FenceMask((0.04, 0.2), (0.1, 0.5), rotate=rotate, probability=0.7)
    masks = draw_masks(method, 40)
    for mask, numbers in zip(masks, replayed_numbers(8, 40), strict=True):
        strips = [max(round(26 * (0.04 + 0.16 * number)), 1) for number in numbers[:2]]
        periods = [strip + round(26 * (0.1 + 0.4 * number)) for strip, number in zip(strips, numbers[2:4], strict=True)]
        angle = math.floor(numbers[4] * rotate)
        offsets = [math.floor(number * period) for number, period in zip(numbers[5:7], periods, strict=True)]
        for row, column, *place in turned_pixels(SIDES, angle):
            phases = [(p + offset) % period for p, offset, period in zip(place, offsets, periods, strict=True)]
            expected = numbers[7] < 0.7 and any(phase < strip for phase, strip in zip(phases, strips, strict=True))
            same = mask[row, column] == expected
            assert same or any(map(on_an_edge, phases, strips, periods))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strip": (0.0, 0.1)}, "strip must be"),
        ({"gap": (0.1,)}, "gap must be"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FenceMask(**options)
