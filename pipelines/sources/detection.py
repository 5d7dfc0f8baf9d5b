"""`find_detection`: images with boxes, in the layouts of Pascal VOC and COCO."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..arguments import path as path_of
from ..arguments import refuse, require
from ..datasets import Dataset
from ..labels.objects import Objects
from ..names import printable
from ..readers.base import DataError
from ..readers.files import files_reader
from ..readers.untrusted import untrusted
from . import coco, voc
from .boxes import Annotated

_SHOWN = 5  # names in a message


def find_detection(
    root: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    split: str = "train",
    *,
    annotations: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """Find images with boxes around objects, for `detection_loader`. It reads the annotations, not the images.

    The layouts:

    - Pascal VOC: `root/ImageSets/Main/<split>.txt`, `root/Annotations/*.xml` and `root/JPEGImages/`. Objects marked
      "difficult" are `DIFFICULT`;
    - `root` has such folders, as VOCdevkit has VOC2007 and VOC2012: all of them;
    - COCO: `root/annotations/instances_<split>*.json` beside `root/<split>*/`. Objects marked "iscrowd" are `CROWD`;
    - any folder of images with `annotations`, a file as COCO's.

    A box is clipped to its image. Whatever the files hold, the result is a data set or a DataError.

    Args:
        root: The folder, or several, whose images are joined in this order. Those that lack the split are left out, if
            another has it.
        split: As "train", "val", "trainval" or "test".
        annotations: A JSON file in COCO's form, of the images in `root`; `split` then has no effect.
        classes: The names of the classes, in their order, such as those of the training images. None: those of the
            annotations, by COCO's ids, or sorted by name in VOC's layout.

    Returns:
        The data set. Its labels are `Objects`.

    Raises:
        DataError: The folder has no such layout or no such split, or an annotation is missing or cannot be used: it is
            no XML or JSON, declares entities, is too large, names a file outside of the folder or a class that is not
            in `classes`, or has a box that is empty or outside of the image. The message names the file and the place.
        ValueError: An argument is of another type.
    """
    legal = "a folder, or a list of folders"
    several = isinstance(root, Sequence) and not isinstance(root, str)
    roots = [path_of("root", each, legal) for each in (root if several else [root])]  # type: ignore[union-attr]
    if not roots:
        refuse("root", root, legal)
    require("split", split, "the name of a split, such as 'train'", isinstance(split, str) and _is_plain(split))
    if annotations is not None:
        require("root", root, "one folder with annotations", len(roots) == 1)
        found, names = coco.read(Path(path_of("annotations", annotations, "a JSON file")), Path(roots[0]))
    else:
        found, names = _found([Path(each) for each in roots], split)
    if classes is not None:
        known = isinstance(classes, list | tuple) and classes and all(isinstance(name, str) for name in classes)
        require("classes", classes, "a list of names", bool(known))
        names = list(classes)
    return Dataset(names, _objects(found, names), _common(roots), files_reader([image.file for image in found]))


def _is_plain(split: str) -> bool:
    return bool(split) and not {"/", os.sep, "\0", "*", "?", "["} & set(split) and split not in (".", "..")


def _common(roots: list[str]) -> str:
    return roots[0] if len(roots) == 1 else os.path.commonpath([os.path.abspath(each) for each in roots])


def _found(roots: list[Path], split: str) -> tuple[list[Annotated], list[str]]:
    """Return the images of all folders, and the names of their classes."""
    tops: list[Path] = []
    for root in roots:
        with untrusted(root, "a folder"):
            if not root.is_dir():
                raise DataError(f"no folder '{root}'. Give the folder that holds the images and their annotations.")
            inner = [path for path in sorted(root.iterdir()) if path.is_dir() and voc.is_voc(path)]
        if voc.is_voc(root) or coco.splits(root) or not inner:
            tops.append(root)
        else:
            tops += inner
    found: list[Annotated] = []
    names: dict[str, None] = {}
    of_voc: set[str] = set()
    for top in tops:
        if voc.is_voc(top):
            if split in voc.splits(top):
                images = voc.read(top, split)
                of_voc.update(name for image in images for name in image.names)
                found += images
        elif (place := coco.find(top, split)) is not None:
            images, classes = coco.read(*place)
            names |= dict.fromkeys(classes)
            found += images
    if not found:
        raise DataError(_nothing(tops, split))
    return found, [*names, *sorted(of_voc - names.keys())]


def _nothing(tops: list[Path], split: str) -> str:
    there = sorted({name for top in tops for name in (voc.splits(top) if voc.is_voc(top) else coco.splits(top))})
    where = ", ".join(f"'{top}'" for top in tops[:_SHOWN])
    if there:
        return f"{where}: there is no split '{split}'. There are {', '.join(map(printable, there))}."
    return (
        f"{where}: neither Pascal VOC's layout (Annotations/, ImageSets/Main/, JPEGImages/) nor COCO's "
        f"(annotations/instances_{split}*.json and {split}*/)."
    )


def _objects(found: list[Annotated], classes: list[str]) -> Objects:
    if not classes:
        raise DataError(f"{found[0].place} and all other annotations have no objects")
    place = {name: number for number, name in enumerate(classes)}
    for image in found:
        for count, name in enumerate(image.names, start=1):
            if name not in place:
                known = ", ".join(map(printable, classes[:_SHOWN])) + ", …" * (len(classes) > _SHOWN)
                raise DataError(
                    f"{image.place}: the class of its object {count}, '{printable(name[:80])}', is not among the "
                    f"{len(classes)} known: {known}"
                )
    return Objects(
        boxes=np.array([box for image in found for box in image.boxes], dtype=np.float64).reshape(-1, 4),
        classes=np.array([place[name] for image in found for name in image.names], dtype=np.int64),
        kinds=np.array([kind for image in found for kind in image.kinds], dtype=np.uint8),
        starts=np.cumsum([0, *(len(image.boxes) for image in found)]),
        sizes=np.array([image.size for image in found], dtype=np.int64).reshape(-1, 2),
    )
