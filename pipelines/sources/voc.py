"""Pascal VOC's layout: a list of names in ImageSets/Main, for each an XML file in Annotations and an image."""

import os
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ..decoding import size_of
from ..formats import IMAGE_SUFFIXES
from ..labels.objects import DIFFICULT
from ..names import printable
from ..readers.base import DataError, reading_threads
from ..readers.untrusted import read_bytes, read_lines, untrusted
from .boxes import Annotated, Box, clipped, number, side

ANNOTATIONS, LISTS, IMAGES = "Annotations", Path("ImageSets", "Main"), "JPEGImages"
_MOST_BYTES = 2**24  # of an annotation; VOC's have a thousand
_DEEPEST = 64  # elements within one another; VOC's have 5


def is_voc(top: Path) -> bool:
    """Return whether a folder has VOC's layout."""
    return (top / ANNOTATIONS).is_dir() and (top / LISTS).is_dir()


def splits(top: Path) -> list[str]:
    """Return the names of the lists that a folder has."""
    return sorted(path.stem for path in (top / LISTS).glob("*.txt"))


def read(top: Path, split: str) -> list[Annotated]:
    """Return the images of a list and the objects in them.

    Coordinates are those of pixels, from 1, both ends included: (1, 1, w, h) is the whole image. Where an annotation
    lacks the size of its image, the image's header has it.

    Raises:
        DataError: A file is missing or not what it should be. The message names it, and the place in it.
    """
    path = top / LISTS / f"{split}.txt"
    with untrusted(top / IMAGES, "a folder of images"):
        files: dict[str, str] = {}
        for entry in sorted(os.listdir(top / IMAGES)):
            if entry.lower().endswith(IMAGE_SUFFIXES):
                files.setdefault(Path(entry).stem, os.path.join(top, IMAGES, entry))
    listed: list[tuple[str, str]] = []
    for number_of_line, line in enumerate(read_lines(path), start=1):
        name = line.strip()
        if not name:
            continue
        if name not in files:  # names with slashes or of other folders, too
            place = f"'{path}', line {number_of_line}"
            raise DataError(f"{place}: there is no image '{printable(name[:200])}' in '{top / IMAGES}'")
        listed.append((os.path.join(top, ANNOTATIONS, f"{name}.xml"), files[name]))
    if not listed:
        raise DataError(f"'{path}' lists no images")
    return list(reading_threads().map(_annotated, *zip(*listed, strict=True)))


def _annotated(path: str, file: str) -> Annotated:
    root = parse(path)
    width, height = (_side(root, name, path) for name in ("width", "height"))
    if not width or not height:
        with untrusted(file, "an image"):
            width, height = size_of(read_bytes(file))
        if not width or not height:
            raise DataError(f"'{path}': <size> states no size, and the header of '{printable(file)}' cannot be read")
    image = Annotated(file, f"'{path}'", (height, width))
    for count, element in enumerate(root.findall("object"), start=1):
        place = f"'{path}', object {count}"
        name = (element.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{place}: <name> must be the name of a class, and is missing or empty")
        difficult = (element.findtext("difficult") or "0").strip()
        if difficult not in ("0", "1"):
            raise DataError(f"{place}: <difficult> must be 0 or 1, got {printable(difficult[:80])}")
        box = _box(element, place)
        image.add(name, clipped(box, image.size, place), DIFFICULT if difficult == "1" else 0)
    return image


def _side(root: Element, name: str, path: str) -> int:
    text = root.findtext(f"size/{name}")
    return 0 if text is None or not text.strip() else side(text, f"'{path}'", f"<{name}>")


def _box(element: Element, place: str) -> Box:
    box = element.find("bndbox")
    if box is None:
        raise DataError(f"{place}: <bndbox> is missing")
    left, top, right, bottom = (
        number(box.findtext(name), place, f"<{name}>") for name in ("xmin", "ymin", "xmax", "ymax")
    )
    return left - 1, top - 1, right, bottom


def parse(path: str) -> Element:
    """Return the root of an XML file. Declarations of types and entities are refused: they can make a small file huge.

    Raises:
        DataError: The file cannot be read, or is no XML. The message gives the line.
    """
    with untrusted(path, "an annotation in XML"):
        content = read_bytes(path, _MOST_BYTES)
        builder, parser = TreeBuilder(), expat.ParserCreate()
        parser.StartDoctypeDeclHandler = partial(_refuse, path, "a document type declaration")
        parser.EntityDeclHandler = partial(_refuse, path, "an entity declaration")
        depth = 0

        def start(name: str, attributes: dict[str, str]) -> None:
            nonlocal depth
            depth += 1
            if depth > _DEEPEST:
                _refuse(path, f"more than {_DEEPEST} elements within one another")
            builder.start(name, attributes)

        def end(name: str) -> None:
            nonlocal depth
            depth -= 1
            builder.end(name)

        parser.StartElementHandler, parser.EndElementHandler = start, end
        parser.CharacterDataHandler = builder.data
        try:
            parser.Parse(content, True)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            raise DataError(f"'{path}', line {error.lineno}: no annotation in XML: {reason}") from error
        return builder.close()


def _refuse(path: str, what: str, *_: object) -> None:
    raise DataError(f"'{path}': it has {what}, which is refused: no annotation needs one")
