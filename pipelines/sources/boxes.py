"""What the sources of boxes have in common: an image as it is annotated, and boxes that are checked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..labels.objects import LEAST_SIDE
from ..names import printable
from ..readers.base import DataError

MAX_SIDE = 2**20  # of an image; no decoder takes more
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the image, whose corner is (0, 0)


@dataclass
class Annotated:
    """An image and the objects in it, as an annotation states them.

    Attributes:
        file: Of the image.
        place: Where the annotation is, for messages.
        size: Height and width of the image in pixels.
        names: Of each object's class.
        boxes, kinds: See `Objects`.
    """

    file: str
    place: str
    size: tuple[int, int]
    names: list[str] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)

    def add(self, name: str, box: Box, kind: int) -> None:
        """Add an object."""
        self.names.append(name)
        self.boxes.append(box)
        self.kinds.append(kind)


def number(value: Any, place: str, name: str) -> float:
    """Return a finite number that an annotation states, as a number or as text.

    Raises:
        DataError: It is none.
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"{place}: {name} must be a number, got {printable(repr(value)[:80])}")
    return found


def side(value: Any, place: str, name: str) -> int:
    """Return a side of an image in pixels, from 1 to `MAX_SIDE`, 0 if it is stated as 0: not known."""
    found = number(value, place, name)
    if not 0 <= found <= MAX_SIDE or found != int(found):
        raise DataError(f"{place}: {name} must be a whole number of pixels up to {MAX_SIDE}, got {found:g}")
    return int(found)


def clipped(box: Sequence[float], size: tuple[int, int], place: str) -> Box:
    """Return the part of a box that is within the image.

    Raises:
        DataError: There is none.
    """
    height, width = size
    left, right = (min(max(value, 0.0), float(width)) for value in box[::2])
    top, bottom = (min(max(value, 0.0), float(height)) for value in box[1::2])
    if min(right - left, bottom - top) < LEAST_SIDE:
        corners = ", ".join(f"{value:g}" for value in box)
        where = "is empty" if box[2] <= box[0] or box[3] <= box[1] else f"is outside of the image, {width}×{height}"
        raise DataError(f"{place}: the box from left, top to right, bottom ({corners}) {where}. Correct or remove it.")
    return left, top, right, bottom
