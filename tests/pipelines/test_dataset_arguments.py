"""The arguments of a data set and of its methods: an error that names them, or the right result."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import DataError, Dataset, find_dataset, image_loader
from pipelines.readers.files import Files
from pipelines.readers.pixels import Pixels

NAN, HUGE = float("nan"), 10**400
NO_INTEGERS: list[Any] = [
    None, "3", b"3", [3], {}, NAN, float("inf"), HUGE, 1j, True, np.True_, np.ones(3), object(), int, 2.0,
    np.float32(2), 2.5,
]  # fmt: skip


@pytest.fixture
def dataset() -> Dataset:
    images = np.arange(6 * 12, dtype=np.uint8).reshape(6, 2, 2, 3)
    return Dataset([*"abc"], np.array([0, 1, 2, 2, 1, 0]), "/data", Pixels(images, "/data"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("classes", None), ("classes", "abc"), ("classes", [1, 2, 3]), ("classes", np.array([*"abc"])), ("root", None),
     ("root", 3), ("root", Path("/data")), ("reader", None), ("reader", ["x.png"] * 6), ("reader", Pixels),
     *(("labels", labels) for labels in (
        None, 3, "abc", [0.0] * 6, np.zeros(6, np.float32), [True] * 6, ["0"] * 6, np.zeros((6, 1), int), [[0], [1, 2]],
        [0] * 5 + [None], [NAN] * 6, [0] * 5 + [3], [0] * 5 + [-1], [0] * 5 + [2**63], [0] * 5 + [HUGE],
        [0] * 5, [0] * 7,
        np.full(6, 999_999_999), np.full(6, 2**64 - 1, np.uint64), [], {0: 1},
     )),
     ("unlabelled", 1)],
)  # fmt: skip
def test_arguments_of_a_data_set(dataset: Dataset, name: str, value: Any) -> None:
    given = {field.name: getattr(dataset, field.name) for field in fields(Dataset)}
    with pytest.raises(ValueError, match=rf"\b{name.rstrip('s')}") as caught:
        Dataset(**(given | {name: value}))
    assert len(str(caught.value)) < 300


def test_labels_are_integers_of_any_kind(dataset: Dataset) -> None:
    for labels in ([0, 1, 2, 2, 1, 0], np.array([0, 1, 2, 2, 1, 0], np.uint8), np.array([0, 1, 2, 2, 1, 0], np.uint64)):
        same = Dataset(dataset.classes, labels, dataset.root, dataset.reader)  # type: ignore[arg-type]
        assert same.labels.dtype == np.int64
        assert same.digest == dataset.digest


def test_fewer_labels_than_paths_and_labels_out_of_range_say_so() -> None:
    with pytest.raises(DataError, match=r"^there must be one label for each image, got 2 for 3 images$"):
        Dataset(["a"], np.zeros(2, np.int64), "", Files(["1.png", "2.png", "3.png"]))
    with pytest.raises(
        DataError, match=r"^labels must be from 0 to 1, the places of the 2 classes, got 7 for '2.png'$"
    ):
        Dataset(["a", "b"], np.array([0, 7]), "", Files(["1.png", "2.png"]))


def test_images_without_a_class_are_not_trained_on(folders: Path) -> None:
    known = find_dataset(folders, train=False)
    labels = known.labels.copy()
    labels[5] = -1
    some = Dataset(known.classes, labels, known.root, known.reader, unlabelled=True)
    options: dict[str, Any] = {"batch_size": 37, "image_size": 32, "device": "cpu"}
    [batch] = image_loader(some, train=False, **options)
    assert batch.labels.tolist() == labels.tolist()
    for call in (lambda: image_loader(some, **options), lambda: some.first(5)):
        with pytest.raises(DataError, match=r"the class of '.*\.jpg' is not known; its label is −1"):
            call()


def test_taking_by_places_and_by_a_mask(dataset: Dataset) -> None:
    mask = np.array([False, True, False, False, True, True])
    for chosen in (mask, mask.tolist(), [1, 4, 5], np.array([1, 4, 5], np.uint8), (1, 4, 5), np.array([1, 4, 5])):
        taken = dataset.take(chosen)  # type: ignore[arg-type]
        assert taken.labels.tolist() == [1, 1, 0]
        assert isinstance(taken.reader, Pixels)
        assert taken.reader.images[:, 0, 0, 0].tolist() == [12, 48, 60]
    assert dataset.take(np.array([5, 5, 0])).labels.tolist() == [0, 0, 0]
    assert len(dataset.take([])) == len(dataset.take(np.zeros(6, bool))) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "chosen",
    [None, 3, 2.0, "abc", True, [0.0, 1.0], np.array([1.5]), [6], [-1], [0, 2**63], [HUGE], [NAN],
    np.zeros((2, 2), int),
     np.ones(5, bool), np.ones(7, bool), np.ones((6, 1), bool), ["1"], [None], [[1], [2, 3]], slice(3), {1, 2}],
)  # fmt: skip
def test_what_cannot_be_taken(dataset: Dataset, chosen: Any, refused: Callable) -> None:
    refused(lambda: dataset.take(chosen), "chosen", None)


def test_methods_of_a_data_set(dataset: Dataset, refused: Callable) -> None:
    for index in (*NO_INTEGERS, -1, 6, 10**30):
        refused(lambda index=index: dataset.name(index), "index", index)  # type: ignore[misc]
        refused(lambda index=index: dataset.encoded(index), "index", index)  # type: ignore[misc]
    for count in (*NO_INTEGERS, -1):
        refused(lambda count=count: dataset.first(count), "count", count)  # type: ignore[misc]
    assert len(dataset.first(np.int32(4))) == 4  # type: ignore[arg-type]
    assert dataset.name(np.uint8(3)) == dataset.name(3)  # type: ignore[arg-type]
    for other in (None, 3, [], "data", Dataset):
        refused(lambda other=other: dataset.shares_files(other), "other", None)  # type: ignore[misc]
