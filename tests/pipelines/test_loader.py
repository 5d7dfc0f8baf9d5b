"""The interface of the loader: coverage over shards, epochs, break, resume, partial batches, types, errors."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import Batch, DataError, ImageLoader, RandAugment, find_dataset, image_loader


def _loader(root: Path, **changes: Any) -> ImageLoader:
    options = {"batch_size": 8, "image_size": 32, "device": "cpu", "num_threads": 1, "seed": 3}
    return image_loader(root, **(options | changes))


def _assert_same(one: Batch, other: Batch) -> None:
    for name in ("images", "augmented", "labels", "indices", "matrices"):
        left, right = getattr(one, name), getattr(other, name)
        assert (left is None) == (right is None)
        assert left is None or torch.equal(left, right), name


def _joined(batches: list[Batch]) -> Batch:
    return Batch(
        **{
            name: torch.cat([getattr(batch, name) for batch in batches])
            for name in ("images", "augmented", "labels", "indices", "matrices")
        }
    )


@pytest.mark.parametrize(("batch_size", "world_size"), [(8, 1), (7, 2), (16, 3), (11, 4), (100, 1)])
def test_every_sample_once_over_shards_and_ranks_together_are_one_process(
    cifar: Path, batch_size: int, world_size: int
) -> None:
    options = {"policy": "randaugment", "with_matrices": True}
    whole = list(_loader(cifar, batch_size=batch_size * world_size, **options))
    ranks = [
        _loader(cifar, batch_size=batch_size, rank=rank, world_size=world_size, **options) for rank in range(world_size)
    ]
    parts = [list(loader) for loader in ranks]
    assert [len(loader) for loader in ranks] == [len(batches) for batches in parts]
    assert sorted(i for batch in whole for i in batch.indices.tolist()) == list(range(100))
    for number, batch in enumerate(whole):
        _assert_same(_joined([part[number] for part in parts if number < len(part)]), batch)


def test_a_data_set_in_place_of_its_folder(folders: Path) -> None:
    dataset = find_dataset(folders, train=False)
    reader = dataset.reader.take(np.array([20, 3]))
    (chosen,) = _loader(replace(dataset, reader=reader, labels=np.array([1, 2])), train=False, policy="randaugment")
    (whole,) = _loader(folders, train=False, batch_size=37)
    assert torch.equal(chosen.images, whole.images[[20, 3]])
    assert chosen.labels.tolist() == [1, 2]
    assert chosen.augmented is not None


def test_last_ranks_do_without_where_the_last_batch_is_too_small(cifar: Path) -> None:
    # 100 = 3 · 33 + 1
    lengths = [len(_loader(cifar, batch_size=11, rank=rank, world_size=3)) for rank in range(3)]
    assert lengths == [4, 3, 3]
    for rank in (0, 100):  # each is told, so that none waits for the others
        with pytest.raises(DataError, match=r"has 100 training images for 101 processes\. Start at most as many"):
            _loader(cifar, rank=rank, world_size=101)


def test_a_batch_is_typed_and_the_last_one_short(folders: Path) -> None:
    loader = _loader(folders, policy="trivialaugment", with_matrices=True)
    batches = list(loader)
    assert len(batches) == len(loader) == 5
    assert [len(batch.labels) for batch in batches] == [8, 8, 8, 8, 5]
    for batch in batches:
        count = len(batch.labels)
        assert batch.augmented is not None
        assert batch.matrices is not None
        for images in (batch.images, batch.augmented):
            assert images.shape == (count, 3, 32, 32)
            assert images.dtype == torch.float32
            assert images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.shape == batch.indices.shape == (count,)
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
        assert batch.matrices.shape == (count, 2, 3)
        assert batch.matrices.dtype == torch.float32
        assert batch.labels.tolist() == loader.dataset.labels[batch.indices.numpy()].tolist()
    plain = next(iter(_loader(folders)))
    assert plain.augmented is None
    assert plain.matrices is None


def test_float16_is_float32_rounded(folders: Path) -> None:
    half = next(iter(_loader(folders, dtype="float16", policy="randaugment")))
    full = next(iter(_loader(folders, dtype=torch.float32, policy="randaugment")))
    assert half.images.dtype == half.augmented.dtype == torch.float16
    torch.testing.assert_close(half.images.float(), full.images, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(half.augmented.float(), full.augmented, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("layout", ["folders", "cifar"])
def test_epochs_differ_and_repeat(layout: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(layout)
    one, other = _loader(root, policy="randaugment"), _loader(root, policy="randaugment", num_threads=2)
    first, second = list(one), list(one)
    assert not torch.equal(first[0].indices, second[0].indices)
    for batches in (first, second):
        for mine, theirs in zip(batches, other, strict=True):
            _assert_same(mine, theirs)
    one.set_epoch(0)
    for mine, theirs in zip(first, one, strict=True):
        _assert_same(mine, theirs)
    unlike = next(iter(_loader(root, seed=4)))
    assert not torch.equal(unlike.indices, first[0].indices)


@pytest.mark.parametrize("after", [1, 2, 4, 5])
def test_a_break_does_not_touch_the_next_epoch(folders: Path, after: int) -> None:
    reference = _loader(folders)
    list(reference)
    loader = _loader(folders)
    for number, _ in enumerate(loader, start=1):
        if number == after:
            break
    for mine, theirs in zip(loader, reference, strict=True):
        _assert_same(mine, theirs)
    assert loader.state_dict()["epoch"] == 2


def test_set_epoch_jumps_both_ways(cifar: Path) -> None:
    loader = _loader(cifar)
    epochs = [list(loader) for _ in range(3)]
    for epoch in (2, 0, 1, 1):
        loader.set_epoch(epoch)
        for mine, theirs in zip(loader, epochs[epoch], strict=True):
            _assert_same(mine, theirs)
    with pytest.raises(ValueError, match=r"epoch must be an integer from 0 to 2\*\*61, got -1"):
        loader.set_epoch(-1)


def test_an_iteration_ends_when_another_begins(cifar: Path) -> None:
    loader = _loader(cifar)
    first = iter(loader)
    next(first)
    second = iter(loader)
    with pytest.raises(RuntimeError, match="this iteration is over"):
        next(first)
    next(second)
    assert loader.state_dict()["epoch"] == 1
    assert len(list(second)) == len(loader) - 1


@pytest.mark.parametrize("layout", ["folders", "cifar"])
@pytest.mark.parametrize("given", [0, 1, 3, 5])
def test_a_fresh_loader_resumes_with_identical_batches(layout: str, given: int, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(layout)
    options = {"policy": "randaugment", "with_matrices": True, "batch_size": 8 if layout == "folders" else 20}
    loader = _loader(root, **options)
    list(loader)
    iterator = iter(loader)
    for _ in range(given):
        next(iterator)
    state = json.loads(json.dumps(loader.state_dict()))
    assert (state["epoch"], state["batch"]) == (1, given)
    rest = [*iterator, *loader]

    resumed = _loader(root, **options)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.set_epoch(1)  # a training loop's habit: it must not undo the restored place
    again = [*resumed, *resumed]
    assert len(again) == len(rest)
    for mine, theirs in zip(again, rest, strict=True):
        _assert_same(mine, theirs)


def test_the_state_after_an_epoch_is_the_start_of_the_next(folders: Path) -> None:
    loader = _loader(folders)
    list(loader)
    state = loader.state_dict()
    assert (state["epoch"], state["batch"]) == (1, 0)
    resumed = _loader(folders)
    resumed.load_state_dict(state)
    _assert_same(next(iter(resumed)), next(iter(loader)))


def test_a_state_after_the_last_batch_whose_end_nobody_asked_for(cifar: Path) -> None:
    """As Lightning leaves it: the next iteration is the next epoch, not the nothing that is left of this one."""
    loader = _loader(cifar)
    first, second = list(loader), list(loader)
    loader.set_epoch(0)
    iterator = iter(loader)
    for _ in first:
        next(iterator)
    state = loader.state_dict()
    assert (state["epoch"], state["batch"]) == (0, len(loader))
    resumed = _loader(cifar)
    resumed.load_state_dict(state)
    for mine, theirs in zip(resumed, second, strict=True):
        _assert_same(mine, theirs)
    resumed.load_state_dict(state)
    resumed.set_epoch(0)  # the loop means that epoch, and it is done
    assert not list(resumed)
    for mine, theirs in zip(resumed, second, strict=True):
        _assert_same(mine, theirs)


def test_restoring_in_the_middle_and_then_choosing_another_epoch(cifar: Path) -> None:
    loader = _loader(cifar)
    epochs = [list(loader) for _ in range(2)]
    loader.set_epoch(0)
    next(iter(loader))
    loader.load_state_dict(loader.state_dict())
    loader.set_epoch(1)
    for mine, theirs in zip(loader, epochs[1], strict=True):
        _assert_same(mine, theirs)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 4}, "seed: 3 in the state, 4 here"),
        ({"batch_size": 4}, "global_batch: 8 in the state, 4 here"),
        ({"policy": RandAugment(m=5)}, r"policy: 'None' in the state, 'RandAugment\(n=2, m=5\)' here"),
        ({"crop_ratio": (0.5, 1.0)}, r"ratio: \[0.75, 1.33.*\] in the state, \[0.5, 1.0\] here"),
        ({"horizontal_flip": 0}, "horizontal_flip: 0.5 in the state, 0 here"),
        ({"vertical_flip": 0.5}, "vertical_flip: 0.0 in the state, 0.5 here"),
        ({"resize_interpolation": "bicubic"}, "resize_interpolation: 'bilinear' in the state, 'bicubic' here"),
        ({"world_size": 2}, "global_batch: 8 in the state, 16 here"),
        ({"train": False}, "train: True in the state, False here"),
        ({"crop_scale": (0.5, 1.0)}, "crop_scale: .* in the state, .*0.5, 1.0.* here"),
        ({"dtype": "uint8"}, "dtype: 'float32' in the state, 'uint8' here"),
    ],
)
def test_a_state_of_another_configuration_is_refused(folders: Path, changes: dict, named: str) -> None:
    state = json.loads(json.dumps(_loader(folders).state_dict()))
    with pytest.raises(ValueError, match=named):
        _loader(folders, **changes).load_state_dict(state)


def test_a_state_of_other_data_is_refused(folders: Path, cifar: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset: .*samples: 37 in the state, 100 here"):
        _loader(cifar).load_state_dict(_loader(folders).state_dict())


@pytest.mark.parametrize("layout", ["folders", "cifar"])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("crop", ["auto", "random_resized", "pad"])
@pytest.mark.parametrize("image_size", [32, 48])
def test_every_crop_in_every_form(
    layout: str, train: bool, crop: str, image_size: int, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue(layout)
    loader = _loader(root, train=train, crop=crop, image_size=image_size, policy="autoaugment", batch_size=30)
    batch = next(iter(loader))
    assert batch.images.shape == batch.augmented.shape == (30, 3, image_size, image_size)
    assert batch.images.std() > 0.1
    # The policy changes most images and not all.
    changed = (batch.images != batch.augmented).flatten(1).any(dim=1).float().mean()
    assert 0.5 < changed < 1


@pytest.mark.parametrize("layout", ["folders", "cifar"])
def test_a_part_of_the_images(layout: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(layout)
    dataset = find_dataset(root).first(12)
    loader = _loader(root, images=12)
    assert loader.dataset.digest == dataset.digest
    batches = list(loader)
    assert sorted(i for batch in batches for i in batch.indices.tolist()) == list(range(12))
    for batch in batches:
        assert batch.labels.tolist() == dataset.labels[batch.indices.numpy()].tolist()
    state = _loader(root, images=13).state_dict()
    with pytest.raises(ValueError, match="samples: 13 in the state, 12 here"):
        loader.load_state_dict(state)


def test_validation_is_in_order_and_the_same_each_time(folders: Path) -> None:
    loader = _loader(folders, train=False)
    first, second = list(loader), list(loader)
    assert torch.cat([batch.indices for batch in first]).tolist() == list(range(37))
    for mine, theirs in zip(first, second, strict=True):
        _assert_same(mine, theirs)


def test_held_batches_are_never_overwritten(cifar: Path) -> None:
    loader = _loader(cifar, batch_size=5, policy="randaugment", with_matrices=True)
    held: list[Batch] = []
    copies: list[Batch] = []
    for batch in loader:
        held.append(batch)
        copies.append(_joined([batch]))
    assert len(held) == 20
    for _ in range(3):
        list(loader)
    for batch, copy in zip(held, copies, strict=True):
        _assert_same(batch, copy)


def test_two_loaders_do_not_disturb_one_another(cifar: Path) -> None:
    alone = list(_loader(cifar))
    validation = _loader(cifar, train=False)
    for mine, theirs in zip(_loader(cifar), alone, strict=True):
        _assert_same(mine, theirs)
        next(iter(validation))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer from 1 to 2147483647, got 0"),
        ({"image_size": 0}, r"image_size must be an integer from 1 to 16384, or two, \(height, width\), got 0"),
        ({"image_size": (32, 0)}, r"image_size must be .*, or two, \(height, width\), got \(32, 0\)"),
        ({"crop_ratio": (0, 1)}, r"crop_ratio must be two numbers, 0.001 <= least <= greatest <= 1000, got \(0, 1\)"),
        ({"horizontal_flip": 1.5}, "horizontal_flip must be from 0 to 1, got 1.5"),
        ({"val_resize": 0}, "val_resize must be None or an integer from 1 to 16384, got 0"),
        ({"val_resize": 40, "crop_pct": 0.9}, "crop_pct must be None with val_resize: both state the size .*, got 0.9"),
        ({"val_resize": 40, "train": False, "image_size": (30, 41)}, "image_size must be at most val_resize = 40 on"),
        ({"crop_pct": 87.5}, "crop_pct must be None or a number from 0.1 to 1, got 87.5"),
        ({"resize_interpolation": "area"}, "resize_interpolation must be one of bilinear, bicubic, got 'area'"),
        ({"images": 2.5}, "images must be None or an integer from 1 to 2147483647, got 2.5"),
        ({"images": 2}, "number of images to use must be from 3 to 37, got 2"),
        ({"seed": -1}, "seed must be an integer from 0 .* got -1"),
        ({"rank": 2, "world_size": 2}, "rank must be an integer from 0 to world_size - 1 = 1, got 2"),
        ({"num_threads": 0}, "num_threads must be None or an integer from 1 to 1024, got 0"),
        ({"hw_decoder_load": 1.5}, "hw_decoder_load must be None or a number from 0 to 1, got 1.5"),
        ({"decode_size_hint": (640, 0)}, r"decode_size_hint must be None or \(width, height\), .* got \(640, 0\)"),
        ({"decode_size_hint": (640,)}, r"decode_size_hint must be None or \(width, height\), .* got \(640,\)"),
        ({"dtype": "float64"}, "dtype must be one of float32, float16, bfloat16, uint8, got 'float64'"),
        ({"interpolation": "cubic"}, "interpolation must be one of nearest, linear, got 'cubic'"),
        ({"crop": "center"}, "crop must be one of auto, random_resized, pad, got 'center'"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale must be two numbers, 0 < least"),
        ({"crop_scale": 0.5}, "crop_scale must be two numbers, 0 < least .*, got 0.5"),
        ({"mean": 0.5}, "mean must be three numbers, got 0.5"),
        ({"decode_size_hint": 640}, r"decode_size_hint must be None or \(width, height\), .* got 640"),
        ({"std": (0.0, 1.0, 1.0)}, "std must be three numbers above 0"),
        ({"policy": "fancy"}, "policy must be one of autoaugment, .*randaugment.*, or a file .* got 'fancy'"),
        ({"policy": 3}, "policy must be None, a name, a file or a policy object, got 3"),
        ({"batch_size": 2.5}, "batch_size must be an integer from 1 to 2147483647, got 2.5"),
        ({"device": "tpu"}, "device must be 'auto', 'cpu'"),
        ({"with_matrices": True}, "with_matrices must be False without a policy"),
    ],
)
def test_bad_arguments_are_named(folders: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _loader(folders, **changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(folders: Path) -> None:
    with pytest.raises(ValueError, match="there is no GPU"):
        _loader(folders, device="cuda")
    assert _loader(folders, device="auto").device == torch.device("cpu")


def test_tiny_imagenet(real_data: Callable[[str], Path]) -> None:
    loader = _loader(real_data("tiny-imagenet-20"), train=False, image_size=64)
    assert (len(loader.dataset), len(loader.dataset.classes)) == (1000, 20)
    assert np.bincount(loader.dataset.labels).tolist() == [50] * 20


def test_cifar10(real_data: Callable[[str], Path]) -> None:
    loader = _loader(real_data("cifar-10-batches-py"), batch_size=500)
    assert sum(len(batch.labels) for batch in loader) == 50_000


def test_photographs_of_imagenet(real_data: Callable[[str], Path]) -> None:
    loader = _loader(real_data("imagenet-samples"), batch_size=50, image_size=64)
    assert sorted(i for batch in loader for i in batch.indices.tolist()) == list(range(500))


@pytest.mark.parametrize(("before", "after"), [((24, 1), (8, 3)), ((8, 3), (12, 2)), ((12, 2), (24, 1))])
def test_more_ranks_or_fewer_resume(cifar: Path, before: tuple[int, int], after: tuple[int, int]) -> None:
    """Where the global batch is the same, so are the rest of its batches; else the state is of another loader."""
    options: dict[str, Any] = {"policy": "randaugment", "with_matrices": True}
    whole = list(_loader(cifar, batch_size=24, **options))
    first = _loader(cifar, batch_size=before[0], world_size=before[1], **options)
    batches = iter(first)
    next(batches), next(batches)
    state = first.state_dict()
    ranks = [_loader(cifar, batch_size=after[0], rank=rank, world_size=after[1], **options) for rank in range(after[1])]
    for loader in ranks:
        loader.load_state_dict(state)
    rest = [list(loader) for loader in ranks]
    assert [len(batches) for batches in rest] == [len(whole) - 2] * after[1]
    for place, expected in enumerate(whole[2:]):
        parts = [batches[place] for batches in rest]
        for name in ("indices", "images", "augmented", "matrices", "labels"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(expected, name)), name
    with pytest.raises(ValueError, match=r"another loader\. global_batch: 24 in the state, 32 here"):
        _loader(cifar, batch_size=16, world_size=2, **options).load_state_dict(state)
