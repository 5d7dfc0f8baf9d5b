"""Lists of files: text with a path and a label on each line."""

import os
from pathlib import Path

import numpy as np

from ..datasets import Dataset
from ..readers.base import DataError
from ..readers.files import files_reader
from ..readers.untrusted import read_lines
from .splits import read_classes

TRAIN, VAL, TEST = "train.txt", "val.txt", "test.txt"
_ADDRESS = "://"
_DIGITS = 18  # of a label
_SHOWN = 200  # characters of a line in a message


def read(path: Path, train: bool) -> Dataset:
    """Read a training list, or the `val.txt` beside it (else `test.txt`), with the training list's number of classes.

    Paths in a list that are not absolute begin in its folder.

    Raises:
        DataError: A list is missing or empty, has a line of another form, or a label that is not a class.
    """
    training = _read(path)
    classes = read_classes(path.parent, path, training[1])
    if train:
        return Dataset(classes, training[1], str(path.parent), files_reader(training[0]))
    beside = next((place for name in (VAL, TEST) if os.path.lexists(place := path.with_name(name))), None)
    if beside is None:
        raise DataError(
            f"no list '{path.with_name(VAL)}' for validation beside '{path}'. Add it: a path and a label on each line."
        )
    paths, labels = _read(beside)
    read_classes(path.parent, beside, labels, classes)
    return Dataset(classes, labels, str(path.parent), files_reader(paths))


def _read(path: Path) -> tuple[list[str], np.ndarray]:
    folder = f"{path.parent}/"
    paths: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(read_lines(path), start=1):
        words = line.rsplit(None, 1)
        if not words:
            continue
        if len(words) != 2 or not words[1].isdecimal() or len(words[1].lstrip("0")) > _DIGITS:
            got = repr(line[:_SHOWN])
            raise DataError(f"'{path}', line {number}: must be a path and a label, an integer from 0; got {got}")
        name = words[0].strip()
        paths.append(name if name.startswith("/") or _ADDRESS in name else folder + name)
        labels.append(int(words[1]))
    if not paths:
        raise DataError(f"the list '{path}' is empty. Each line must be a path and a label.")
    return paths, np.array(labels, dtype=np.int64)
