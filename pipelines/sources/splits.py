"""What the sources of larger files have in common: which files are for training, and the classes."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..datasets import DataError, Dataset, Records
from .index import Index, Split, load_or_make

CLASSES = "classes.txt"
_VAL_FOLDERS = ("val", "validation")


@dataclass(frozen=True)
class Source:
    """A kind of larger file that holds many images.

    Attributes:
        kind: Its name, as in "a folder of …".
        matches: Whether an entry of a folder is one.
        scan: Lists what a file of a path holds: arrays of equal length, "label" one of them.
        records: The images that an index lists.
        from_one: Whether labels may begin at 1.
    """

    kind: str
    matches: Callable[[os.DirEntry], bool]
    scan: Callable[[str], dict[str, np.ndarray]]
    records: Callable[[Index], Records]
    from_one: bool = False


def find_records(top: Path, train: bool, source: Source) -> Dataset | None:
    """The images in the files of a kind, or None where there is no such file.

    The files are those in `top/train` and `top/val` (or `validation`), else those in `top` with "train" and with "val"
    in their names; where no name has either, all are for both.

    Raises:
        DataError: There are files for training or for validation only; a file cannot be used; see `read_classes`.
    """
    split = _find_split(top, source, "train")
    if split is None:
        return None
    training = load_or_make(split, source.kind, source.scan)
    labels = training.arrays["label"]
    shift = int(source.from_one and _begins_at_one(top, labels))
    classes = read_classes(top, split.folder, labels - shift)
    index = training
    if not train and split.name == "train":
        split = _find_split(top, source, "val")
        assert split is not None
        index = load_or_make(split, source.kind, source.scan)
        labels = index.arrays["label"]
        read_classes(top, split.folder, labels - shift, classes)
    return Dataset(classes, labels - shift, str(top), records=source.records(index))


def _find_split(top: Path, source: Source, name: str) -> Split | None:
    folders = [top / folder for folder in (("train",) if name == "train" else _VAL_FOLDERS)]
    found = {folder: _matching(folder, source) for folder in folders if folder.is_dir()}
    for folder, files in found.items():
        if files:
            return Split(name, folder, files)
    files = _matching(top, source)
    if not (marked := [file for file in files if "train" in file.lower() or "val" in file.lower()]):
        if files:
            return Split("all", top, files)
        if name == "train":
            return None
    chosen = [file for file in marked if name in file.lower()]
    if not chosen:
        purpose = "training" if name == "train" else "validation"
        raise DataError(
            f"'{top}' holds {source.kind}, but none for {purpose}: it needs a folder '{name}' of them, or some with "
            f"'{name}' in their names."
        )
    return Split(name, top, chosen)


def _matching(folder: Path, source: Source) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and source.matches(entry))


def read_classes(top: Path, of: Path, labels: np.ndarray, classes: list[str] | None = None) -> list[str]:
    """Class names: `classes`, else the lines of `top/classes.txt`, else the numbers from 0 to the greatest label.

    Raises:
        DataError: A label, of what is in `of`, is beyond them.
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
