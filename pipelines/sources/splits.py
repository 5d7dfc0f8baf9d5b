"""What the sources of larger files have in common: which files are for training, and the class names."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..datasets import Dataset
from ..readers.base import DataError
from ..readers.records import Index, Records
from .index import Split, load_or_make

CLASSES = "classes.txt"
_VAL_FOLDERS = ("val", "validation")


@dataclass(frozen=True)
class Source:
    """A kind of larger file that holds many images.

    Attributes:
        kind: Its name, as in "a folder of …".
        matches: Returns whether an entry of a folder is one.
        scan: Lists what the file at a path holds: arrays of equal length, one of them "label".
        reader: Returns the reader of the images that an index lists.
        from_one: Whether labels may begin at 1.
    """

    kind: str
    matches: Callable[[os.DirEntry], bool]
    scan: Callable[[str], dict[str, np.ndarray]]
    reader: Callable[[Index], Records]
    from_one: bool = False


def table(rows: list[tuple[int, int, int]]) -> dict[str, np.ndarray]:
    """Return the byte ranges and labels of a file's images, (offset, size, label), as `Source.scan` does."""
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return dict(zip(("offset", "size", "label"), map(np.ascontiguousarray, columns), strict=True))


def find_records(top: Path, train: bool, source: Source) -> Dataset | None:
    """Find the images in the files of a kind; None where there is no such file.

    The files are those in `top/train` and `top/val` (or `validation`), else those in `top` with "train" and with "val"
    in their names; where no name has either, all files are for both.

    Raises:
        DataError: There are files for training or for validation only; a file cannot be used; see `read_classes`.
    """
    split = _find_split(top, source, "train")
    if split is None:
        if _matching(top, source):
            raise _lacks(top, source, "train")
        return None
    index = load_or_make(split, source.kind, source.scan)
    labels = index.arrays["label"]
    shift = int(source.from_one and _begins_at_one(top, labels))
    classes = read_classes(top, split.folder, labels - shift)
    if not train and split.name == "train":
        split = _find_split(top, source, "val")
        if split is None:
            raise _lacks(top, source, "val")
        index = load_or_make(split, source.kind, source.scan)
        labels = index.arrays["label"]
        read_classes(top, split.folder, labels - shift, classes)
    return Dataset(classes, labels - shift, str(top), source.reader(index))


def _find_split(top: Path, source: Source, name: str) -> Split | None:
    for folder in [top / folder for folder in (("train",) if name == "train" else _VAL_FOLDERS)]:
        if folder.is_dir() and (files := _matching(folder, source)):
            return Split(name, folder, files)
    files = _matching(top, source)
    if files and not any("train" in file.lower() or "val" in file.lower() for file in files):
        return Split("all", top, files)
    chosen = [file for file in files if name in file.lower()]
    return Split(name, top, chosen) if chosen else None


def _lacks(top: Path, source: Source, name: str) -> DataError:
    return DataError(
        f"'{top}' holds {source.kind}, but none for {'training' if name == 'train' else 'validation'}: it needs a "
        f"folder '{name}' of them, or some with '{name}' in their names."
    )


def _matching(folder: Path, source: Source) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and source.matches(entry))


def read_classes(top: Path, of: Path, labels: np.ndarray, classes: list[str] | None = None) -> list[str]:
    """Return the class names: `classes`, else the lines of `top/classes.txt`, else numbers up to the greatest label.

    Raises:
        DataError: One of `labels`, which belong to `of`, is not the number of a class.
    """
    classes = classes if classes is not None else _listed_classes(top)
    if classes is None:
        classes = [str(number) for number in range(labels.max() + 1)]
    if not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(
            f"'{of}' has labels from {labels.min()} to {labels.max()}, but there are {len(classes)} classes: those in "
            f"'{top / CLASSES}', or else those of the training images. Labels must be from 0 to {len(classes) - 1}."
        )
    return classes


def _listed_classes(top: Path) -> list[str] | None:
    if not (top / CLASSES).is_file():
        return None
    return [line.strip() for line in (top / CLASSES).read_text().splitlines() if line.strip()]


def _begins_at_one(top: Path, labels: np.ndarray) -> bool:
    classes = _listed_classes(top)
    return labels.min() == 1 if classes is None else labels.max() == len(classes)
