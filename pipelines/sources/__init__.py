"""The layouts of data that `find_dataset` recognises, one module each."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from ..datasets import Dataset
from ..formats import IMAGE_SUFFIXES
from ..names import printable
from ..readers.base import DataError
from ..readers.s3 import is_address
from ..readers.untrusted import untrusted
from . import cifar, file_list, folders, lmdb, s3, tar, tfrecord
from .folders import check_known
from .splits import find_records

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_RECORDS = (tar.SOURCE, tfrecord.SOURCE, lmdb.SOURCE)
_SHOWN = 5  # names in a message
_log = logging.getLogger("pipelines")


def find_dataset(root: str | os.PathLike[str], train: bool = True) -> Dataset:
    """Find the training or the validation images under `root`, without reading them (CIFAR: reads the pickles).

    The layout is recognised from what is there. docs/data.md describes the layouts in full:

    - CIFAR-10 / CIFAR-100: the python pickles, in `root` or in its usual sub-folder;
    - `root/train/<class>/…` and `root/val/<class>/…`, or `training`, `validation` or `valid`, in any case;
      `root/val/val_annotations.txt` beside `root/val/images/` (TinyImageNet); ImageNet as Kaggle and its archives have
      it, with the validation images in one folder. Labels number the classes of `root/train`;
    - `root/train.txt` and `root/val.txt`, or `root` is such a file: lines of a path and a label;
    - WebDataset shards, TFRecords and Caffe's LMDB, in `root/train` and `root/val` or by the words "train" and "val" in
      their names. What they hold is listed once, in an index;
    - `root/<class>/…`: the same images for training and validation;
    - `s3://bucket/root`: class folders, with train/ and val/ or without, in a store that speaks S3.

    Where there are no validation images, those for tests take their place: `test`, `testing`, `test.txt`.

    In class folders, nested files belong to the class folder above them. Hidden files and folders, those that systems
    leave (`@eaDir`, `__MACOSX`, `lost+found` and the like), files without an image suffix (`IMAGE_SUFFIXES`, in any
    case) and links to folders inside a class are ignored.

    The logger "pipelines" warns of a data set of one class, of classes that have no validation images, and, once, of
    files that are left out because of their suffix (`Dataset.left_out`).

    Args:
        root: Folder of the data.
        train: The training images, or else the validation images.

    Returns:
        The data set. Class folders are sorted by class name, then by path; others are in the order of the list or the
        shards.

    Raises:
        DataError: The folder is missing or empty, a class has no images, the validation images have a class that the
            training images lack, or a file cannot be read or is not what it seems to be. Whatever the files hold, no
            other error is raised, and nothing that they name is run.
    """
    dataset = _find_anywhere(root, train)
    _warn(dataset, train)
    return dataset


def find_validation(root: str | os.PathLike[str], classes: Sequence[str]) -> Dataset:
    """Find validation images that are not beside the training images, in any layout of `find_dataset`.

    Where `root` has training images too, its validation images count, otherwise all that it has.

    Args:
        root: Folder of the validation images.
        classes: Of the training images. Classes agree by name.

    Returns:
        The data set, whose labels number `classes`.

    Raises:
        DataError: As `find_dataset`, or the images have a class that is not in `classes`.
    """
    dataset = _find_anywhere(root, train=False)
    given = dataset.class_indices
    here = [dataset.classes[label] for label in np.unique(given[given >= 0])]
    check_known(set(here), list(classes), Path(dataset.root))
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number.get(name, -1) for name in dataset.classes], dtype=np.int64)[given]
    labels[given < 0] = -1
    dataset = replace(dataset, classes=list(classes), labels=labels)
    _warn(dataset, train=False)
    return dataset


def _find_anywhere(root: str | os.PathLike[str], train: bool) -> Dataset:
    if is_address(root):
        return s3.find(root, train)
    top = Path(root)
    with untrusted(top, "a data set"):
        return _find(top, train)


def _find(top: Path, train: bool) -> Dataset:
    if top.is_file():
        return file_list.read(top, train)
    if not top.is_dir():
        raise DataError(f"no folder '{top}'. Give the folder that holds the images, one sub-folder per class.")
    form = cifar.find(top)
    if form is not None:
        return cifar.read(*form, train=train)
    base = folders.find_splits(top)
    if base is not None:
        return folders.read_split(top, base, train)
    if os.path.lexists(top / file_list.TRAIN) and not (top / file_list.TRAIN).is_dir():
        return file_list.read(top / file_list.TRAIN, train)
    if folders.has_images(top):
        return folders.read_all(top)  # an archive beside class folders is what they were unpacked from
    for source in _RECORDS:
        dataset = find_records(top, train, source)
        if dataset is not None:
            return dataset
    compressed = [path for path in (*top.glob("*"), *top.glob("train/*")) if path.name.lower().endswith(_COMPRESSED)]
    if compressed:
        raise DataError(
            f"'{compressed[0]}' is compressed: its images cannot be read one by one. Give plain .tar files, with each "
            "image beside its class number, or unpack it."
        )
    return folders.read_all(top)


def _warn(dataset: Dataset, train: bool) -> None:
    """Warn of what looks like a mistake in the layout: any accuracy would be high, or say little."""
    if len(dataset.classes) == 1:
        _log.warning(
            "'%s' has one class only, '%s': every prediction is right. Is it the folder with one sub-folder per class?",
            printable(dataset.root),
            printable(dataset.classes[0]),
        )
    if dataset.left_out:
        _warn_once(f"'{printable(dataset.root)}': {left_out(dataset.left_out)}")
    if train:
        return
    lacking = np.setdiff1d(np.arange(len(dataset.classes)), dataset.class_indices)
    if len(lacking):
        names = ", ".join(printable(dataset.classes[label]) for label in lacking[:_SHOWN]) + ", …" * (
            len(lacking) > _SHOWN
        )
        _log.warning(
            "'%s' has no validation images of %d of the %d classes: %s",
            printable(dataset.root),
            len(lacking),
            len(dataset.classes),
            names,
        )


@cache  # the same files may be listed for training and for validation
def _warn_once(message: str) -> None:
    _log.warning("%s", message)


def left_out(counts: dict[str, int]) -> str:
    """Return a sentence on the files that are left out because of their suffix, by the counts per suffix."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count} {printable(suffix) or 'without one'}" for suffix, count in ordered[:_SHOWN]]
    shown += ["…"] * (len(counts) > _SHOWN)
    total = sum(counts.values())
    return (
        f"{total} file{'s' * (total > 1)} left out because of the suffix: {', '.join(shown)}. Images have the suffix "
        f"{', '.join(IMAGE_SUFFIXES)}."
    )
