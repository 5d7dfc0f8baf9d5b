"""DropCutout: its square and pixels, against a loop over all squares."""

import pytest
import torch

from dali_salaug import DropCutout


@pytest.mark.parametrize(("sides", "size"), [((16, 16), 6), ((15, 22), (5, 9)), ((32, 20), None)])
def test_the_square_with_the_greatest_mean_is_blank_and_nothing_else(sides, size):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, *sides, generator=generator)
    saliency = torch.rand(4, *sides, generator=generator)
    saliency[0, 2, 3] = float("nan")
    before = images.clone()
    high, wide = {None: (14, 14), 6: (6, 6)}.get(size, size)  # 12 + 20 / 8
    method = DropCutout(size, fill=0.25)
    drawn = method.draw(images, saliency, generator)
    inputs = method.apply(images, drawn, None)
    assert torch.equal(images, before)
    for image, scores, box, got in zip(images, saliency.nan_to_num(0.0).double(), drawn.boxes, inputs, strict=True):
        means = {
            (top, left): scores[top : top + high, left : left + wide].mean().item()
            for top in range(sides[0] - high + 1)
            for left in range(sides[1] - wide + 1)
        }
        top, left = max(means, key=lambda place: means[place])
        assert box.tolist() == [top, left, top + high, left + wide]
        expected = image.clone()
        expected[:, top : top + high, left : left + wide] = 0.25
        assert torch.equal(got, expected)


def test_of_equal_squares_one_is_drawn_uniformly():
    saliency = torch.zeros(4000, 8, 8)
    saliency[:, 1, 1] = saliency[:, 6, 6] = 1.0
    boxes = DropCutout(1).draw(torch.zeros(4000, 1, 8, 8), saliency, torch.Generator().manual_seed(0)).boxes
    places, counts = boxes[:, :2].unique(dim=0, return_counts=True)
    assert places.tolist() == [[1, 1], [6, 6]]
    assert counts.min() > 1850


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be"),
        ({"fill": "mean"}, r"fill must be a number in \[-inf, inf\]; got 'mean'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DropCutout(**options)
    with pytest.raises(ValueError, match="9"):
        DropCutout(9).draw(torch.zeros(1, 1, 8, 8), torch.zeros(1, 8, 8), None)
