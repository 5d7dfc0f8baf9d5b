"""Occlusion: squares against loops over pixels, and the accuracy of a network that looks at one place."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from train.analysis.evaluation import occlusion
from train.analysis.evaluation.images import Sample
from train.analysis.evaluation.occlusion import corners_around, occlude, peaks
from train.config import Config
from train.tasks.classification.stage import live_map


def test_squares_against_loops() -> None:
    images = torch.rand(4, 3, 8, 8) + 1
    middles = torch.tensor([[4.0, 4.0], [0.5, 7.5], [6.5, 2.5], [0.0, 0.0]])
    for length in (0, 1, 3, 4, 7):
        corners = corners_around(middles, length, 8)
        seen = occlude(images, corners, length)
        for number, (y, x) in enumerate(middles.tolist()):
            hidden = (seen[number, 0] == 0).nonzero().tolist()
            assert len(hidden) == length**2
            if length:
                best = min(  # the nearest place of a square in the image
                    (abs(top + length / 2 - y) + abs(left + length / 2 - x))
                    for top in range(8 - length + 1)
                    for left in range(8 - length + 1)
                )
                top, left = hidden[0]
                assert hidden == [[top + i, left + j] for i in range(length) for j in range(length)]
                assert abs(top + length / 2 - y) + abs(left + length / 2 - x) == best
            torch.testing.assert_close(seen[number][:, seen[number, 0] > 0], images[number][:, seen[number, 0] > 0])


def test_peaks_in_the_pixels_of_the_image() -> None:
    maps = torch.zeros(3, 4, 4)
    maps[0, 0, 3], maps[1, 2, 1] = 1, 5
    assert peaks(maps, 8).tolist() == [[1, 7], [5, 3], [1, 1]]


class Corner(nn.Module):
    """Looks at the upper left quarter alone: class 1 where it is bright, 0 where it is dark or hidden."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images[:, :, :8, :8].mean((1, 2, 3))
        return torch.stack((torch.full_like(mean, 0.2), mean), dim=1)


class Run:
    run, side, model = "runs/x", 16, Corner()

    class trained:
        config = Config().resolved(side=16, embedded=True, cifar=False)

    def normalised(self, images: Tensor) -> Tensor:
        return images / 255


def test_noisy_maps_are_the_same_again() -> None:
    class Smooth(Run):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

        class trained:
            config = Config(saliency="smoothgrad", method="keep_cutout").resolved(side=16, embedded=True, cifar=False)

    images, labels = torch.rand(2, 3, 16, 16), torch.ones(2).long()
    maps = [live_map(Smooth.model, images, labels, Smooth.trained.config, seed) for seed in (0, 0, 1)]
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


def test_the_square_on_the_peak_is_the_one_that_hurts() -> None:
    pixels = torch.full((5, 3, 16, 16), 128, dtype=torch.uint8)
    objects = torch.tensor([[0.0, 0.0, 8.0, 8.0]] * 3 + [[0.0] * 4] * 2, dtype=torch.float64)
    result = occlusion.measure(Run(), Sample(pixels, torch.ones(5).long(), np.arange(5), objects), 0)  # type: ignore[arg-type]
    assert result["sides"] == [0, 2, 4, 6, 8, 10, 12, 14]
    # 0.5 · (1 − hidden / 64) falls below 0.2 where more than 38.4 of the 64 pixels are hidden.
    for length, share in zip(result["sides"], result["object"], strict=True):
        assert share == (0 if min(length, 8) ** 2 > 38.4 else 1)
    for length, share in zip(result["sides"], result["centre"], strict=True):
        assert share == (0 if (length / 2) ** 2 > 38.4 else 1)
    assert result["salient"][4] <= result["centre"][4]
    assert result["random"][0] == 1
    assert 0 <= min(result["random"]) < 1
    without = occlusion.measure(Run(), Sample(pixels, torch.ones(5).long(), np.arange(5), None), 0)  # type: ignore[arg-type]
    assert without["object"] is None
    assert without["random"] == result["random"]
    assert occlusion.rows(without)[-1].value is None
    assert occlusion.rows(result)[0].value == pytest.approx(sum(result["centre"][1:]) / 7)
