"""What the tests of several methods share: oracles, one image or one pixel at a time, and replays of draws."""

import math

import pytest
import torch


def _draw_masks(method, count=200, sides=(26, 41), seed=0):
    masks = method.draw(torch.zeros(count, 1, *sides), None, torch.Generator().manual_seed(seed)).masks
    assert masks.dtype == torch.bool
    assert masks.shape == (count, 1, *sides)
    return masks[:, 0]


def _replayed_numbers(numbers, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((numbers, count, 1), generator=generator, dtype=torch.float64)[:, :, 0].T.tolist()


def _turned_pixels(sides, angle):
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for row in range(sides[0]):
        for column in range(sides[1]):
            y, x = row + 0.5 - sides[0] / 2, column + 0.5 - sides[1] / 2
            yield row, column, cos * y - sin * x, sin * y + cos * x


def _on_an_edge(phase, edge, period):
    return min(abs(phase - edge), phase, period - phase) < 1e-3


def _replace_box(image, box, content):
    """A copy of the image; and the number of pixels replaced."""
    expected, count = image.clone(), 0
    top, left, bottom, right = box
    for y in range(top, bottom):
        for x in range(left, right):
            expected[:, y, x] = content[:, y, x] if isinstance(content, torch.Tensor) else content
            count += 1
    return expected, count


def _move_box(image, source, target):
    moved = image.clone()
    for y in range(target[2] - target[0]):
        for x in range(target[3] - target[1]):
            moved[:, target[0] + y, target[1] + x] = image[:, source[0] + y, source[1] + x]
    return moved


def _soft_label(classes, *weighted_labels):
    weights = [0.0] * classes
    for label, weight in weighted_labels:
        weights[label] += weight
    return pytest.approx(weights, abs=1e-6)


@pytest.fixture
def draw_masks():
    """The masks (count, H, W) that a method draws."""
    return _draw_masks


@pytest.fixture
def replayed_numbers():
    """The numbers in [0, 1) that a masking method drew, one row for each image."""
    return _replayed_numbers


@pytest.fixture
def turned_pixels():
    """Row and column of each pixel, and its centre relative to the image's, turned by an angle, as (down, across)."""
    return _turned_pixels


@pytest.fixture
def on_an_edge():
    """Whether float32 may fall on the other side of an edge."""
    return _on_an_edge


@pytest.fixture
def replace_box():
    """One image with a box taken from another, or filled by a value, pixel by pixel, and how many pixels that were."""
    return _replace_box


@pytest.fixture
def move_box():
    """One image with one box copied over another, pixel by pixel."""
    return _move_box


@pytest.fixture
def soft_label():
    """The weights of the classes, from pairs of label and weight; to compare a row of the targets with."""
    return _soft_label
