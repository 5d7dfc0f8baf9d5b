"""Attentive CutMix: the cells by a loop, ties at random, labels by pixels, attention of a teacher or the live model."""

from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import nn

from dali_salaug import AttentiveCutMix, SaliencyStage, saliency_map


def batch(count=30, sides=(21, 30), cells=(14, 14), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *sides, generator=generator), torch.rand(count, *cells, generator=generator)


@pytest.mark.parametrize(("sides", "cells"), [((21, 35), (14, 21)), ((32, 30), (7, 7)), ((9, 7), (28, 7))])
def test_pixels_and_targets_by_a_loop(soft_label, sides, cells):
    images, saliency = batch(sides=sides, cells=cells)
    method = AttentiveCutMix(4, cells=6, grid=7)
    drawn = method.draw(images, saliency, torch.Generator().manual_seed(2))
    before = images.clone()
    labels = torch.arange(30) % 4
    inputs, targets = method.apply(images, drawn, None), method.targets(labels, drawn, sides)
    high, wide = cells[0] // 7, cells[1] // 7  # pixels of the map in a cell, whole numbers here
    for i in range(30):
        partner = int(drawn.partners[i])
        attention = {}
        for row in range(7):
            for column in range(7):
                cell = saliency[partner, row * high : (row + 1) * high, column * wide : (column + 1) * wide]
                attention[row, column] = cell.double().mean().item()
        most = sorted(attention, key=attention.get)[-6:]
        expected, count = images[i].clone(), 0
        for y in range(sides[0]):
            for x in range(sides[1]):
                if (y * 7 // sides[0], x * 7 // sides[1]) in most:
                    expected[:, y, x] = images[partner, :, y, x]
                    count += 1
        assert torch.equal(inputs[i], expected)
        share = count / (sides[0] * sides[1])
        assert targets[i].tolist() == soft_label(4, (labels[i], 1 - share), (labels[partner], share))
    assert torch.equal(images, before)


def test_the_weight_is_the_share_of_the_cells_where_the_grid_divides_the_sides():
    images, saliency = batch(sides=(28, 14))
    method = AttentiveCutMix(30)
    drawn = method.draw(images, saliency, None)
    drawn = replace(drawn, partners=(torch.arange(30) + 1) % 30)
    targets = method.targets(torch.arange(30), drawn, (28, 14))
    torch.testing.assert_close(targets.diagonal(), torch.full((30,), 43 / 49))


def test_cells_of_a_flat_map_are_any():
    images, _ = batch(count=3000, sides=(7, 7))
    saliency = torch.zeros(3000, 7, 7)
    saliency[:, 3, 3] = torch.where(torch.arange(3000) % 2 == 0, 1.0, torch.nan)
    drawn = AttentiveCutMix(5, cells=2).draw(images, saliency, torch.Generator().manual_seed(0))
    counts = drawn.masks[:, 0].sum(0)
    assert counts.sum() == 6000
    others = counts.flatten()[torch.arange(49) != 24]
    assert stats.chisquare(others).pvalue > 0.001
    assert drawn.masks[drawn.partners % 2 == 0, 0, 3, 3].all()


def test_channels_last_is_kept():
    images, saliency = batch()
    images = images.to(memory_format=torch.channels_last)
    method = AttentiveCutMix(5)
    inputs = method.apply(images, method.draw(images, saliency, None), None)
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_a_teacher_attends_in_the_models_place(small_net):
    images, labels = torch.randn(8, 3, 14, 14), torch.arange(8) % 5
    torch.manual_seed(5)
    teacher = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    options = {"saliency": "grad_cam", "scale": 1.0}
    for head, attending in ((None, small_net), (teacher, teacher)):
        trace = SaliencyStage(AttentiveCutMix(5), head=head, **options).trace(small_net, images, labels)
        expected = saliency_map(attending, images, labels, method="grad_cam", scale=1.0)
        torch.testing.assert_close(trace.saliency, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": 0}, "cells must be a whole number, 1 or more; got 0"),
        ({"cells": 5, "grid": 2}, "cells must be at most the 4 of a 2×2 grid; got 5"),
        ({"grid": 0}, "grid must be a whole number of cells along a side, 1 or more; got 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        AttentiveCutMix(3, **options)
