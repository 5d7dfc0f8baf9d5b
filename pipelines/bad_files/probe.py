"""Whether an image can be decoded, and if not, why."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from nvidia.dali import Pipeline

from ..datasets import Dataset
from ..forks import abandoned_in_children
from ..graph.pipeline import Recipe, shape_pipeline, view_inputs, view_pipeline
from ..readers.base import DataError

# The first bytes of the formats that DALI decodes.
_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"RIFF": "WebP",
    b"\0\0\0\x0cjP": "JPEG 2000", b"P4": "PBM", b"P5": "PGM", b"P6": "PPM",
}  # fmt: skip
# The operators that fail on a bad file, as DALI's errors name them; reshape on one with too many pixels.
_READING = tuple(f"`nvidia.dali.fn.{name}" for name in ("io.", "decoders.", "peek_image_shape`", "reshape`"))


def reason(dataset: Dataset, index: int, max_pixels: int) -> str:
    """Return what is wrong with a sample that the loader's pipeline does not decode, in words."""
    try:
        content = dataset.encoded(index)
    except OSError as error:
        return unreadable(error)
    if complaint := too_large(content, max_pixels):
        return complaint
    return undecodable(content)


def unreadable(error: OSError) -> str:
    """Return why a file cannot be read."""
    return error.strerror or str(error)


class TooLarge(str):
    """The reason of an image that is not bad, but larger than it may be."""


def too_large(content: bytes, max_pixels: int) -> TooLarge | None:
    """Return the size of an image that is larger than the loader decodes; None if it is not, or has no size."""
    if not content:
        return None
    try:
        with native_errors_hidden():
            (shapes,) = shape_pipeline().run(content=[np.frombuffer(content, dtype=np.uint8)])
    except RuntimeError:
        return None
    height, width, _ = np.asarray(shapes.as_tensor())[0].tolist()
    if height * width <= max_pixels:
        return None
    return TooLarge(f"it has {width}×{height} pixels, more than max_pixels={max_pixels}")


def undecodable(content: bytes) -> str:
    """Return why the content of a file cannot be decoded."""
    if not content:
        return "the file is empty"
    for start, name in _BEGINNINGS.items():
        if content.startswith(start):
            return f"its {name} data is damaged or cut short"
    return f"it is no image of a known format, it begins with {content[:16]!r}"


def fault(dataset: Dataset, index: int, why: str) -> DataError:
    """Return the error for a sample that cannot be decoded, `why` being the reason."""
    if isinstance(why, TooLarge):
        remedy = "Raise max_pixels (each thread that decodes takes 3 bytes a pixel)"
    elif dataset.reader.kind == "files":
        remedy = "Delete or replace the file (a stopped run can be resumed only if it is replaced)"
    else:
        remedy = (
            "Fetch or make the file that it is in again (a stopped run can be resumed only if all images keep their "
            "places in it)"
        )
    return DataError(
        f"cannot decode image '{dataset.name(index)}': {why}. {remedy}, or use other samples in place of such "
        'images: on_bad_file="replace".'
    )


class Probe:
    """Decodes samples one at a time as the loader's pipeline does: the same part of the image, on the same device.

    A file that is cut short can be whole in one crop and not in another.

    Args:
        recipe: Of the loader.
        device_id: Of the GPU, None for the CPU.
    """

    def __init__(self, recipe: Recipe, device_id: int | None) -> None:
        self._recipe = recipe
        self._device_id = device_id
        self._serialized: bytes | None = None
        self._pipeline: Pipeline | None = None

    def __call__(self, arrays: dict[str, Any]) -> bool:
        """Return whether the sample can be decoded.

        Args:
            arrays: The inputs of the loader's pipeline, for a batch of one.

        Raises:
            RuntimeError: DALI fails for another reason.
        """
        if self._serialized is None:
            self._serialized = view_pipeline(self._recipe, device_id=self._device_id).serialize()
        if self._pipeline is None:
            self._pipeline = abandoned_in_children(Pipeline.deserialize(self._serialized))
        try:
            with native_errors_hidden():
                self._pipeline.run(**{name: contiguous(arrays[name]) for name in view_inputs(self._recipe)})
        except RuntimeError as error:
            self._pipeline = None  # dead after an error; a new one, deserialized, takes 8 ms (AMD EPYC)
            if not any(operator in str(error) for operator in _READING):
                raise  # not because of the file
            return False
        return True


def contiguous(array: Any) -> Any:
    """Return an array as DALI takes it, and a list of arrays unchanged."""
    return array if isinstance(array, list) else np.ascontiguousarray(array)


_hiding = threading.Lock()  # one at a time: a second one would restore the empty output of the first


@contextlib.contextmanager
def native_errors_hidden() -> Iterator[None]:
    """Discard what decoders print to the standard error of the process: a line for each bad file, without its name."""
    with _hiding:
        sys.stderr.flush()
        kept = os.dup(2)
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
