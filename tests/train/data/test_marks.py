"""Marks of the images: what counts as a change, what does not, and at which cost."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines import Dataset, find_dataset
from pipelines.readers.files import Files
from pipelines.readers.pixels import Pixels
from train.data.marks import first_change, marks_of


@pytest.fixture
def folder(shapes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shapes, tmp_path / "data"))  # with its times


def change(before: dict, folder: Path) -> str | None:
    dataset = find_dataset(folder, train=False)
    return first_change(before, marks_of(dataset), dataset)


def test_the_same_images_in_another_place(folder: Path, tmp_path: Path) -> None:
    before = marks_of(find_dataset(folder, train=False))
    assert before["samples"] == 16
    assert before["sizes"].tolist() == [os.path.getsize(f) for f in find_dataset(folder, train=False).reader.files]
    assert change(before, folder) is None
    assert change(before, folder.rename(tmp_path / "moved")) is None


def test_a_copy_without_its_times(folder: Path, tmp_path: Path) -> None:
    before = marks_of(find_dataset(folder, train=False))
    for file in folder.rglob("*.jpg"):
        os.utime(file, (10, 10))
    assert change(before, folder) is None
    changed = folder / "val" / "ring" / "0001.jpg"
    changed.write_bytes(changed.read_bytes() + b"\0")
    assert change(before, folder) == f"1 of 16 files have changed, first {changed}, by its size"


def test_contents_swapped(folder: Path) -> None:
    before = marks_of(find_dataset(folder, train=False))
    one, other = folder / "val" / "disc" / "0001.jpg", folder / "val" / "star" / "0000.jpg"
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    assert change(before, folder) == f"2 of 16 files have changed, first {one}, by its size"


def test_contents_of_the_same_size(folder: Path) -> None:
    before = marks_of(find_dataset(folder, train=False))
    one = folder / "val" / "disc" / "0001.jpg"
    content = bytearray(one.read_bytes())
    content[-40] ^= 1
    one.write_bytes(content)
    assert change(before, folder) == f"1 of 16 files have changed, first {one}, by its time of change"


def test_a_file_less_and_a_file_renamed(folder: Path) -> None:
    before = marks_of(find_dataset(folder, train=False))
    (folder / "val" / "disc" / "0001.jpg").rename(folder / "val" / "disc" / "0002.jpg")
    assert change(before, folder) == "other names, labels or contents"
    (folder / "val" / "disc" / "0002.jpg").unlink()
    assert change(before, folder) == "16 of them then, 15 now"


def test_pixels_are_hashed() -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    before, swapped = (
        Dataset(["a"], np.zeros(10, np.int64), "x", Pixels(pixels, "x")) for pixels in (images, images[::-1])
    )
    assert first_change(marks_of(before), marks_of(before), before) is None
    assert first_change(marks_of(before), marks_of(swapped), swapped) == "other names, labels or contents"


def test_files_in_a_store_and_files_that_are_not_there_are_not_asked() -> None:
    files = Files(["s3://bucket/a.jpg", "/not/there.jpg"])
    marks = marks_of(Dataset(["a"], np.zeros(2, np.int64), "s3://bucket", files))
    assert marks["sizes"].tolist() == marks["times"].tolist() == [0, 0]


def test_marks_of_many_files_take_little_time_and_room(folder: Path) -> None:
    file = str(folder / "val" / "disc" / "0000.jpg")
    dataset = Dataset(["a"], np.zeros(100_000, np.int64), str(folder), Files([file] * 100_000))
    assert dataset.digest  # needed anyway
    start = time.process_time()
    marks = marks_of(dataset)
    assert time.process_time() - start < 2
    assert sum(marks[name].numel() * marks[name].element_size() for name in ("sizes", "times")) == 800_000
