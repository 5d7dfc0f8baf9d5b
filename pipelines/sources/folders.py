"""Class folders: the layouts of ImageNet and TinyImageNet, and class folders alone."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..datasets import Dataset
from ..formats import IMAGE_SUFFIXES
from ..readers.base import DataError
from ..readers.files import files_reader
from ..readers.untrusted import read_lines
from . import imagenet
from .names import TEST, TRAIN, VAL, find_split, is_folder, is_left_out, note_left_out, says_any, subfolders

_ANNOTATIONS = "val_annotations.txt"
_KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")


def find_splits(top: Path) -> Path | None:
    """Return the folder that has class folders in `train`: `top`, or where Kaggle's archive of ImageNet has it.

    Raises:
        DataError: There are several folders for training.
    """
    for base in (top, *(top / folder for folder in _KAGGLE)):
        train_folder = find_split(base, TRAIN) if base.is_dir() else None
        # A folder 'train' that holds images directly is a class (of vehicles, say), not a split.
        if train_folder is not None and subfolders(train_folder):
            return base
    return None


def read_split(top: Path, base: Path, train: bool) -> Dataset:
    """Find the images of `base/train/<class>/…`, or of `base/val` in any of the layouts.

    Labels of both number the classes of `base/train`. Class folders in `base/test` replace a missing `base/val`.

    Args:
        top: The folder of the data.
        base: See `find_splits`.
        train: The training images, or else the validation images.

    Raises:
        DataError: `base/val` is missing, a class has no images, `base/val` has a class that `base/train` lacks, or its
            classes are not known.
    """
    train_folder, val_folder = find_split(base, TRAIN) or base / TRAIN, find_split(base, VAL)
    classes = subfolders(train_folder)
    if train:
        return _read_classes(top, train_folder, classes)
    if val_folder is None:
        test_folder = find_split(base, TEST)
        if test_folder is not None and subfolders(test_folder):
            return _read_classes(top, test_folder, classes)
        raise DataError(
            f"no folder '{base / VAL}' for validation beside '{train_folder}'. "
            f"Add it, or give '{train_folder}' itself to use the same images for both."
        )
    if os.path.lexists(val_folder / _ANNOTATIONS):
        return _read_annotations(top, val_folder, classes)
    left_out: Counter[str] = Counter()
    if not subfolders(val_folder) and (files := sorted(image_files(str(val_folder), left_out))):
        names = imagenet.validation_classes(top, base, files)
        check_known(set(names), classes, val_folder)
        return _of_files(top, classes, names, files, left_out)
    return _read_classes(top, val_folder, classes)


def has_images(top: Path) -> bool:
    """Return whether there are class folders in `top`, with an image in one of them."""
    return any(True for name in subfolders(top) for _ in image_files(str(top / name), Counter()))


def read_all(top: Path) -> Dataset:
    """Find the images of `top/<class>/…`.

    Raises:
        DataError: There are no class folders, they are not of classes, or a class has no images.
    """
    classes = subfolders(top)
    if len(classes) > 1 and all(map(says_any, classes)):
        raise DataError(
            f"the folders in '{top}' have names of parts of a data set, not of classes: {', '.join(classes[:5])}. Name "
            "those for training and for validation 'train' and 'val', with one sub-folder per class."
        )
    return _read_classes(top, top, classes)


def image_files(folder: str, left_out: Counter[str]) -> Iterator[str]:
    """Yield the paths of the images below a folder; count the files that are left out because of their suffix."""
    folders = [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if is_left_out(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif is_folder(entry):
                    continue
                elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                    yield entry.path
                else:
                    note_left_out(entry.name, left_out)


def _read_classes(top: Path, folder: Path, classes: list[str]) -> Dataset:
    present = subfolders(folder)
    if not present:
        raise DataError(f"'{folder}' holds no class folders. Put the images into one sub-folder per class.")
    check_known(set(present), classes, folder)
    paths: list[str] = []
    names: list[str] = []
    left_out: Counter[str] = Counter()
    for name in present:
        files = sorted(image_files(str(folder / name), left_out))
        if not files:
            raise DataError(
                f"class folder '{folder / name}' holds no images ({' '.join(IMAGE_SUFFIXES)}). "
                "Remove the folder or put images into it."
            )
        paths += files
        names += [name] * len(files)
    return _of_files(top, classes, names, paths, left_out)


def _read_annotations(top: Path, val_folder: Path, classes: list[str]) -> Dataset:
    rows = sorted(tuple(line.split("\t")[:2]) for line in read_lines(val_folder / _ANNOTATIONS) if line.strip())
    if not rows or any(len(row) < 2 for row in rows):
        raise DataError(
            f"'{val_folder / _ANNOTATIONS}' is empty or has a line without a tab. "
            "Each line is a file name, a tab and its class; fetch the data set again."
        )
    check_known({row[1] for row in rows}, classes, val_folder)
    return _of_files(top, classes, [row[1] for row in rows], [str(val_folder / "images" / row[0]) for row in rows])


def _of_files(
    top: Path, classes: list[str], names: list[str], paths: list[str], left_out: dict[str, int] | None = None
) -> Dataset:
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[name] for name in names], dtype=np.int64)
    return Dataset(classes, labels, str(top), files_reader(paths), left_out=dict(left_out or {}))


def check_known(present: set[str], classes: list[str], folder: Path) -> None:
    """Raise DataError if `folder` has classes that are not among `classes`."""
    unknown = sorted(present.difference(classes))
    if unknown:
        raise DataError(
            f"'{folder}' has {len(unknown)} class(es) that the training images lack: {', '.join(unknown[:5])}. "
            "Name the classes alike in both folders."
        )
