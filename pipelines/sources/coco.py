"""COCO's layout: one JSON file with the images, their objects and the classes, and a folder of images."""

import json
import logging
import os
from pathlib import Path
from typing import Any, NoReturn

from ..labels.objects import CROWD, LEAST_SIDE
from ..names import printable
from ..readers.base import DataError
from ..readers.untrusted import read_bytes, untrusted
from .boxes import Annotated, clipped, number, side

_MOST_BYTES = 2**33  # COCO's have half a gigabyte, Objects365's six
_log = logging.getLogger("pipelines")


def find(top: Path, split: str) -> tuple[Path, Path] | None:
    """Return the annotations and the folder of the images of COCO's own layout; None where there are none.

    That is annotations/instances_train2017.json beside train2017/, where the year may be absent or another.

    Raises:
        DataError: There are several.
    """
    files = sorted((top / "annotations").glob(f"instances_{split}*.json"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise DataError(f"'{top / 'annotations'}' has several files for '{split}': {names}. Name the one to use.")
    return (files[0], top / files[0].stem.removeprefix("instances_")) if files else None


def splits(top: Path) -> list[str]:
    """Return the names of the splits that a folder has in COCO's own layout."""
    return [path.stem.removeprefix("instances_") for path in sorted((top / "annotations").glob("instances_*.json"))]


def read(path: Path, images: Path) -> tuple[list[Annotated], list[str]]:
    """Return the images of a file of annotations with the objects in them, and the classes in the order of their ids.

    Boxes without width or height, of which COCO's own training data has one, are left out with a warning.

    Args:
        path: The JSON file.
        images: The folder that its file names are relative to.

    Raises:
        DataError: The file cannot be read, or is not what it should be. The message gives the place in it.
    """
    with untrusted(path, "annotations in JSON"):
        content = json.loads(read_bytes(path, _MOST_BYTES), parse_constant=_refuse_constant)
        classes = _classes(content, path)
        found = _images(content, path, images)
        empty = 0
        for place, entry in _entries(content, "annotations", path):
            image = found.get(_key(entry.get("image_id"), f"{place}: image_id"))
            if image is None:
                raise DataError(f"{place}: image_id {_shown(entry.get('image_id'))} is of none of the images")
            category = _key(entry.get("category_id"), f"{place}: category_id")
            if category not in classes:
                raise DataError(f"{place}: category_id {category} is none of the categories")
            crowd = entry.get("iscrowd", 0)
            if crowd not in (0, 1):
                raise DataError(f"{place}: iscrowd must be 0 or 1, got {_shown(crowd)}")
            box = entry.get("bbox")
            if not isinstance(box, list) or len(box) != 4:
                raise DataError(f"{place}: bbox must be [left, top, width, height], got {_shown(box)}")
            left, top, width, height = (number(_plain(value), place, "each of bbox") for value in box)
            if 0 <= min(width, height) < LEAST_SIDE:
                empty += 1
                continue
            corners = clipped((left, top, left + width, top + height), image.size, place)
            image.add(classes[category], corners, CROWD if crowd else 0)
    if empty:
        _log.warning("'%s': %d boxes without width or height are left out", path, empty)
    return list(found.values()), list(classes.values())


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _plain(value: Any) -> Any:
    return None if isinstance(value, str) else value  # text is a number in XML alone


def _shown(value: Any) -> str:
    return printable(repr(value)[:80])


def _entries(content: Any, name: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"'{path}': it must have a list '{name}', as COCO's annotations of instances have")
    found = []
    for count, entry in enumerate(entries):
        place = f"'{path}', {name}[{count}]"
        if not isinstance(entry, dict):
            raise DataError(f"{place}: must be an object in JSON, got {_shown(entry)}")
        found.append((place, entry))
    return found


def _key(value: Any, place: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{place} must be an integer, got {_shown(value)}")
    return value


def _classes(content: Any, path: Path) -> dict[int, str]:
    classes: dict[int, str] = {}
    for place, entry in _entries(content, "categories", path):
        number, name = _key(entry.get("id"), f"{place}: id"), entry.get("name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{place}: name must be a text that is not empty, got {_shown(name)}")
        if number in classes or name in classes.values():
            raise DataError(f"{place}: another category has the id {number} or the name '{printable(name[:80])}'")
        classes[number] = name
    if not classes:
        raise DataError(f"'{path}': it has no categories")
    return dict(sorted(classes.items()))


def _images(content: Any, path: Path, folder: Path) -> dict[int, Annotated]:
    images: dict[int, Annotated] = {}
    for place, entry in _entries(content, "images", path):
        number, name = _key(entry.get("id"), f"{place}: id"), entry.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            raise DataError(f"{place}: file_name must be a path, got {_shown(name)}")
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise DataError(f"{place}: file_name must be within '{folder}', got {_shown(name)}")
        if number in images:
            raise DataError(f"{place}: another image has the id {number}")
        size = tuple(side(_plain(entry.get(key)), place, key) for key in ("height", "width"))
        if not all(size):
            raise DataError(f"{place}: width and height must be those of the image in pixels, got 0")
        images[number] = Annotated(os.path.join(folder, name), place, (size[0], size[1]))
    if not images:
        raise DataError(f"'{path}': it lists no images")
    return images
