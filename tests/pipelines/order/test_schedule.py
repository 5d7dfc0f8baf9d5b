"""The batches of every process, against the order cut up by hand."""

import math
import tracemalloc

import numpy as np
import pytest
from timm.data.distributed_sampler import RepeatAugSampler

from pipelines import DataError, draws
from pipelines.order.orders import InOrder, Order, Repeated, Shuffled
from pipelines.order.samplers import Sampled
from pipelines.order.schedule import Schedule

SHARDS = [(100, 8, 1), (101, 7, 3), (64, 8, 4), (9, 4, 4), (65, 16, 4)]  # count, batch_size, world_size


def _schedule(order: Order, batch_size: int, rank: int, world_size: int, drop_last: bool = False) -> Schedule:
    return Schedule(
        order,
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        drop_last=drop_last,
        root="/data",
        kind="training",
    )


@pytest.mark.parametrize(("count", "batch_size", "world_size"), SHARDS)
@pytest.mark.parametrize("interleaved", [False, True])
def test_shards_cover_every_position_once(count: int, batch_size: int, world_size: int, interleaved: bool) -> None:
    for batch in range(math.ceil(count / (batch_size * world_size))):
        start = batch * batch_size * world_size
        together = list(range(count))[start : start + batch_size * world_size]
        parts = [
            draws.shard(batch, count, batch_size, rank, world_size, interleaved=interleaved)
            for rank in range(world_size)
        ]
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= batch_size
        if interleaved:
            assert [list(part) for part in parts] == [together[rank::world_size] for rank in range(world_size)]
        else:
            assert [position for part in parts for position in part] == together


@pytest.mark.parametrize(("count", "batch_size", "world_size"), SHARDS)
@pytest.mark.parametrize("kind", ["shuffled", "repeated", "sampled"])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_batches_of_all_ranks_are_the_order_cut_up(
    count: int, batch_size: int, world_size: int, kind: str, drop_last: bool
) -> None:
    order = {
        "shuffled": Shuffled(count, 7),
        "repeated": Repeated(Shuffled(count, 7), 3),
        "sampled": Sampled(lambda epoch: [(3 * i + epoch) % count for i in range(count - 2 * epoch)], count),
    }[kind]
    for epoch in range(2):
        expected = order(epoch).tolist()
        size = batch_size * world_size
        cut = [expected[start : start + size] for start in range(0, len(expected), size)]
        cut = [batch for batch in cut if len(batch) == size] if drop_last else cut
        ranks = [_schedule(order, batch_size, rank, world_size, drop_last) for rank in range(world_size)]
        if not cut:
            for schedule in ranks:
                with pytest.raises(
                    DataError, match=rf"has {len(expected)} training images.*, less than one global batch"
                ):
                    schedule.batches(epoch)
            continue
        shares = [
            [
                schedule.indices(epoch, schedule.positions(epoch, batch)).tolist()
                for batch in range(schedule.batches(epoch))
            ]
            for schedule in ranks
        ]
        assert {schedule.global_batches(epoch) for schedule in ranks} == {len(cut)}
        assert [schedule.samples(epoch) for schedule in ranks] == [sum(map(len, share)) for share in shares]
        assert all(len(batch) > 0 for share in shares for batch in share)
        for number, batch in enumerate(cut):
            parts = [share[number] if number < len(share) else [] for share in shares]
            if kind == "repeated":
                assert parts == [batch[rank::world_size] for rank in range(world_size)]
            else:
                assert [index for part in parts for index in part] == batch


@pytest.mark.parametrize(("count", "world_size", "repeats"), [(100, 2, 3), (100, 4, 2), (101, 3, 3), (64, 1, 5)])
@pytest.mark.parametrize("batch_size", [8, 100])
def test_repeated_augmentation_is_timms(count: int, world_size: int, repeats: int, batch_size: int) -> None:
    order = Shuffled(count, 7)
    shares = []
    for rank in range(world_size):
        schedule = _schedule(Repeated(order, repeats), batch_size, rank, world_size)
        positions = [schedule.positions(2, batch) for batch in range(schedule.batches(2))]
        share = np.concatenate([schedule.indices(2, part) for part in positions])
        theirs = list(
            RepeatAugSampler(range(count), world_size, rank, shuffle=False, num_repeats=repeats, selected_round=0)
        )
        assert len(theirs) == math.ceil(count / world_size)  # all ranks alike: timm fills up
        assert 0 <= len(theirs) - len(share) <= 1
        assert share.tolist() == order(2)[theirs][: len(share)].tolist()
        shares.append(share)
    used, copies = np.unique(np.concatenate(shares), return_counts=True)
    assert sum(map(len, shares)) == count  # an epoch is as long as without copies
    assert len(used) == math.ceil(count / repeats)
    assert sorted(copies)[1:] == [repeats] * (len(used) - 1)
    if repeats <= world_size:  # no rank has two copies of a sample
        assert all(len(set(share.tolist())) == len(share) for share in shares)


def test_fewer_samples_than_processes() -> None:
    for rank in range(4):
        with pytest.raises(
            DataError, match=r"^'/data' has 3 training images for 4 processes\. Start at most as many as"
        ):
            _schedule(InOrder(3), 1, rank, 4).batches(0)


def test_more_repeats_than_an_epoch_has_samples_take_no_memory() -> None:
    tracemalloc.start()
    try:
        order = Repeated(Shuffled(5, 7), 10**6)(2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert order.tolist() == [draws.epoch_order(5, 7, 2)[0]] * 5
    assert peak < 10**6
