"""Loaders with an order of the user's: epochs, shards and resuming, to the pixel."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

from pipelines import Batch, DataError, ImageLoader, draws, find_dataset, image_loader

COUNT = 100  # images of the fixture `cifar`
POLICY: dict[str, Any] = {"policy": "flips_rotation", "with_matrices": True}


def _odd(epoch: int) -> list[int]:
    """Some samples twice, some never; epochs of unlike lengths."""
    return [(7 * i * i + epoch) % COUNT for i in range(41 - 9 * (epoch % 3))]


ORDERS: dict[str, dict[str, Any]] = {
    "in order": {"shuffle": False},
    "shuffled validation": {"shuffle": True, "train": False, "images": 30},
    "indices": {"sampler": [*range(50, 0, -1), 3, 3, 3]},
    "function": {"sampler": _odd},
    "epochs": {"sampler": DistributedSampler(range(COUNT), 1, 0, seed=2)},
    "weights": {"weights": np.arange(COUNT) ** 2},
    "balanced": {"weights": "balanced"},
    "repeats": {"repeats": 3},
    "repeats of weights": {"weights": np.arange(COUNT), "repeats": 4},
    "views": {"views": 3},
}


def _loader(root: Path, **changes: Any) -> ImageLoader:
    options = {"batch_size": 6, "image_size": 32, "device": "cpu", "num_threads": 1, "seed": 3}
    return image_loader(root, **(options | changes))


def _content(batch: Batch) -> list[torch.Tensor]:
    """The tensors of a batch, in their order."""
    fields = [batch.images, batch.augmented, batch.labels, batch.indices, batch.matrices]
    tensors = []
    for field in fields:
        tensors += field if isinstance(field, tuple) else [] if field is None else [field]
    return tensors


def _assert_same(mine: list[Batch], theirs: list[Batch]) -> None:
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        for left, right in zip(_content(one), _content(other), strict=True):
            assert torch.equal(left, right)


@pytest.mark.parametrize("kind", ORDERS)
def test_ranks_together_are_one_process_in_every_epoch(cifar: Path, kind: str) -> None:
    options = POLICY | ORDERS[kind]
    whole = _loader(cifar, **(options | {"batch_size": 18}))
    ranks = [_loader(cifar, rank=rank, world_size=3, **options) for rank in range(3)]
    for epoch in range(2):
        parts = [list(loader) for loader in ranks]
        batches = list(whole)
        if whole.options.order.is_given:
            given = options["sampler"]
            if not callable(given) and hasattr(given, "set_epoch"):
                given.set_epoch(epoch)  # the loaders, which make batches ahead, have set the next one
            expected = given(epoch) if callable(given) else list(given)
            assert [i for batch in batches for i in batch.indices.tolist()] == expected
        for number, batch in enumerate(batches):
            shares = [_content(part[number]) for part in parts if number < len(part)]
            for place, tensor in enumerate(_content(batch)):
                if "repeats" in options:
                    for rank, share in enumerate(shares):
                        assert torch.equal(share[place], tensor[rank::3])
                else:
                    assert torch.equal(torch.cat([share[place] for share in shares]), tensor)


@pytest.mark.parametrize("kind", ORDERS)
def test_resuming_anywhere_gives_the_same_batches(cifar: Path, kind: str) -> None:
    options: dict[str, Any] = POLICY | ORDERS[kind] | {"batch_size": 20}
    loader = _loader(cifar, **options)
    epochs = [list(loader) for _ in range(3)]
    for given in (0, 1, len(epochs[1])):
        loader.set_epoch(1)
        assert len(loader) == len(epochs[1])
        iterator = iter(loader)
        for _ in range(given):
            next(iterator)
        state = json.loads(json.dumps(loader.state_dict()))
        assert (state["epoch"], state["batch"]) == (1, given)
        resumed = _loader(cifar, **options)
        resumed.load_state_dict(state)
        resumed.set_epoch(1)
        assert resumed.state_dict() == state
        _assert_same(list(resumed), epochs[1][given:])
        _assert_same(list(resumed), epochs[2])


def test_in_order_with_random_crops(cifar: Path) -> None:
    loader = _loader(cifar, shuffle=False)
    epochs = [list(loader) for _ in range(2)]
    images = [torch.cat([batch.images for batch in batches]) for batches in epochs]
    for batches in epochs:
        assert [i for batch in batches for i in batch.indices.tolist()] == list(range(COUNT))
    assert not torch.equal(*images)
    # Crops are drawn for positions, whichever samples are there: the padded crop of each, by hand.
    numbers = draws.uniforms(3, 1, draws.VIEW, 0, COUNT, draws.VIEW_UNIFORMS)
    offsets, flips = draws.pad_offsets(numbers, 4) + 4, draws.flips(numbers, (0.5, 0))[0]
    mean, std = (np.array(values, np.float32) for values in (loader.mean, loader.std))
    for index, picture in enumerate(images[1].permute(0, 2, 3, 1).numpy()):
        padded = np.pad(loader.dataset.reader.images[index], ((4, 4), (4, 4), (0, 0)))
        y, x = offsets[index]
        cut = padded[y : y + 32, x : x + 32][:, :: -1 if flips[index] else 1]
        np.testing.assert_allclose((picture * std + mean) * 255, cut, atol=0.01)


def test_shuffled_validation_has_the_pixels_of_validation(cifar: Path) -> None:
    [ordered] = _loader(cifar, train=False, batch_size=30)
    shuffled = _loader(cifar, train=False, batch_size=30, shuffle=True)
    orders = []
    for [batch] in ([*shuffled], [*shuffled]):
        assert sorted(batch.indices.tolist()) == list(range(30))
        assert torch.equal(batch.images, ordered.images[batch.indices])
        orders.append(batch.indices)
    assert not torch.equal(*orders)
    assert not torch.equal(orders[0], orders[0].sort().values)


def test_the_defaults_are_an_order_too(cifar: Path) -> None:
    for train, shuffle in ((True, True), (False, False)):
        plain, said = _loader(cifar, train=train), _loader(cifar, train=train, shuffle=shuffle)
        _assert_same(list(plain), list(said))
        said.load_state_dict(plain.state_dict())


def test_an_epoch_longer_than_the_data_set_in_one_batch(cifar: Path) -> None:
    [batch] = _loader(cifar, sampler=[5] * 250, batch_size=1000)
    assert batch.indices.tolist() == [5] * 250
    assert len({image.numpy().tobytes() for image in batch.images}) > 50  # each position has its own crop


def test_epochs_of_unlike_lengths(cifar: Path) -> None:
    loader = _loader(cifar, sampler=_odd, batch_size=8)
    lengths = []
    for epoch in range(3):
        assert len(loader) == -(-len(_odd(epoch)) // 8)
        lengths.append(len(list(loader)))
    assert lengths == [6, 4, 3]
    loader.set_epoch(1)
    assert len(loader) == 4
    with pytest.raises(ValueError, match=r"^batch of the state must be an integer from 0 to 4, got 5$"):
        loader.load_state_dict(loader.state_dict() | {"batch": 5})
    dropping = _loader(cifar, sampler=_odd, batch_size=8, drop_last=True)
    assert [len(list(dropping)) for _ in range(3)] == [5, 4, 2]


def test_a_sampler_that_ends_with_the_last_epoch(cifar: Path) -> None:
    """The batches that are made ahead are of an epoch that there is not, and nobody asks for."""
    epochs = [_odd(0), _odd(1)]
    loader = _loader(cifar, sampler=epochs.__getitem__, batch_size=20)
    batches = [list(loader) for _ in range(2)]
    assert [[i for batch in part for i in batch.indices.tolist()] for part in batches] == epochs
    state = json.loads(json.dumps(loader.state_dict()))
    assert (state["epoch"], state["batch"], state["indices"]) == (2, 0, None)
    for _ in range(2):
        with pytest.raises(IndexError):
            iter(loader)
    loader.set_epoch(0)
    _assert_same(list(loader), batches[0])
    # The run is done; and goes on, with more epochs.
    _loader(cifar, sampler=epochs.__getitem__, batch_size=20).load_state_dict(state)
    longer = _loader(cifar, sampler=_odd, batch_size=20)
    longer.load_state_dict(state)
    assert [i for batch in longer for i in batch.indices.tolist()] == _odd(2)


def test_an_error_of_the_sampler_comes_from_iter(cifar: Path) -> None:
    def sampler(epoch: int) -> list[int]:
        if epoch == 1:
            raise RuntimeError("no such epoch")  # as DALI's own
        return [epoch, 100 if epoch == 2 else 0]

    loader = _loader(cifar, sampler=sampler)
    assert len(list(loader)) == 1
    with pytest.raises(RuntimeError, match="no such epoch"):
        iter(loader)
    loader.set_epoch(2)
    with pytest.raises(ValueError, match=r"^indices of sampler in epoch 2 must be integers from 0 to 99.*, got 100$"):
        iter(loader)
    loader.set_epoch(3)
    assert next(iter(loader)).indices.tolist() == [3, 0]


def test_too_few_indices_for_the_processes_are_an_error_on_all_of_them(cifar: Path) -> None:
    for rank in range(3):
        with pytest.raises(DataError, match=r"^the sampler has 2 training images in epoch 0 for 3 processes"):
            _loader(cifar, sampler=[4, 5], rank=rank, world_size=3)
        loader = _loader(cifar, sampler=lambda epoch: range(3 - epoch), rank=rank, world_size=3)
        assert len(list(loader)) == 1
        with pytest.raises(DataError, match=r"^the sampler has 2 training images in epoch 1 for 3 processes"):
            iter(loader)


OTHERS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"shuffle": False}, "order: 'shuffled' in the state, 'as in the data set' here"),
    ({"sampler": _odd}, {}, "order: 'of a sampler' in the state, 'shuffled' here"),
    (
        {"weights": [1] * COUNT},
        {"weights": [1] * 99 + [2]},
        r"order: 'drawn by 100 weights, \w{16}' in the state, 'drawn by 100 weights, \w{16}' here",
    ),
    ({"repeats": 2}, {"repeats": 3}, "order: 'shuffled, each 2 times' in the state, 'shuffled, each 3 times' here"),
    (POLICY | {"views": 2}, POLICY, "views: 2 in the state, 1 here"),
    (
        {"sampler": range(20)},
        {"sampler": range(19, -1, -1)},
        r"^the state is of another sampler: '20 indices, \w{16}' in epoch 0 of the state, '20 indices, \w{16}' here$",
    ),
]


@pytest.mark.parametrize(("given", "other", "message"), OTHERS, ids=[", ".join(given) for given, *_ in OTHERS])
def test_a_state_of_another_order_is_refused(cifar: Path, given: dict, other: dict, message: str) -> None:
    state = _loader(cifar, **given).state_dict()
    _loader(cifar, **given).load_state_dict(state)
    with pytest.raises(ValueError, match=message):
        _loader(cifar, **other).load_state_dict(state)


def test_only_the_epoch_of_the_state_must_be_as_it_was(cifar: Path) -> None:
    state = _loader(cifar, sampler=_odd).state_dict()
    _loader(cifar, sampler=lambda epoch: _odd(epoch) if epoch == 0 else [1]).load_state_dict(state)
    with pytest.raises(ValueError, match="of another sampler"):
        _loader(cifar, sampler=lambda epoch: _odd(epoch) if epoch else [1]).load_state_dict(state)


EXCLUDED: list[tuple[dict[str, Any], str]] = [
    ({"sampler": [1], "weights": "balanced"}, r"^weights must be None with a sampler, got 'balanced'$"),
    ({"sampler": [1], "repeats": 2}, r"^repeats must be 1 with a sampler, which can repeat the indices, got 2$"),
    ({"sampler": [1], "shuffle": True}, r"^shuffle must be None or False with a sampler or weights, .*, got True$"),
    ({"weights": [1] * COUNT, "shuffle": True}, r"^shuffle must be None or False with a sampler or weights"),
    ({"shuffle": False, "repeats": 2}, r"^repeats must be 1 in the data set's order, of which .*, got 2$"),
    ({"train": False, "repeats": 2}, r"^repeats must be 1 in the data set's order, of which .*, got 2$"),
    ({"views": 2}, r"^views must be 1 without a policy, got 2$"),
]


@pytest.mark.parametrize(("options", "message"), EXCLUDED)
def test_what_excludes_what(cifar: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _loader(cifar, **options)


def test_shuffle_false_beside_a_sampler_as_of_a_data_loader(cifar: Path) -> None:
    for options in ({"sampler": [4, 2]}, {"weights": [1] + [0] * 99}):
        assert list(_loader(cifar, shuffle=False, **options))


def test_weights_and_indices_are_of_the_images_that_are_used(cifar: Path) -> None:
    options: dict[str, Any] = {"images": 30, "weights": [0] * 29 + [1]}
    assert {i for batch in _loader(cifar, **options) for i in batch.indices.tolist()} == {29}
    with pytest.raises(ValueError, match="integers from 0 to 29, at least one, got 30"):
        _loader(cifar, images=30, sampler=[30])


@pytest.mark.parametrize("layout", ["folders", "cifar"])
def test_a_subset_by_indices(layout: str, request: pytest.FixtureRequest) -> None:
    whole = find_dataset(request.getfixturevalue(layout), train=False)
    digests = {whole.digest}
    for chosen in ([20, 3, 11], [3, 11, 20], [20, 3], [20, 3, 3]):
        part = whole.take(chosen)
        digests.add(part.digest)
        [batch] = image_loader(part, train=False, batch_size=8, image_size=32, device="cpu")
        [of_whole] = image_loader(whole, train=False, batch_size=len(whole), image_size=32, device="cpu")
        assert torch.equal(batch.images, of_whole.images[chosen])
        assert batch.labels.tolist() == whole.labels[chosen].tolist()
    assert len(digests) == 5
    assert whole.take(torch.tensor([20, 3])).digest == whole.take([20, 3]).digest
