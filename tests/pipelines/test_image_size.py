"""Progressive resizing: another size of images from the next epoch on, resumed exactly."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn
from nvidia.dali.data_node import DataNode
from PIL import Image

from pipelines import Batch, GraphBatch, GraphTransform, ImageLoader, image_loader


def _loader(root: Path, **changes: Any) -> ImageLoader:
    options = {"batch_size": 16, "image_size": 32, "device": "cpu", "num_threads": 1, "seed": 3}
    return image_loader(root, **(options | {"policy": "flips_rotation", "with_matrices": True} | changes))


def _assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        for name in ("images", "augmented", "matrices", "labels", "indices"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert one.replaced == other.replaced


def _epochs(root: Path, sizes: list[Any], **changes: Any) -> list[list[Batch]]:
    """Each epoch by a loader that never had another size."""
    epochs = []
    for epoch, size in enumerate(sizes):
        loader = _loader(root, image_size=size, **changes)
        loader.set_epoch(epoch)
        epochs.append(list(loader))
    return epochs


SIZES: list[Any] = [16, (24, 40), 32]


@pytest.mark.parametrize("layout", ["folders", "cifar"])
def test_each_epoch_is_that_of_a_loader_of_its_size(layout: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(layout)
    loader = _loader(root)
    for size, expected in zip(SIZES, _epochs(root, SIZES), strict=True):
        loader.set_image_size(size)
        assert loader.image_size == (size if isinstance(size, tuple) else (size, size))
        _assert_same(list(loader), expected)


def test_an_epoch_is_finished_at_its_size(folders: Path) -> None:
    first, second, _ = _epochs(folders, [32, (24, 40), 32])
    loader = _loader(folders)
    iterator = iter(loader)
    assert next(iterator).images.shape[2:] == (32, 32)
    loader.set_image_size((24, 40))
    assert loader.image_size == (32, 32)
    _assert_same(list(iterator), first[1:])
    assert loader.image_size == (24, 40)
    _assert_same(list(loader), second)
    loader.set_epoch(0)  # after a break, and by a jump
    next(iter(loader))
    loader.set_image_size(32)
    loader.set_epoch(0)
    _assert_same(list(loader), first)
    iterator = iter(loader)  # of which no batch has been returned
    loader.set_image_size((24, 40))
    _assert_same(list(iterator), second)


@pytest.mark.parametrize("given", [0, 1, 3])
@pytest.mark.parametrize("own", [32, (24, 40), 16])
def test_a_run_resumes_exactly(folders: Path, given: int, own: Any) -> None:
    """In an epoch of 32 × 32 whose next one has been set to 24 × 40, by a loader that was made for any size."""
    loader = _loader(folders)
    list(loader)
    iterator = iter(loader)
    for _ in range(given):
        next(iterator)
    loader.set_image_size((24, 40))
    state = json.loads(json.dumps(loader.state_dict()))
    assert state["image_size"] == [24, 40]
    assert state["configuration"]["image_size"] == (32 if given else [24, 40])
    rest = [*iterator, *loader]

    resumed = _loader(folders, image_size=own)
    next(iter(resumed))  # and its batches made ahead are dropped
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.set_epoch(1)
    if given == 3:
        assert not list(resumed)  # the epoch is over
        _assert_same(list(resumed), rest)
    else:
        _assert_same([*resumed, *resumed], rest)


def test_a_state_that_is_refused_changes_no_size(folders: Path) -> None:
    loader, other = _loader(folders), _loader(folders, image_size=24)
    for state in (
        other.state_dict() | {"batch": -1},
        other.state_dict() | {"bad_files": 3},
        _loader(folders, image_size=24, seed=4).state_dict(),
    ):
        with pytest.raises(ValueError, match=r"state|seed"):
            loader.load_state_dict(state)
        assert loader.image_size == (32, 32)
        assert loader.state_dict()["image_size"] == 32
    with pytest.raises(ValueError, match=r"image_size must be an integer .* got 0"):
        loader.set_image_size(0)
    assert loader.image_size == (32, 32)


def test_validation_keeps_its_rule(folders: Path) -> None:
    options: dict[str, Any] = {"train": False, "policy": None, "with_matrices": False}
    loader = _loader(folders, crop_pct=0.8, **options)
    assert loader.recipe.resize_to == (40, 40)
    loader.set_image_size((24, 40))
    assert loader.recipe.resize_to == (30, 50)
    [expected, *_] = _loader(folders, image_size=(24, 40), crop_pct=0.8, **options)
    assert torch.equal(next(iter(loader)).images, expected.images)
    loader = _loader(folders, val_resize=40, **options)
    loader.set_image_size(40)
    with pytest.raises(ValueError, match=r"image_size must be at most val_resize = 40 on both sides, got \(24, 41\)"):
        loader.set_image_size((24, 41))
    assert loader.image_size == (40, 40)


def test_bad_files_stay_known(
    tmp_path: Path, make_photo: Callable[..., Image.Image], spoiled: Callable[..., dict[str, bytes]]
) -> None:
    (tmp_path / "only").mkdir()
    for index in range(9):
        make_photo(40 + index, 60, seed=index).save(tmp_path / "only" / f"{index}.jpg")
    for name, content in spoiled(make_photo(70, 60)).items():
        (tmp_path / "only" / name).write_bytes(content)
    options: dict[str, Any] = {"on_bad_file": "replace", "max_bad_share": 1.0, "batch_size": 4}
    expected = _epochs(tmp_path, [32, (24, 40)], **options)
    loader = _loader(tmp_path, **options)
    iterator = iter(loader)
    batches = [next(iterator), next(iterator)]
    replaced, known = loader.state_dict()["bad_files"]["replaced"], dict(loader.bad_files)
    assert known
    loader.set_image_size((24, 40))
    assert loader.state_dict()["bad_files"]["replaced"] == replaced
    _assert_same([*batches, *iterator], expected[0])
    known = dict(loader.bad_files)
    _assert_same(list(loader), expected[1])
    assert loader.bad_files.items() >= known.items()
    assert any(batch.replaced for batch in expected[1])


@dataclass(frozen=True)
class Cut(GraphTransform):
    """A black square at a place drawn for its size, by arrays of unlike names."""

    uniforms = 1

    def draw(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        return {"small": np.floor(numbers * 8).repeat(2, 1), "large": np.floor(numbers * 16).repeat(2, 1)}

    def __call__(self, images: DataNode, batch: GraphBatch) -> DataNode:
        corner = batch["small" if batch.image_size[0] <= 16 else "large"]
        return fn.erase(images, anchor=corner, shape=[4.0, 4.0], axis_names="HW")


@dataclass(frozen=True)
class Noisy(GraphTransform):
    """It draws random numbers in the graph, of larger images only."""

    def __call__(self, images: DataNode, batch: GraphBatch) -> DataNode:
        return images if batch.image_size[0] <= 16 else fn.noise.salt_and_pepper(images)


@pytest.mark.parametrize("place", ["before_policy", "after_policy"])
def test_transforms_are_tried_at_each_size(folders: Path, place: str) -> None:
    options = {place: Cut(), "views": 2, "with_matrices": False}
    batches = {}
    for size in (16, 32):
        batches[size] = next(iter(_loader(folders, image_size=size, **options)))
        other = _loader(folders, image_size=48 - size, **options)
        other.set_image_size(size)
        resumed = _loader(folders, image_size=48 - size, **options)
        resumed.load_state_dict(other.state_dict())
        for loader in (other, resumed):
            batch = next(iter(loader))
            assert torch.equal(batch.images, batches[size].images)
            for ours, theirs in zip(batch.augmented, batches[size].augmented, strict=True):
                assert torch.equal(ours, theirs)

    noisy = {place: Noisy()}
    loader = _loader(folders, image_size=16, **noisy)
    before = loader.state_dict()
    message = rf"^{place}: Noisy\(\) must not draw random numbers in the graph"
    with pytest.raises(ValueError, match=message):
        loader.set_image_size(32)
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict(before | {"image_size": 32})
    assert loader.state_dict() == before
    with pytest.raises(ValueError, match="the state is of another loader"):
        loader.load_state_dict(_loader(folders, image_size=32, **options).state_dict())
