"""Bad files replaced by other samples: each kind, over ranks, breaks and resumes, with the books in order."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import Batch, DataError, ImageLoader, find_dataset, image_loader
from pipelines.readers.files import Files

GOOD, CUT = 14, 6  # files that are whole, and JPEGs that are whole in some crops only
OPTIONS = {"batch_size": 4, "image_size": 32, "device": "cpu", "num_threads": 1, "seed": 5, "max_bad_share": 1.0}


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    make_photo: Callable[..., Image.Image],
    spoiled: Callable[[Image.Image], dict[str, bytes]],
) -> Path:
    """Good files and every kind of bad ones, in two classes."""
    root = tmp_path_factory.mktemp("spoiled")
    for name in "ab":
        (root / name).mkdir()
    for index in range(GOOD):
        make_photo(60 + index, 80, seed=index).save(root / "ab"[index % 2] / f"good{index:02}.jpg")
    for index in range(CUT):
        path = root / "ab"[index % 2] / f"cut{index}.jpg"
        make_photo(90, 70, seed=index).save(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * (0.4 + index / 10))])
    for index, (name, content) in enumerate(spoiled(make_photo(70, 60)).items()):
        (root / "ab"[index % 2] / name).write_bytes(content)
    (root / "a" / "missing.jpg").symlink_to(root / "nowhere.jpg")
    return root


def _loader(root: Any, **changes: Any) -> ImageLoader:
    return image_loader(root, on_bad_file="replace", **(OPTIONS | changes))


def _hopeless(loader: ImageLoader) -> set[int]:
    """The places of the files that are bad in every crop."""
    names = [Path(path).name for path in loader.dataset.reader.files]
    return {i for i, name in enumerate(names) if not name.startswith(("good", "cut")) and name != "truncated.jpg"}


def _same(one: Batch, other: Batch) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in Batch._fields]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


@pytest.mark.parametrize("train", [True, False])
def test_labels_indices_and_pixels_are_of_the_sample_that_is_given(folder: Path, train: bool) -> None:
    loader = _loader(folder, train=train, policy="flips_rotation", with_matrices=True)
    dataset, count = loader.dataset, len(loader.dataset)
    epochs = [list(loader) for _ in range(2)]
    hopeless = _hopeless(loader)
    assert len(hopeless) == 7
    for epoch, batches in enumerate(epochs):
        assert [len(batch.labels) for batch in batches] == [4] * (count // 4)
        given = torch.cat([batch.indices for batch in batches])
        assert torch.cat([batch.labels for batch in batches]).tolist() == dataset.labels[given.numpy()].tolist()
        replaced = {index for batch in batches for index in batch.replaced}
        assert hopeless <= replaced <= set(loader.bad_files)
        assert replaced.isdisjoint(given.tolist())
        assert set(range(count)) - replaced <= set(given.tolist())
        assert len(replaced) == sum(len(batch.replaced) for batch in batches)

        # The same pixels as of a data set that has the stand-ins' files in the bad ones' places.
        ordered = _order(loader, epoch if train else None)
        paths = list(dataset.reader.files)
        for index, stand_in in zip(ordered, given.tolist(), strict=True):
            paths[index] = dataset.reader.files[stand_in]
        mended = image_loader(
            replace(dataset, reader=Files(paths)), train=train, policy="flips_rotation", with_matrices=True, **OPTIONS
        )
        mended.set_epoch(epoch)
        for batch, expected in zip(batches, mended, strict=True):
            for name in ("images", "augmented", "matrices"):
                assert torch.equal(getattr(batch, name), getattr(expected, name)), name
    stand_ins = [
        torch.cat([batch.indices for batch in batches])[_at(loader, e, hopeless)] for e, batches in enumerate(epochs)
    ]
    assert torch.equal(*stand_ins) != train  # in validation the same each time


def _order(loader: ImageLoader, epoch: int | None) -> list[int]:
    from pipelines.draws import epoch_order

    count = len(loader.dataset)
    return list(range(count)) if epoch is None else epoch_order(count, OPTIONS["seed"], epoch).tolist()


def _at(loader: ImageLoader, epoch: int, indices: set[int]) -> torch.Tensor:
    order = _order(loader, epoch if loader.options.train else None)
    return torch.tensor([order.index(index) for index in sorted(indices)])


def test_files_that_are_whole_in_some_crops_are_given_in_those(folder: Path) -> None:
    loader = _loader(folder)
    cut = {i for i, path in enumerate(loader.dataset.reader.files) if Path(path).name.startswith("cut")}
    given, replaced = set(), set()
    for _ in range(4):
        for batch in loader:
            given |= cut.intersection(batch.indices.tolist())
            replaced |= cut.intersection(batch.replaced)
    assert given & replaced  # else what follows would not be tested on them


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_are_one_process(folder: Path, world_size: int) -> None:
    """Though each comes upon other bad files at another time."""
    whole = _loader(folder, batch_size=4 * world_size)
    ranks = [_loader(folder, rank=rank, world_size=world_size) for rank in range(world_size)]
    for _ in range(2):
        parts = [list(loader) for loader in ranks]
        assert len({len(part) for part in parts}) == 1
        for number, batch in enumerate(whole):
            mine = [part[number] for part in parts]
            assert torch.equal(batch.images, torch.cat([part.images for part in mine]))
            assert torch.equal(batch.indices, torch.cat([part.indices for part in mine]))
            assert batch.replaced == sum((part.replaced for part in mine), ())


def test_the_state_of_one_rank_resumes_all(folder: Path) -> None:
    """As where a framework has the first process alone write the checkpoint."""
    whole = [list(_loader(folder, rank=rank, world_size=2)) for rank in range(2)]
    for done in range(len(whole[0]) + 1):
        first = _loader(folder, rank=0, world_size=2)
        given = iter(first)
        for _ in range(done):
            next(given)
        state = json.loads(json.dumps(first.state_dict()))
        other = _loader(folder, rank=1, world_size=2)
        other.load_state_dict(state)
        other.set_epoch(0)
        rest = list(other)
        assert len(rest) == len(whole[1]) - done
        for batch, uninterrupted in zip(rest, whole[1][done:], strict=True):
            assert torch.equal(batch.images, uninterrupted.images)
            assert batch.indices.tolist() == uninterrupted.indices.tolist()
            assert batch.replaced == uninterrupted.replaced
    assert any(batch.replaced for batch in whole[1])  # else the one's bad files were not tested on the other


def test_resumed_anywhere_as_if_never_stopped(folder: Path) -> None:
    loader = _loader(folder)
    states, batches = [], []
    for _ in range(2):
        iterator = iter(loader)
        for batch in iterator:
            batches.append(batch)
            states.append(json.loads(json.dumps(loader.state_dict())))
    for done in (1, 5, 10):
        resumed = _loader(folder)
        resumed.load_state_dict(states[done - 1])
        assert resumed.state_dict() == states[done - 1]
        rest = [*resumed, *resumed][: len(batches) - done]
        assert len(rest) == len(batches) - done
        assert all(_same(a, b) for a, b in zip(rest, batches[done:], strict=True))
    # The share of the epoch goes on where it was.
    assert 0 < states[2]["bad_files"]["replaced"] < states[4]["bad_files"]["replaced"]


def test_a_break_and_a_jump(folder: Path) -> None:
    loader = _loader(folder)
    epochs = [list(loader) for _ in range(3)]
    again = _loader(folder)
    for epoch, stop in ((2, 1), (0, 3), (1, 2), (2, 100)):
        again.set_epoch(epoch)
        for number, (batch, expected) in enumerate(zip(again, epochs[epoch], strict=False)):
            assert _same(batch, expected)
            if number == stop:
                break


def test_each_file_is_named_once(folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture) -> None:
    loader = _loader(folder)
    for _ in range(3):
        list(loader)
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == len(set(named)) == len(loader.bad_files)
    for what, why in (
        ("a/missing.jpg", "No such file or directory"),
        ("a/empty.jpg", "the file is empty"),
        ("a/text.jpg", "it is no image of a known format, it begins with b'this is not an i'"),
        ("b/truncated.png", "its PNG data is damaged or cut short"),
    ):
        assert f"bad file '{folder}/{what}', replaced by another sample: {why}" in named
    errors = capfd.readouterr().err.count("[ERROR]")
    resumed = _loader(folder)
    resumed.load_state_dict(loader.state_dict())
    caplog.clear()
    list(resumed)
    assert not caplog.records
    assert errors <= 2 * len(named)  # of files known to be bad the decoders print nothing


def test_a_mended_file_is_given_again(folder: Path, make_photo: Callable[..., Image.Image]) -> None:
    loader = _loader(folder)
    list(loader)
    missing = folder / "nowhere.jpg"
    make_photo(64, 64).save(missing)
    try:
        batches = list(loader)
    finally:
        missing.unlink()
    index = loader.dataset.reader.files.index(str(folder / "a" / "missing.jpg"))
    assert index in loader.bad_files
    assert index in torch.cat([batch.indices for batch in batches])
    assert all(index not in batch.replaced for batch in batches)


def test_too_many_bad_files_stop_with_a_summary(folder: Path) -> None:
    loader = _loader(folder, max_bad_share=0.2)
    with pytest.raises(DataError) as caught:
        list(loader)
    message = str(caught.value)
    assert message.startswith("7 of this process's 28 samples of an epoch cannot be decoded so far, more than the")
    assert "max_bad_share=" in message
    assert message.endswith("more. To find them all: check_files in pipelines.bad_files.check.")
    assert "--" not in message
    assert message.count(f"'{folder}") == 5
    assert "\n" not in message


def test_a_folder_of_nothing_but_bad_files(folder: Path) -> None:
    dataset = find_dataset(folder)
    hopeless = dataset.take(np.array(sorted(_hopeless(_loader(folder)))))
    with pytest.raises(DataError, match=r"none of 16 samples tried in place of '.*' can be decoded\. Bad files: "):
        list(_loader(hopeless, max_bad_share=1.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_bad_file": "skip"}, "on_bad_file must be one of raise, replace, got 'skip'"),
        ({"max_bad_share": 1.5}, "max_bad_share must be from 0 to 1, got 1.5"),
    ],
)
def test_bad_arguments_are_named(folder: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_loader(folder, **(OPTIONS | changes))
