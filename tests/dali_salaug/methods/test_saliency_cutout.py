"""Saliency-guided Cutout: its cell and the placements of its patch, against a loop."""

import pytest
import torch

from dali_salaug import SaliencyCutout


def oracle_axis(cell, pixels, grid, patch):
    """All starts of the patch that contain the cell and lie in the image."""
    start, stop = cell * pixels // grid, -(-(cell + 1) * pixels // grid)
    return [s for s in range(pixels - patch + 1) if s <= start and stop <= s + patch]


@pytest.mark.parametrize(
    ("sides", "map_size", "grid"), [((32, 32), (32, 32), 4), ((32, 48), (16, 24), 5), ((64, 70), (32, 35), None)]
)
def test_every_placement_around_the_least_salient_cell_is_equally_likely(sides, map_size, grid):
    saliency = torch.rand(3, *map_size, generator=torch.Generator().manual_seed(0))
    saliency[0, 2, 3] = float("nan")
    method = SaliencyCutout(grid, ratio=0.4)
    n = grid or 8
    for image in range(3):
        clean = saliency[image].nan_to_num(0.0).double()
        means = torch.empty(n, n, dtype=torch.float64)
        for i in range(n):
            for j in range(n):
                rows = slice(i * map_size[0] // n, -(-(i + 1) * map_size[0] // n))
                columns = slice(j * map_size[1] // n, -(-(j + 1) * map_size[1] // n))
                means[i, j] = clean[rows, columns].mean()
        row, column = divmod(int(means.argmin()), n)
        patch = [int(side * 0.4) for side in sides]
        expected = {
            (top, left)
            for top in oracle_axis(row, sides[0], n, patch[0])
            for left in oracle_axis(column, sides[1], n, patch[1])
        }
        images = torch.ones(3000, 1, *sides)
        drawn = method.draw(images, saliency[image].expand(3000, -1, -1), torch.Generator().manual_seed(1))
        places, counts = drawn.boxes[:, :2].unique(dim=0, return_counts=True)
        assert {tuple(place) for place in places.tolist()} == expected
        assert counts.min() > 0.4 * 3000 / len(expected)
        assert (drawn.boxes[:, 2:] - drawn.boxes[:, :2] == torch.tensor(patch)).all()
    cut = method.apply(images, drawn, None)
    assert torch.equal((cut == 0).flatten(1).sum(1), torch.full((3000,), patch[0] * patch[1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 0}, "grid must be"),
        ({"ratio": 0}, "ratio must be"),
        ({"grid": 4, "ratio": 0.2}, "at least 1/4 with a grid of 4×4 cells; got 0.2"),
        ({"ratio": 0.1}, "at least 1/8"),
        ({"fill": "mean"}, r"fill must be a number in \[-inf, inf\]; got 'mean'"),
        ({"ratio": 0.2}, "6 of 32 pixels, a cell of the 4×4 grid 8"),  # known when the images are
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SaliencyCutout(**options).draw(torch.zeros(1, 1, 32, 32), torch.rand(1, 16, 16), None)
