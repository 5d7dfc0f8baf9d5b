"""`drop_last`: a last global batch that is not full is left out, on all ranks alike."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import DataError, ImageLoader, image_loader


def _loader(root: Path, **changes: Any) -> ImageLoader:
    options = {"batch_size": 8, "image_size": 32, "device": "cpu", "num_threads": 1, "drop_last": True}
    return image_loader(root, **(options | changes))


def _indices(loader: ImageLoader) -> list[list[int]]:
    return [batch.indices.tolist() for batch in loader]


@pytest.mark.parametrize(
    ("batch_size", "world_size", "batches"), [(8, 1, 12), (33, 1, 3), (11, 3, 3), (25, 2, 2), (100, 1, 1), (7, 2, 7)]
)
@pytest.mark.parametrize("train", [True, False])
def test_full_batches_only_and_the_ranks_together_are_one_process(
    cifar: Path, batch_size: int, world_size: int, batches: int, train: bool
) -> None:
    if not train:
        batches = 30 // (batch_size * world_size)
        if not batches:
            return
    options = {"train": train, "batch_size": batch_size, "world_size": world_size}
    ranks = [_loader(cifar, rank=rank, **options) for rank in range(world_size)]
    whole = _loader(cifar, train=train, batch_size=batch_size * world_size)
    assert {len(loader) for loader in (*ranks, whole)} == {batches}
    for _ in range(2):  # epochs
        parts, together = [_indices(loader) for loader in ranks], _indices(whole)
        assert {len(part) for part in parts} == {batches}
        assert {len(batch) for part in parts for batch in part} == {batch_size}
        assert [list(itertools.chain(*shares)) for shares in zip(*parts, strict=True)] == together


def test_what_is_left_is_what_a_loader_with_the_last_batch_gives(cifar: Path) -> None:
    full, dropping = _loader(cifar, drop_last=False), _loader(cifar)
    left_out = []
    for _ in range(2):
        every, kept = _indices(full), _indices(dropping)
        assert every[:-1] == kept
        left_out.append(every[-1])
    assert left_out[0] != left_out[1]  # not the same images in each epoch
    assert _indices(_loader(cifar, batch_size=25)) == _indices(_loader(cifar, batch_size=25, drop_last=False))


def test_33_images_in_batches_of_32_are_no_batch_of_one(folders: Path) -> None:
    assert [len(batch.labels) for batch in _loader(folders, images=33, batch_size=32)] == [32]


def test_resuming_and_the_state(cifar: Path) -> None:
    loader = _loader(cifar, batch_size=30)
    iterator = iter(loader)
    next(iterator)
    state = json.loads(json.dumps(loader.state_dict()))
    rest = [batch.images for batch in (*iterator, *loader)]
    assert len(rest) == 2 + 3
    resumed = _loader(cifar, batch_size=30)
    resumed.load_state_dict(state)
    for mine, theirs in zip((*resumed, *resumed), rest, strict=True):
        assert torch.equal(mine.images, theirs)
    with pytest.raises(ValueError, match="drop_last: True in the state, False here"):
        _loader(cifar, batch_size=30, drop_last=False).load_state_dict(state)
    del state["image_size"]
    for option in ("drop_last", "horizontal_flip", "vertical_flip", "resize_interpolation"):
        del state["configuration"][option]  # from before there was the option
    with pytest.raises(ValueError, match="drop_last: False in the state, True here"):
        _loader(cifar, batch_size=30).load_state_dict(state)
    _loader(cifar, batch_size=30, drop_last=False).load_state_dict(state)


@pytest.mark.parametrize("options", [{"batch_size": 38}, {"batch_size": 19, "world_size": 2}])
def test_less_than_one_batch_is_an_error_on_all_ranks(folders: Path, options: dict[str, int]) -> None:
    for rank in range(options.get("world_size", 1)):
        with pytest.raises(DataError, match=r"has 37 training images, less than one global batch of \d × \d+, which"):
            _loader(folders, rank=rank, **options)
