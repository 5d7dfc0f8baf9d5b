"""Class folders: the layouts of ImageNet and TinyImageNet, and class folders alone."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..datasets import IMAGE_SUFFIXES, Dataset
from ..readers.base import DataError
from ..readers.files import Files


def has_splits(top: Path) -> bool:
    """Return whether there are class folders in `top/train`."""
    # A folder 'train' that holds images directly is a class (of vehicles, say), not a split.
    return (top / "train").is_dir() and bool(_subfolders(top / "train"))


def read_split(top: Path, train: bool) -> Dataset:
    """Find the images of `top/train/<class>/…`, or of `top/val` in either layout.

    Labels of both number the classes of `top/train`.

    Raises:
        DataError: `top/val` is missing, a class has no images, or `top/val` has a class that `top/train` lacks.
    """
    train_folder, val_folder = top / "train", top / "val"
    classes = _subfolders(train_folder)
    if train:
        return _read_classes(top, train_folder, classes)
    if not val_folder.is_dir():
        raise DataError(
            f"no folder '{val_folder}' for validation beside '{train_folder}'. "
            f"Add it, or give '{train_folder}' itself to use the same images for both."
        )
    if (val_folder / "val_annotations.txt").is_file():
        return _read_annotations(top, val_folder, classes)
    return _read_classes(top, val_folder, classes)


def has_images(top: Path) -> bool:
    """Return whether there are class folders in `top`, with an image in one of them."""
    return any(True for name in _subfolders(top) for _ in _image_files(str(top / name)))


def read_all(top: Path) -> Dataset:
    """Find the images of `top/<class>/…`.

    Raises:
        DataError: There are no class folders, or a class has no images.
    """
    return _read_classes(top, top, _subfolders(top))


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _image_files(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _image_files(entry.path)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.is_dir():
                yield entry.path


def _read_classes(top: Path, folder: Path, classes: list[str]) -> Dataset:
    present = _subfolders(folder)
    if not present:
        raise DataError(f"'{folder}' holds no class folders. Put the images into one sub-folder per class.")
    check_known(set(present), classes, folder)
    number = {name: label for label, name in enumerate(classes)}
    paths: list[str] = []
    labels: list[int] = []
    for name in present:
        files = sorted(_image_files(str(folder / name)))
        if not files:
            raise DataError(
                f"class folder '{folder / name}' holds no images ({' '.join(IMAGE_SUFFIXES)}). "
                "Remove the folder or put images into it."
            )
        paths += files
        labels += [number[name]] * len(files)
    return _of_files(top, classes, labels, paths)


def _read_annotations(top: Path, val_folder: Path, classes: list[str]) -> Dataset:
    lines = (val_folder / "val_annotations.txt").read_text().splitlines()
    rows = sorted(tuple(line.split("\t")[:2]) for line in lines if line.strip())
    if not rows or any(len(row) < 2 for row in rows):
        raise DataError(
            f"'{val_folder / 'val_annotations.txt'}' is empty or has a line without a tab. "
            "Each line is a file name, a tab and its class; fetch the data set again."
        )
    check_known({row[1] for row in rows}, classes, val_folder)
    number = {name: label for label, name in enumerate(classes)}
    paths = [str(val_folder / "images" / row[0]) for row in rows]
    return _of_files(top, classes, [number[row[1]] for row in rows], paths)


def _of_files(top: Path, classes: list[str], labels: list[int], paths: list[str]) -> Dataset:
    return Dataset(classes, np.array(labels, dtype=np.int64), str(top), Files(paths))


def check_known(present: set[str], classes: list[str], folder: Path) -> None:
    """Raise DataError if `folder` has classes that are not among `classes`."""
    unknown = sorted(present.difference(classes))
    if unknown:
        raise DataError(
            f"'{folder}' has {len(unknown)} class(es) that the training images lack: {', '.join(unknown[:5])}. "
            "Name the classes alike in both folders."
        )
