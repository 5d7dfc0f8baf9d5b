"""The memory of saliency maps against float64 loops: what crops write, and what other crops read."""

import math

import numpy as np
import pytest
import torch

from dali_salaug import SaliencyMemory

GRID = (3, 4)


def view(left, top, width, height, mirrored=False):
    """The view of a crop of these sides, in shares of the image."""
    if mirrored:
        return torch.tensor([[-1 / width, 0, 1 + left / width], [0, 1 / height, -top / height]])
    return torch.tensor([[1 / width, 0, -left / width], [0, 1 / height, -top / height]])


VIEWS = torch.stack(
    [
        view(0, 0, 1, 1),
        view(0.1, 0.3, 0.5, 0.6),
        view(0.37, 0.05, 0.61, 0.4, mirrored=True),
        view(-0.125, 0.125, 1, 1),  # beyond the image: zero padding
    ]
)


def interval(start, stop, scale, shift):
    ends = sorted(((start - shift) / scale, (stop - shift) / scale))  # crop to image
    return ends[0], ends[1]


def cells_written(view, saliency, weights, grid=GRID):
    """For each cell, the covered share and the integral of the saliency, by loops over the crop's pixels."""
    height, width = saliency.shape
    (a, _, c), (_, e, f) = view.double().tolist()
    covered, mass = np.zeros(grid), np.zeros(grid)
    for y in range(height):
        top, bottom = interval(y / height, (y + 1) / height, e, f)
        for x in range(width):
            left, right = interval(x / width, (x + 1) / width, a, c)
            for row in range(grid[0]):
                for column in range(grid[1]):
                    high = min(bottom * grid[0], row + 1) - max(top * grid[0], row)
                    wide = min(right * grid[1], column + 1) - max(left * grid[1], column)
                    area = max(0.0, high) * max(0.0, wide) * weights[y, x]
                    covered[row, column] += area
                    mass[row, column] += area * saliency[y, x]
    return covered, mass


class Oracle:
    """One sample's map, cell by cell."""

    def __init__(self, share, grid=GRID):
        self.share = share
        self.maps, self.seen = np.ones(grid), np.zeros(grid, dtype=bool)

    def write(self, view, gradient, weights):
        saliency = np.abs(gradient).max(0)
        covered, mass = cells_written(view, saliency, weights)
        level = (covered * self.maps).sum() / mass.sum()
        for place in np.argwhere(covered > 0):
            cell = tuple(place)
            new = level * mass[cell] / covered[cell]
            share = self.share * min(1, covered[cell]) if self.seen[cell] else 1
            self.maps[cell] += share * (new - self.maps[cell])
            self.seen[cell] = True
        self.maps = np.where(self.seen, self.maps / self.maps[self.seen].mean(), 1)

    def read(self, view, size):
        (a, _, c), (_, e, f) = view.double().tolist()
        result = np.zeros(size)
        for y in range(size[0]):
            for x in range(size[1]):
                across, down = ((x + 0.5) / size[1] - c) / a, ((y + 0.5) / size[0] - f) / e
                if 0 <= across <= 1 and 0 <= down <= 1:
                    result[y, x] = self._at(down * GRID[0] - 0.5, across * GRID[1] - 0.5)
        return result

    def _at(self, row, column):
        row, column = min(max(row, 0), GRID[0] - 1), min(max(column, 0), GRID[1] - 1)
        i, j = min(int(row), GRID[0] - 2), min(int(column), GRID[1] - 2)
        down, across = row - i, column - j
        upper = (1 - across) * self.maps[i, j] + across * self.maps[i, j + 1]
        lower = (1 - across) * self.maps[i + 1, j] + across * self.maps[i + 1, j + 1]
        return (1 - down) * upper + down * lower


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_written_and_read_as_by_loops(dtype):
    generator = np.random.default_rng(0)
    memory = SaliencyMemory(9, grid=GRID, dtype=dtype, share=0.4)
    oracles = [Oracle(0.4) for _ in range(4)]
    indices = torch.tensor([7, 2, 0, 5])
    for step in range(3):
        gradient = generator.normal(size=(4, 3, 5, 6)).astype(np.float32)
        weights = generator.uniform(size=(4, 5, 6)).astype(np.float32) if step else np.ones((4, 5, 6), np.float32)
        views = VIEWS.roll(step, 0)
        memory.write(indices, views, torch.from_numpy(gradient), torch.from_numpy(weights) if step else None)
        for oracle, *arguments in zip(oracles, views, gradient, weights, strict=True):
            oracle.write(*arguments)
    for shift in range(4):
        views = VIEWS.roll(shift, 0)
        got = memory.read(indices, views, (7, 8))
        expected = np.stack([oracle.read(view, (7, 8)) for oracle, view in zip(oracles, views, strict=True)])
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got, expected, atol={"float16": 4e-3, "uint8": 4e-2}[dtype])
    assert memory.read(indices, VIEWS).shape == (4, *GRID)


def test_what_was_never_seen_is_flat_to_the_last_bit():
    memory = SaliencyMemory(4, grid=GRID)
    memory.write(torch.tensor([1]), VIEWS[:1], torch.rand(1, 3, 8, 8))
    maps = memory.read(torch.tensor([0, 1, 3]), VIEWS[1:], (8, 8))
    assert (maps[0] == 1).all()
    assert (maps[2] == 1).all()  # beyond the image too
    assert maps[1].std() > 0


def test_a_part_that_no_crop_has_shown_has_the_mean_of_the_others():
    memory = SaliencyMemory(1, grid=4, dtype="float16")
    gradient = torch.rand(1, 1, 8, 8) + 0.5
    memory.write(torch.tensor([0]), view(0, 0, 0.5, 0.5)[None], gradient)
    maps = memory.read(torch.tensor([0]), VIEWS[:1])[0]
    assert maps[:2, :2].mean() == pytest.approx(1, abs=1e-3)
    assert maps[:2, :2].std() > 0.01
    assert (maps[2:] == 1).all()
    assert (maps[:, 2:] == 1).all()


def test_a_crop_without_the_object_does_not_gain_weight():
    """Scaled to a mean of its own, the crop of the flat part would rise to that of the object."""
    memory = SaliencyMemory(1, grid=4, dtype="float16", share=1)
    whole = torch.ones(1, 1, 8, 8)
    whole[..., :4] = 9
    memory.write(torch.tensor([0]), VIEWS[:1], whole)
    memory.write(torch.tensor([0]), view(0.5, 0, 0.5, 1)[None], torch.full((1, 1, 8, 8), 50.0))
    maps = memory.read(torch.tensor([0]), VIEWS[:1])[0]
    torch.testing.assert_close(maps[:, 0] / maps[:, 3], torch.full((4,), 9.0), rtol=1e-2, atol=0)


def test_a_step_that_is_not_finite_or_says_nothing_writes_nothing():
    memory = SaliencyMemory(3, grid=GRID)
    indices = torch.arange(3)
    memory.write(indices, VIEWS[:3], torch.rand(3, 3, 6, 6))
    before = memory.state_dict()
    memory.set_epoch(5)
    for value in (math.nan, math.inf):
        gradient = torch.rand(3, 3, 6, 6)
        gradient[1, 0, 2, 2] = value
        memory.write(indices, VIEWS[:3], gradient)
    memory.write(indices, VIEWS[:3], torch.zeros(3, 3, 6, 6))
    memory.write(indices, VIEWS[:3], torch.rand(3, 3, 6, 6), torch.zeros(3, 6, 6))
    memory.write(indices, view(2, 2, 0.5, 0.5).expand(3, 2, 3), torch.rand(3, 3, 6, 6))  # wholly beyond the image
    after = memory.state_dict()
    assert torch.equal(before["maps"], after["maps"])
    assert torch.equal(before["written"], after["written"])
    some = torch.rand(3, 3, 6, 6)
    some[0] = 0
    memory.write(indices, VIEWS[:3], some)
    assert memory.ages(indices).tolist() == [5, 0, 0]


def test_of_a_sample_that_is_there_twice_the_last_crop_counts():
    gradients = torch.rand(4, 3, 6, 6)
    indices = torch.tensor([2, 0, 2, 2])
    both, last = SaliencyMemory(3, grid=GRID), SaliencyMemory(3, grid=GRID)
    both.write(indices, VIEWS, gradients)
    last.write(indices[[1, 3]], VIEWS[[1, 3]], gradients[[1, 3]])
    assert torch.equal(both.state_dict()["maps"], last.state_dict()["maps"])


def test_maps_age_and_are_then_as_if_never_seen():
    memory = SaliencyMemory(2, grid=GRID, max_age=2)
    indices = torch.arange(2)
    gradients = torch.rand(2, 3, 6, 6)
    memory.write(indices[:1], VIEWS[:1], gradients[:1])
    ages = []
    for epoch in range(4):
        memory.set_epoch(epoch)
        ages.append(memory.ages(indices).tolist())
    assert ages == [[0, -1], [1, -1], [2, -1], [-1, -1]]
    assert (memory.read(indices, VIEWS[:2]) == 1).all()
    fresh = SaliencyMemory(2, grid=GRID)
    for each in (memory, fresh):
        each.write(indices, VIEWS[1:3], gradients)
    assert torch.equal(memory.read(indices, VIEWS[:2]), fresh.read(indices, VIEWS[:2]))


def test_a_state_restores_every_bit_and_is_not_written_to_later():
    memory = SaliencyMemory(3, grid=GRID)
    memory.set_epoch(4)
    memory.write(torch.arange(3), VIEWS[:3], torch.rand(3, 3, 6, 6))
    state = memory.state_dict()
    expected = memory.read(torch.arange(3), VIEWS[1:])
    memory.write(torch.arange(3), VIEWS[:3], torch.rand(3, 3, 6, 6))
    other = SaliencyMemory(3, grid=GRID)
    other.load_state_dict(state)
    assert torch.equal(other.read(torch.arange(3), VIEWS[1:]), expected)
    assert other.epoch == 4


def test_imagenet_takes_at_most_350_megabytes():
    with torch.device("meta"):
        memory = SaliencyMemory(1_281_167, device="meta")
    assert memory.nbytes <= 350e6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be a whole number, 1 or more; got 0"),
        ({"grid": 0}, "grid must be a whole number of cells"),
        ({"grid": (3, 4, 5)}, "grid must be a whole number of cells, or"),
        ({"dtype": "int8"}, "dtype must be one of 'uint8', 'float16'; got 'int8'"),
        ({"share": 0}, r"share must be a number in \(0, 1\]; got 0"),
        ({"share": True}, r"share must be a number in \(0, 1\]; got True"),
        ({"device": "gpu"}, "device must be a device that torch can use here, .*; got 'gpu' \\(Expected one of cpu, "),
        ({"device": None}, "device must be a device that torch can use here, .*; got None"),
        ({"max_age": 0}, "max_age must be a whole number of epochs, or None, 1 or more; got 0"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        SaliencyMemory(**({"samples": 4} | options))


def test_what_is_passed_is_checked():
    memory = SaliencyMemory(4)
    with pytest.raises(ValueError, match=r"views must be a floating-point tensor \(2, 2, 3\) on cpu; got float32 \(2,"):
        memory.read(torch.arange(2), torch.rand(2, 3, 3))
    with pytest.raises(ValueError, match="indices must be an int64 tensor"):
        memory.read(torch.rand(2), VIEWS[:2])
    with pytest.raises(ValueError, match="state must have the keys"):
        memory.load_state_dict({"maps": 1})
    with pytest.raises(ValueError, match=r"device must be a device that torch can use here, .*; got 'gpu'"):
        memory.to("gpu")
    with pytest.raises(ValueError, match="maps of the state must be"):
        memory.load_state_dict(SaliencyMemory(5).state_dict())


@pytest.mark.parametrize("place", [-1, 4])
def test_a_place_that_there_is_not_is_named(place):
    memory = SaliencyMemory(4, grid=GRID)
    indices, gradient = torch.tensor([0, place]), torch.rand(2, 3, 6, 6)
    message = rf"indices must be in \[0, 4\), the places of the memory's samples; got {place}"
    for call in (
        lambda: memory.ages(indices),
        lambda: memory.read(indices, VIEWS[:2]),
        lambda: memory.write(indices, VIEWS[:2], gradient),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert memory.ages(torch.arange(4)).eq(-1).all()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("gradient", (1, 3, 6, 6)),
        ("gradient", (3, 3, 6, 6)),
        ("gradient", (2, 6, 6)),
        ("weights", (2, 1, 6, 6)),
        ("weights", (1, 6, 6)),
        ("weights", (2, 6, 5)),
    ],
)
def test_nothing_is_written_of_another_form(name, shape):
    memory = SaliencyMemory(4, grid=GRID)
    passed = {"gradient": torch.rand(2, 3, 6, 6), "weights": torch.rand(2, 6, 6)} | {name: torch.rand(shape)}
    with pytest.raises(ValueError, match=rf"{name} must be .*\(2, .*got float32 \({shape[0]}, "):
        memory.write(torch.arange(2), VIEWS[:2], **passed)
    assert memory.ages(torch.arange(4)).eq(-1).all()


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_a_gradient_of_doubles_is_written_whatever_its_scale(scale):
    gradient = torch.rand(1, 3, 6, 8, dtype=torch.float64)
    memories = [SaliencyMemory(1, grid=GRID), SaliencyMemory(1, grid=GRID)]
    memories[0].write(torch.arange(1), VIEWS[:1], gradient * scale)
    memories[1].write(torch.arange(1), VIEWS[:1], gradient.float())
    maps = [memory.read(torch.arange(1), VIEWS[:1]) for memory in memories]
    torch.testing.assert_close(maps[0], maps[1], rtol=0.02, atol=0)  # a level of the store
    assert maps[0].std() > 0.05


def test_sums_beyond_the_range_write_nothing():
    memory = SaliencyMemory(2, grid=GRID)
    gradient = torch.rand(2, 3, 6, 8) * torch.tensor([3e38, 1.0]).view(2, 1, 1, 1)
    memory.write(torch.arange(2), VIEWS[[0, 0]], gradient)
    assert memory.ages(torch.arange(2)).tolist() == [-1, 0]


def test_a_peak_beyond_the_range_of_float16_is_its_largest_number():
    memory = SaliencyMemory(1, grid=300, dtype="float16")
    gradient = torch.zeros(1, 1, 300, 300)
    gradient[0, 0, 5, 7] = 1
    memory.write(torch.arange(1), VIEWS[:1], gradient)
    maps = memory.read(torch.arange(1), VIEWS[:1])
    assert maps.isfinite().all()
    assert maps.argmax() == 5 * 300 + 7
    assert maps.amax() > 0.9 * maps.sum()  # the others are at the least number of the store


def test_epochs_may_be_set_back():
    memory = SaliencyMemory(1, grid=GRID, max_age=3)
    memory.set_epoch(5)
    memory.write(torch.arange(1), VIEWS[:1], torch.rand(1, 3, 6, 8))
    expected = memory.read(torch.arange(1), VIEWS[:1])
    for epoch in range(6):
        memory.set_epoch(epoch)
        assert memory.ages(torch.arange(1)).tolist() == [0]
        assert torch.equal(memory.read(torch.arange(1), VIEWS[:1]), expected)
    for epoch, age in ((8, 3), (9, -1)):
        memory.set_epoch(epoch)
        assert memory.ages(torch.arange(1)).tolist() == [age]
    with pytest.raises(ValueError, match=f"epoch must be a whole number of at most {2**31 - 1}; got {2**31}"):
        memory.set_epoch(2**31)


TWO_PROCESSES = """
import sys, torch
import torch.distributed as dist
from dali_salaug import SaliencyMemory
rank, meet = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
generator = torch.Generator().manual_seed(0)
views = torch.eye(3)[:2].expand(8, 2, 3)
for dtype in ("uint8", "float16"):
    ours, alone = (SaliencyMemory(20, grid=3, dtype=dtype) for _ in range(2))
    for epoch in range(3):
        order = torch.randperm(20, generator=generator)
        for memory in (ours, alone):
            memory.set_epoch(epoch)
        for batch in (order[:8], order[8:16]):
            gradients = torch.rand(8, 3, 6, 6, generator=generator)
            alone.write(batch, views, gradients)
            mine = slice(4 * rank, 4 * rank + 4)
            ours.write(batch[mine], views[mine], gradients[mine])
        ours.exchange()
        got, expected = ours.state_dict(), alone.state_dict()
        assert torch.equal(got["maps"], expected["maps"]) and torch.equal(got["written"], expected["written"])
    # The same sample on both ranks: that of the last one, on all of them.
    gradients = torch.rand(2, 1, 3, 6, 6, generator=generator)
    ours.write(torch.tensor([4]), views[:1], gradients[rank])
    alone.write(torch.tensor([4]), views[:1], gradients[1])
    ours.exchange()
    assert torch.equal(ours.state_dict()["maps"], alone.state_dict()["maps"])
dist.destroy_process_group()
"""


def test_two_processes_hold_what_one_would(in_two_processes):
    in_two_processes(TWO_PROCESSES)


def test_alone_there_is_nothing_to_exchange():
    memory = SaliencyMemory(3)
    memory.write(torch.arange(3), VIEWS[:3], torch.rand(3, 3, 6, 6))
    before = memory.state_dict()["maps"]
    memory.exchange()
    assert torch.equal(memory.state_dict()["maps"], before)
