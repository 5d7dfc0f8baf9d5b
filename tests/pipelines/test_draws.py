"""The host's random numbers: the same whatever the slicing, shared out without loss, rightly distributed."""

import math

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from pipelines import draws
from pipelines.graph.pipeline import random_resized_window

RATIO = (3 / 4, 4 / 3)


@pytest.mark.parametrize("width", [1, 3, 4, 23])
def test_slices_agree_with_one_big_draw(width: int) -> None:
    whole = draws.uniforms(5, 2, draws.VIEW, 0, 100, width)
    for start, count in [(0, 1), (0, 17), (17, 17), (34, 66), (99, 1)]:
        part = draws.uniforms(5, 2, draws.VIEW, start, count, width)
        np.testing.assert_array_equal(part, whole[start : start + count])


def test_streams_epochs_and_seeds_are_unlike() -> None:
    keys = [(seed, epoch, stream) for seed in (0, 1, 2**64 - 1) for epoch in range(3) for stream in range(3)]
    seen = {draws.uniforms(*key, 0, 4, 4).tobytes() for key in keys}
    assert len(seen) == len(keys)
    numbers = draws.uniforms(0, 0, draws.VIEW, 0, 5000, 8)
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(numbers.T) - np.eye(8)).max() < 0.06


def test_each_epoch_is_shuffled_anew() -> None:
    orders = [draws.epoch_order(2000, 7, epoch) for epoch in range(3)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(2000))
    assert abs(np.corrcoef(orders[0], orders[1])[0, 1]) < 0.1
    assert abs(np.corrcoef(orders[0], np.arange(2000))[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("count", "batch_size", "world_size"), [(100, 8, 1), (101, 7, 3), (64, 8, 4), (9, 4, 4), (65, 16, 4)]
)
def test_shards_cover_every_position_once(count: int, batch_size: int, world_size: int) -> None:
    positions: list[int] = []
    for batch in range(math.ceil(count / (batch_size * world_size))):
        parts = [draws.shard(batch, count, batch_size, rank, world_size) for rank in range(world_size)]
        sizes = [size for _, size in parts]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= batch_size
        positions += [start + i for start, size in parts for i in range(size)]
    assert positions == list(range(count))


def _windows(height: int, width: int, count: int, scale: tuple[float, float]) -> np.ndarray:
    """(count, 4) y, x, height, width as the graph chooses them."""
    numbers = draws.uniforms(3, height, draws.VIEW, 0, count, draws.VIEW_UNIFORMS)
    sides, positions = draws.random_resized_windows(numbers, scale, RATIO)

    @pipeline_def(batch_size=count, num_threads=2, device_id=None, prefetch_queue_depth=1)
    def pipeline():
        shape = fn.external_source(name="shape")
        given = fn.external_source(name="sides"), fn.external_source(name="positions")
        return random_resized_window(shape, *given, RATIO)

    shapes = np.tile(np.array([height, width, 3], dtype=np.int64), (count, 1))
    corner, window = pipeline().run(shape=shapes, sides=sides, positions=positions)
    return np.concatenate([np.asarray(corner.as_tensor()), np.asarray(window.as_tensor())], axis=1)


def _expected_window(numbers: np.ndarray, height: int, width: int, scale: tuple[float, float]) -> tuple[int, ...]:
    """torchvision's loop, over our numbers."""
    for attempt in range(draws.CROP_ATTEMPTS):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * numbers[attempt])
        low, high = map(math.log, RATIO)
        ratio = math.exp(low + (high - low) * numbers[draws.CROP_ATTEMPTS + attempt])
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            y, x = numbers[2 * draws.CROP_ATTEMPTS : 2 * draws.CROP_ATTEMPTS + 2]
            return math.floor(y * (height - h + 1)), math.floor(x * (width - w + 1)), h, w
    if width / height < RATIO[0]:
        w, h = width, round(width / RATIO[0])
    elif width / height > RATIO[1]:
        w, h = round(height * RATIO[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(375, 500), (64, 64), (30, 900), (1200, 40), (8, 5), (1, 1), (3000, 2000)])
def test_the_graph_chooses_the_window_that_the_loop_chooses(size: tuple[int, int]) -> None:
    scale = (0.08, 1.0)
    windows = _windows(*size, 300, scale)
    numbers = draws.uniforms(3, size[0], draws.VIEW, 0, 300, draws.VIEW_UNIFORMS)
    expected = np.array([_expected_window(row, *size, scale) for row in numbers])
    # float32 against float64, and halves rounded up or to even: a pixel.
    assert np.abs(windows - expected).max() <= 1
    assert (windows == expected).all(axis=1).mean() > 0.9
    assert (windows[:, :2] >= 0).all()
    assert (windows[:, :2] + windows[:, 2:] <= size).all()
    assert (windows[:, 2:] >= 1).all()


@pytest.mark.parametrize("size", [(375, 500), (224, 224), (60, 900), (1200, 300)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 0.7)])
def test_windows_are_distributed_as_torchvisions(size: tuple[int, int], scale: tuple[float, float]) -> None:
    count = 3000
    windows = _windows(*size, count, scale)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.empty(3, *size)
        theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(RATIO)) for _ in range(count)])
    for ours, other in [
        (windows[:, 2] * windows[:, 3], theirs[:, 2] * theirs[:, 3]),
        (windows[:, 3] / windows[:, 2], theirs[:, 3] / theirs[:, 2]),
        (windows[:, 0], theirs[:, 0]),
        (windows[:, 1], theirs[:, 1]),
    ]:
        assert stats.ks_2samp(ours, other, method="asymp").pvalue > 1e-3


def test_flips_and_pad_offsets_are_uniform() -> None:
    numbers = draws.uniforms(0, 0, draws.VIEW, 0, 8100, draws.VIEW_UNIFORMS)
    assert stats.binomtest(int(draws.flips(numbers, (0.5, 0))[0].sum()), 8100).pvalue > 1e-3
    offsets = draws.pad_offsets(numbers, 4)
    assert offsets.dtype == np.int32
    cells = np.bincount((offsets[:, 0] + 4) * 9 + offsets[:, 1] + 4, minlength=81)
    assert len(cells) == 81
    assert stats.chisquare(cells).pvalue > 1e-3
