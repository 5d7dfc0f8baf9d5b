"""The indices of samplers, of all kinds that people have; and what is none."""

from collections import UserList
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
)  # fmt: skip

from pipelines.order.samplers import Sampled

COUNT = 20


class _Epochs(Sampler):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.epoch, self.asked = -1, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.asked += 1
        return iter(range(self.epoch, self.epoch + 3))


@pytest.mark.parametrize(
    "indices",
    [[3, 1, 1, 19], (3, 1, 1, 19), UserList([3, 1, 1, 19]), iter([3, 1, 1, 19]), np.array([3, 1, 1, 19], np.uint8),
     np.array([3, 1, 1, 19], np.uint64), torch.tensor([3, 1, 1, 19]), (np.int8(i) for i in (3, 1, 1, 19)),
     (torch.tensor(i) for i in (3, 1, 1, 19)), {"a": 3, "b": 1, "c": 1, "d": 19}.values()],
    ids=lambda indices: type(indices).__name__,
)  # fmt: skip
def test_indices_of_any_kind_each_read_once(indices: Any) -> None:
    order = Sampled(indices, COUNT)
    for epoch in (0, 1, 0, 9):
        found = order(epoch)
        assert found.dtype == np.int64
        assert found.tolist() == [3, 1, 1, 19]


def test_what_is_read_is_a_copy() -> None:
    for indices in ([1, 2], np.array([1, 2]), torch.tensor([1, 2])):
        order = Sampled(indices, COUNT)
        indices[0] = 19
        assert order(0).tolist() == [1, 2]


def test_torchs_samplers() -> None:
    data = range(COUNT)
    generator = torch.Generator().manual_seed(1)
    shuffled = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1)).tolist()
    order = Sampled(RandomSampler(data, generator=generator), COUNT)
    assert order(0).tolist() == order(1).tolist() == shuffled  # no epochs: read once
    assert Sampled(SequentialSampler(data), COUNT)(3).tolist() == list(data)
    assert sorted(Sampled(SubsetRandomSampler(torch.tensor([5, 2, 9])), COUNT)(0).tolist()) == [2, 5, 9]
    theirs = DistributedSampler(data, num_replicas=1, rank=0, seed=4)
    order = Sampled(DistributedSampler(data, num_replicas=1, rank=0, seed=4), COUNT)
    for epoch in (2, 0, 1, 2):
        theirs.set_epoch(epoch)
        assert order(epoch).tolist() == list(theirs)


def test_one_with_epochs_and_a_function_are_asked_for_each() -> None:
    sampler = _Epochs()
    order = Sampled(sampler, COUNT)
    assert sampler.asked == 0
    assert [order(epoch).tolist() for epoch in (4, 0)] == [[4, 5, 6], [0, 1, 2]]
    assert (sampler.epoch, sampler.asked) == (0, 2)
    functions: list[Callable[[int], Any]] = [
        lambda epoch: [epoch] * (epoch + 1), lambda epoch: np.full(epoch + 1, epoch),
        lambda epoch: (epoch for _ in range(epoch + 1)), lambda epoch: torch.full((epoch + 1,), epoch),
    ]  # fmt: skip
    for function in functions:
        assert [Sampled(function, COUNT)(epoch).tolist() for epoch in (2, 0)] == [[2, 2, 2], [0]]


NO_INDICES: list[Any] = [
    [], np.array([]), [20], [-1], [3, 2**63], [10**400], np.array([2**64 - 1], np.uint64), np.array([-1], np.int8),
    torch.tensor([20]), [1.0], ["1"], [None], [[1], [2]], [np.arange(2)], [(1, 2)], [torch.ones(2)], [True],
    [False, True], [1, True], [1, np.True_], np.ones(COUNT, bool), torch.ones(COUNT, dtype=torch.bool),
    np.ones((2, 2), int), np.ones(3), torch.ones(3), np.array(3), np.array(["1"]), b"\1\2", bytearray(b"\1"), "12",
    memoryview(b"\1"), {1, 2}, frozenset({1}), {1: 2}, {1: 2}.keys(), range(21), [object()], [int], object(),
    None, 3, 1.5, True, list, Sampler, BatchSampler(SequentialSampler(range(4)), 2, False),
]  # fmt: skip


@pytest.mark.parametrize("value", NO_INDICES, ids=lambda value: type(value).__name__)
def test_what_are_no_indices(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^sampler must be .*integers from 0 to 19, at least one.*, got ") as caught:
        Sampled(value, COUNT)
    assert len(str(caught.value)) < 300
    order = Sampled(lambda epoch: value, COUNT)
    if not callable(value):
        with pytest.raises(ValueError, match=r"^indices of sampler in epoch 5 must be integers from 0 to 19.*, got "):
            order(5)


@pytest.mark.parametrize("mask", [[True, False] * 10, np.ones(COUNT, bool), torch.ones(COUNT, dtype=torch.bool)])
def test_a_mask_is_told_what_to_write(mask: Any) -> None:
    with pytest.raises(ValueError, match=r"\(of a mask: numpy\.flatnonzero\(mask\)\), got "):
        Sampled(mask, COUNT)


def test_batches_and_shards_are_told_who_makes_them() -> None:
    with pytest.raises(ValueError, match=r"no batches of them, as batch_size divides the epoch, got \[0, 1\]$"):
        Sampled(BatchSampler(SequentialSampler(range(4)), 2, False), COUNT)
    with pytest.raises(ValueError, match=r"must be one for all processes \(num_replicas=1\), as the loader's rank"):
        Sampled(DistributedSampler(range(COUNT), num_replicas=2, rank=1), COUNT)


def test_an_iterable_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.order.samplers._MOST", 1000)

    def endless() -> Iterator[int]:
        while True:
            yield 3

    with pytest.raises(ValueError, match=r"^sampler must be .*, at most 1000, got 'more than 1000'$"):
        Sampled(endless(), COUNT)
    assert len(Sampled([3] * 1000, COUNT)(0)) == 1000


def test_errors_of_a_sampler_are_its_own() -> None:
    with pytest.raises(ZeroDivisionError):
        Sampled(lambda epoch: [1 // 0], COUNT)(0)
