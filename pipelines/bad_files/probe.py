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
from ..decoding import DecodingError, TooLarge, check_size, decode, for_dali
from ..forks import abandoned_in_children
from ..formats import article, format_of
from ..graph.pipeline import view_inputs, view_pipeline
from ..graph.recipe import Recipe
from ..names import printable
from ..readers.base import DataError

# The operators that fail on a bad file, as DALI's errors name them; reshape on one with too many pixels, and slice on
# one in which a GPU's decoder found another size.
_READING = tuple(f"`nvidia.dali.fn.{name}" for name in ("io.", "decoders.", "peek_image_shape`", "reshape`", "slice`"))


def reason(dataset: Dataset, index: int, max_pixels: int) -> DecodingError:
    """Return what is wrong with a sample that the loader's pipeline does not decode."""
    try:
        content = dataset.encoded(index)
    except OSError as error:
        return unreadable(error)
    try:
        check_size(content, max_pixels)
        if for_dali(content, max_pixels) is not content and dataset.reader.feed == "paths":
            return misnamed(content)
    except DecodingError as error:
        return _without_frames(error)
    return undecodable(content)


def unreadable(error: OSError) -> DecodingError:
    """Return why a file cannot be read."""
    return DecodingError(error.strerror or str(error))


def misnamed(content: bytes) -> DecodingError:
    """Return the error for a file that Pillow has to decode, and that goes to DALI because it has a JPEG's name."""
    form = format_of(content) or "unknown"
    if form == "JPEG":
        return DecodingError(
            "its metadata states different orientations, and it is not decoded correctly: keep one", unsupported=True
        )
    return DecodingError(
        f"it is {article(form)} file under the name of a JPEG file, and is not decoded correctly: rename it",
        unsupported=True,
    )


def undecodable(content: bytes) -> DecodingError:
    """Return why DALI cannot decode the content of a file, after `for_dali` has accepted it."""
    try:
        decode(content)
    except DecodingError as error:
        return _without_frames(error)
    return DecodingError(
        f"DALI does not support this form of {format_of(content)}, which Pillow decodes", unsupported=True
    )


def _without_frames(error: DecodingError) -> DecodingError:
    """Return an error to be kept: its traceback would keep the frames of all callers, and with them the loader."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def fault(dataset: Dataset, index: int, why: DecodingError) -> DataError:
    """Return the error for a sample that cannot be decoded, `why` being the reason."""
    if isinstance(why, TooLarge):
        remedy = "Raise max_pixels (each thread that decodes takes 3 bytes a pixel)"
    elif why.unsupported:
        remedy = "Convert the image to RGB of 8 bits, as JPEG or PNG"
    elif dataset.reader.kind == "files":
        remedy = "Delete or replace the file (a stopped run can be resumed only if it is replaced)"
    elif not dataset.reader.files:
        remedy = "Replace or leave out the sample (a stopped run can be resumed only if it is replaced)"
    else:
        remedy = (
            "Fetch or make the file that it is in again (a stopped run can be resumed only if all images keep their "
            "places in it)"
        )
    return DataError(
        f"cannot decode image '{printable(dataset.name(index))}': {why}. {remedy}, or use other samples in place of "
        'such images: on_bad_file="replace".'
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
