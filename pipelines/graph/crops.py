"""The sizes of images, and how they come to them: the choice of crop and resize, checked."""

import math
from typing import Any, NamedTuple

from ..arguments import finite, is_sequence, pair, refuse, require, require_one, span, whole
from ..datasets import Dataset
from ..readers.pixels import Pixels

Size = tuple[int, int]  # height, width

CROPS = ("auto", "random_resized", "pad")
RESIZE_INTERPOLATIONS = ("bilinear", "bicubic")
VAL_CROPS = ("center", "squash")
CROP_RATIO = (3 / 4, 4 / 3)  # torchvision's
PADDING = 4  # pixels, as for CIFAR
LEAST = 1e-6  # that is above 0: its reciprocal is far from the largest float
MAX_SIDE = 16_384  # of images returned: one takes 3 GiB
_MAX_RATIO = 1000
_LEAST_CROP_PCT = 0.1
_USUAL_CROP_PCT, _PHOTOGRAPH = 0.875, 128  # and the side from which on it is usual


class Fit(NamedTuple):
    """The sizes of images that are resized as a whole, their aspect kept, as for detection.

    Attributes:
        short_sides: One of them, drawn for each image, is its shorter side in pixels; in validation the last one,
        long_side: unless its longer side would be longer than this: then it has this length.
    """

    short_sides: tuple[int, ...]
    long_side: int


def image_size_of(value: Any, name: str = "image_size") -> Size:
    """Return (height, width) of an integer or of a pair."""
    legal = f"an integer from 1 to {MAX_SIDE}, or two, (height, width)"
    if is_sequence(value, 2):
        return pair(name, value, 1, MAX_SIDE, legal)
    side = whole(name, value, 1, MAX_SIDE, legal)
    return side, side


def in_short(size: Size) -> int | list[int]:
    """Return a size as it is in states: a square's side, or height and width."""
    return size[0] if size[0] == size[1] else list(size)


def check_crop(
    crop: object, crop_scale: object, crop_ratio: object, resize_interpolation: object
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return `crop_scale` and `crop_ratio`."""
    require_one("crop", crop, CROPS)
    require_one("resize_interpolation", resize_interpolation, RESIZE_INTERPOLATIONS)
    scale = span("crop_scale", crop_scale, "two numbers, 0 < least <= greatest <= 1", least=LEAST, most=1)
    legal = f"two numbers, {1 / _MAX_RATIO:g} <= least <= greatest <= {_MAX_RATIO}"
    return scale, span("crop_ratio", crop_ratio, legal, least=1 / _MAX_RATIO, most=_MAX_RATIO)


def check_validation(val_resize: object, crop_pct: object, val_crop: object) -> tuple[int | None, float | None]:
    """Return `val_resize` and `crop_pct`, one of which must be None."""
    require_one("val_crop", val_crop, VAL_CROPS)
    if val_crop == "squash":
        legal = "None with val_crop='squash', which crops nothing"
        require("val_resize", val_resize, legal, val_resize is None)
        require("crop_pct", crop_pct, legal, crop_pct is None)
    if val_resize is not None:
        require("crop_pct", crop_pct, "None with val_resize: both state the size before the crop", crop_pct is None)
        legal = f"None or an integer from 1 to {MAX_SIDE}"
        return whole("val_resize", val_resize, 1, MAX_SIDE, legal), None
    if crop_pct is None:
        return None, None
    number, legal = finite(crop_pct), f"None or a number from {_LEAST_CROP_PCT} to 1"
    if number is None or not _LEAST_CROP_PCT <= number <= 1:
        refuse("crop_pct", crop_pct, legal)
    return None, number


def check_fits(size: Size, val_resize: int | None) -> None:
    """Raise ValueError if a crop of this size may not fit in an image whose shorter edge is `val_resize`."""
    if val_resize is not None and max(size) > val_resize:
        raise ValueError(f"image_size must be at most val_resize = {val_resize} on both sides, got {size}")


def choose_crop(dataset: Dataset, crop: str, *, train: bool, val_crop: str | None) -> str:
    """Return `Recipe.crop`.

    Args:
        crop: One of `CROPS`.
        val_crop: Of decoded images too, one of `VAL_CROPS`; None: the middle of files, and images in memory whole.
    """
    in_memory = dataset.reader.kind == "pixels"
    if train:
        return crop if crop != "auto" else "pad" if in_memory else "random_resized"
    return "none" if val_crop == "squash" or (in_memory and val_crop is None) else "center"


def stored_size(dataset: Dataset) -> Size | None:
    """Return the size of images in memory; None for files, each of which has its own."""
    reader = dataset.reader
    return (reader.images.shape[1], reader.images.shape[2]) if isinstance(reader, Pixels) else None


def before_center_crop(size: Size, val_resize: int | None, crop_pct: float | None) -> Size:
    """Return the height and width that an image covers before a central crop: resized, its aspect kept, until it has
    one of them and at least the other.

    By `crop_pct`, these are timm's (`transforms_imagenet_eval`, crop mode "center"): the sides of the crop divided by
    it and rounded down.
    """
    if val_resize is not None:
        return val_resize, val_resize
    if crop_pct is not None:
        return math.floor(size[0] / crop_pct), math.floor(size[1] / crop_pct)
    if min(size) < _PHOTOGRAPH:
        return size
    return round(size[0] / _USUAL_CROP_PCT), round(size[1] / _USUAL_CROP_PCT)
