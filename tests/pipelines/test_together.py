"""Several small batches in one run of the pipeline: the same batches as one by one."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import Batch, DataError, ImageLoader, image_loader
from pipelines.loading import feed, loader


def _loader(root: Path, **changes: Any) -> ImageLoader:
    options = {"batch_size": 8, "image_size": 32, "device": "cpu", "num_threads": 1, "policy": "randaugment"}
    return image_loader(root, **(options | {"with_matrices": True, "with_views": True} | changes))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of batches in each run whose batches a loader has returned."""
    counted: list[int] = []
    batches_of = loader.batches_of

    def counting(*arguments: Any) -> list[Batch]:
        batches = batches_of(*arguments)
        counted.append(len(batches))
        return batches

    monkeypatch.setattr(loader, "batches_of", counting)
    return counted


def _one_by_one(monkeypatch: pytest.MonkeyPatch, root: Path, epochs: int, **options: Any) -> list[list[Batch]]:
    with monkeypatch.context() as patch:
        patch.setattr(feed, "_IMAGES", 1)
        alone = _loader(root, **options)
        return [list(alone) for _ in range(epochs)]


def _assert_equal(batch: Batch, expected: Batch) -> None:
    assert batch.replaced == expected.replaced
    for name in ("images", "augmented", "labels", "indices", "matrices", "views"):
        torch.testing.assert_close(getattr(batch, name), getattr(expected, name), rtol=0, atol=0)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", ["cifar", "folders"])
def test_the_batches_are_those_of_a_run_each(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, runs: list[int], kind: str, rank: int
) -> None:
    root, ranks = request.getfixturevalue(kind), {"rank": rank, "world_size": 2}
    expected = _one_by_one(monkeypatch, root, 2, **ranks)
    assert set(runs) == {1}
    runs.clear()
    monkeypatch.setattr(feed, "_IMAGES", 16)
    together = _loader(root, **ranks)
    for epoch in expected:
        batches = list(together)
        for batch, alone in zip(batches, epoch, strict=True):
            _assert_equal(batch, alone)
    count = len(expected[0])
    assert count % 2  # so that the last run of an epoch is a shorter one, not one with the next epoch's batches
    assert runs == [*[2] * (count // 2), 1] * 2


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_break_a_jump_and_a_resume_in_the_middle_of_a_run(
    cifar: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    first, second = _one_by_one(monkeypatch, cifar, 2)
    monkeypatch.setattr(feed, "_IMAGES", 24)
    original, resumed = _loader(cifar), _loader(cifar)
    for batch, alone in zip(islice(original, stop), first, strict=False):
        _assert_equal(batch, alone)
    resumed.load_state_dict(original.state_dict())
    for batch, alone in zip(resumed, first[stop:], strict=True):
        _assert_equal(batch, alone)
    for batch, alone in zip(original, second, strict=True):  # after a break comes the next epoch
        _assert_equal(batch, alone)
    original.set_epoch(0)
    _assert_equal(next(iter(original)), first[0])


def test_large_images_and_those_from_afar_have_a_run_each(cifar: Path, folders: Path) -> None:
    recipe = _loader(cifar, image_size=224).recipe
    assert feed.batches_together(recipe, 8) == 2
    assert feed.batches_together(recipe, 64) == 1
    assert feed.batches_together(_loader(cifar).recipe, 64) == 8
    assert feed.batches_together(_loader(cifar).recipe, 1000) == 1


def _damaged(folders: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return a folder with a file that is no image, and the file."""
    names = sorted(path.relative_to(folders) for path in folders.rglob("*.jpg"))
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((folders / name).read_bytes())
    bad = tmp_path / [name for name in names if "val" not in name.parts][-1]
    bad.write_bytes(bad.read_bytes()[:200])
    return tmp_path, bad


def test_an_error_comes_with_its_own_batch(folders: Path, tmp_path: Path, runs: list[int]) -> None:
    root, bad = _damaged(folders, tmp_path)
    together = _loader(root, shuffle=False)
    index = next(i for i in range(len(together.dataset)) if together.dataset.name(i).endswith(bad.name))
    returned = []
    with pytest.raises(DataError, match=bad.name):
        returned += together
    assert len(returned) == index // 8 > 0
    assert runs == [1] * len(returned)


def test_bad_files_are_replaced_as_in_a_run_each(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: list[int]
) -> None:
    root, _ = _damaged(folders, tmp_path)
    options = {"on_bad_file": "replace"}
    expected = _one_by_one(monkeypatch, root, 2, **options)
    runs.clear()
    together = _loader(root, **options)
    for epoch in expected:
        for batch, alone in zip(together, epoch, strict=True):
            _assert_equal(batch, alone)
    assert 1 in runs
    assert max(runs) > 1


@pytest.mark.parametrize(("images", "ahead"), [(1, 3), (32, 12)])
def test_no_more_is_made_ahead_than_it_says(
    cifar: Path, monkeypatch: pytest.MonkeyPatch, images: int, ahead: int
) -> None:
    monkeypatch.setattr(feed, "_IMAGES", images)
    together = _loader(cifar)
    assert together.ahead == ahead
    next(iter(together))
    made = 1 + len(together._ready) + sum(map(len, together._source.made))
    assert ahead * 2 / 3 <= made <= ahead
