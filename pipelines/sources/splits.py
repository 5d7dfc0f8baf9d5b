"""What the sources of larger files have in common: which files are for training, and the class names."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..datasets import Dataset
from ..labels import most_classes
from ..readers.base import DataError
from ..readers.records import Index, Records
from ..readers.untrusted import read_lines
from .index import COLUMNS, Split, load_or_make
from .names import TEST, TRAIN, VAL, find_split, is_left_out, says

CLASSES = "classes.txt"


@dataclass(frozen=True)
class Source:
    """A kind of larger file that holds many images.

    Attributes:
        kind: Its name, as in "a folder of …".
        matches: Returns whether an entry of a folder is one.
        scan: Lists what the file at a path holds: arrays of equal length, one of them "label".
        reader: Returns the reader of the images that an index lists.
        from_one: Whether labels may begin at 1.
        columns: Names of the arrays.
    """

    kind: str
    matches: Callable[[os.DirEntry], bool]
    scan: Callable[[str], dict[str, np.ndarray]]
    reader: Callable[[Index], Records]
    from_one: bool = False
    columns: tuple[str, ...] = COLUMNS


def table(rows: list[tuple[int, int, int]]) -> dict[str, np.ndarray]:
    """Return the byte ranges and labels of a file's images, (offset, size, label), as `Source.scan` does."""
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return dict(zip(COLUMNS, map(np.ascontiguousarray, columns), strict=True))


def find_records(top: Path, train: bool, source: Source) -> Dataset | None:
    """Find the images in the files of a kind; None where there is no such file.

    The files are those in `top/train` and `top/val` (or `training`, `validation`, in any case), else those in `top`
    with the words "train" and "val" in their names; where no name has either, all files are for both. Where there are
    none for validation, those for tests take their place.

    Raises:
        DataError: There are files for training or for validation only, or one that is named for both; a file cannot be
            used; see `read_classes`.
    """
    split = _find_split(top, source, TRAIN)
    if split is None:
        if _matching(top, source):
            raise _lacks(top, source, TRAIN)
        return None
    index = load_or_make(split, source.kind, source.scan, source.columns)
    labels = index.arrays["label"]
    shift = int(source.from_one and _begins_at_one(top, labels))
    classes = read_classes(top, split.folder, labels - shift)
    if not train and split.name == TRAIN:
        split = _find_split(top, source, VAL) or _find_split(top, source, TEST)
        if split is None:
            raise _lacks(top, source, VAL)
        index = load_or_make(split, source.kind, source.scan, source.columns)
        labels = index.arrays["label"]
        read_classes(top, split.folder, labels - shift, classes)
    return Dataset(classes, labels - shift, str(top), source.reader(index))


def _find_split(top: Path, source: Source, name: str) -> Split | None:
    folder = find_split(top, name)
    if folder is not None and (files := _matching(folder, source)):
        return Split(name, folder, files)
    files = _matching(top, source)
    if files and not any(says(file, TRAIN) or says(file, VAL) for file in files):
        return Split("all", top, files)
    if both := next((file for file in files if says(file, TRAIN) and says(file, VAL)), None):
        raise DataError(
            f"'{top / both}' has both '{TRAIN}' and '{VAL}' in its name: rename it, or sort such files into folders "
            f"'{TRAIN}' and '{VAL}'."
        )
    chosen = [file for file in files if says(file, name) and (name == TRAIN or not says(file, TRAIN))]
    return Split(name, top, chosen) if chosen else None


def _lacks(top: Path, source: Source, name: str) -> DataError:
    return DataError(
        f"'{top}' holds {source.kind}, but none for {'training' if name == TRAIN else 'validation'}: it needs a "
        f"folder '{name}' of them, or some with '{name}' in their names."
    )


def _matching(folder: Path, source: Source) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not is_left_out(entry.name) and source.matches(entry))


def read_classes(top: Path, of: Path, labels: np.ndarray, classes: list[str] | None = None) -> list[str]:
    """Return the class names: `classes`, else the lines of `top/classes.txt`, else numbers up to the greatest label.

    Raises:
        DataError: One of `labels`, which belong to `of`, is not the number of a class.
    """
    least, greatest = int(labels.min()), int(labels.max())
    classes = classes if classes is not None else _listed_classes(top)
    if classes is None:
        limit = most_classes(len(labels))
        if greatest >= limit:
            raise DataError(
                f"'{of}' has the label {greatest}, and {len(labels)} images: labels of so few images must be below "
                f"{limit}, or else '{top / CLASSES}' must have a line for each class."
            )
        classes = [str(number) for number in range(greatest + 1)]
    if not 0 <= least <= greatest < len(classes):
        raise DataError(
            f"'{of}' has labels from {least} to {greatest}, but there are {len(classes)} classes: those in "
            f"'{top / CLASSES}', or else those of the training images. Labels must be from 0 to {len(classes) - 1}."
        )
    return classes


def _listed_classes(top: Path) -> list[str] | None:
    if not os.path.lexists(top / CLASSES):
        return None
    return [line.strip() for line in read_lines(top / CLASSES, strict=True) if line.strip()]


def _begins_at_one(top: Path, labels: np.ndarray) -> bool:
    classes = _listed_classes(top)
    return labels.min() == 1 if classes is None else labels.max() == len(classes)
