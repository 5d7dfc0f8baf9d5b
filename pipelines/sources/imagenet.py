"""The classes of ImageNet's validation images, where they lie in one folder as their archives have them."""

import os
import re
from pathlib import Path

from ..readers.base import DataError
from ..readers.untrusted import read_bytes, read_lines, untrusted
from .matlab import read_table

_CSV = "LOC_val_solution.csv"  # Kaggle's
_XML = "Annotations/CLS-LOC/val"  # Kaggle's, beside Data
_NUMBERS = "ILSVRC2012_validation_ground_truth.txt"  # the development kit's: a class number for each image
_TABLES = ("meta.mat", "map_clsloc.txt")  # beside it: the class of each number; the kit of 2012's, and later ones'
_KITS = ("", "data", "*devkit*", "*devkit*/data")
_NUMBER = re.compile(r"_(\d{8})\.")  # of an image, from 1
_LIMIT = 2**21  # bytes of a small file


def validation_classes(top: Path, base: Path, files: list[str]) -> list[str]:
    """Return the class of each validation image, the name of its folder in `train`.

    Args:
        top: The folder of the data.
        base: The folder of the training and the validation images.
        files: Paths of the images.

    Raises:
        DataError: The classes are not known.
    """
    above = list(dict.fromkeys((top, base, *list(base.absolute().parents)[:3])))
    for folder in above:
        if os.path.lexists(folder / _CSV):
            return _from_csv(folder / _CSV, files)
        if (folder / _XML).is_dir():
            return _from_xml(folder / _XML, files)
    for folder in above[:2]:
        for kit in _KITS:
            for place in sorted(folder.glob(f"{kit}/{_NUMBERS}".lstrip("/"))):
                return _from_kit(place, files)
    raise DataError(
        f"'{Path(files[0]).parent}' holds images but no class folders, and their classes are not known. Put them into "
        f"one sub-folder per class, as the training images are; or, for ImageNet, add to '{top}' Kaggle's '{_CSV}' or "
        f"the development kit, with '{_NUMBERS}' and '{_TABLES[0]}'."
    )


def _from_csv(path: Path, files: list[str]) -> list[str]:
    """Lines of the image's name, a comma, and its objects: class and four numbers each."""
    rows = [line.replace('"', "").partition(",") for line in read_lines(path)]
    known = {name.strip(): words[0] for name, _, objects in rows if (words := objects.split())}
    return [_of(known, Path(file).stem, file, path) for file in files]


def _from_xml(folder: Path, files: list[str]) -> list[str]:
    names = []
    for file in files:
        path = folder / f"{Path(file).stem}.xml"
        with untrusted(path, "an annotation"):
            text = read_bytes(path, _LIMIT).decode("utf-8", "surrogateescape")
        # No parser, which a document could keep busy: the class is the name in the first object.
        name = text.partition("<object>")[2].partition("<name>")[2].partition("</name>")
        if not name[1]:
            raise DataError(f"'{path}' names no class of an object. Fetch the data set again.")
        names.append(name[0].strip())
    return names


def _from_kit(path: Path, files: list[str]) -> list[str]:
    lines = [line.strip() for line in read_lines(path) if line.strip()]
    table = next((path.with_name(name) for name in _TABLES if os.path.lexists(path.with_name(name))), None)
    if table is None:
        raise DataError(f"'{path}' has class numbers; '{path.with_name(_TABLES[0])}', which names them, is missing.")
    with untrusted(table, "a table of ImageNet's classes"):
        classes = _mat_table(table) if table.suffix == ".mat" else _text_table(table)
    names = []
    for file in files:
        match = _NUMBER.search(os.path.basename(file))
        if match is None or not 1 <= int(match[1]) <= len(lines):
            raise DataError(f"'{file}' is not named as the images that '{path}' numbers: ILSVRC2012_val_00000001.JPEG.")
        names.append(_of(classes, lines[int(match[1]) - 1], file, path))
    return names


def _mat_table(path: Path) -> dict[str, str]:
    rows = read_table(read_bytes(path, _LIMIT), "synsets", ("ILSVRC2012_ID", "WNID"))
    return {number: name for number, name in rows}  # noqa: C416 - dict() of rows of any length has no type


def _text_table(path: Path) -> dict[str, str]:
    """Lines of the class, its number and its words."""
    return {words[1]: words[0] for line in read_lines(path) if len(words := line.split()) > 1}


def _of(known: dict[str, str], key: str, file: str, path: Path) -> str:
    if key not in known:
        raise DataError(f"'{path}' does not say the class of '{file}'. Fetch the data set again.")
    return known[key]
