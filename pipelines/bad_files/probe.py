"""Why an image cannot be decoded."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from nvidia.dali import Pipeline

from ..datasets import Dataset
from ..graph.pipeline import Recipe, view_inputs, view_pipeline
from ..readers.base import DataError

# How files begin, of the formats that DALI decodes.
_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF": "WebP",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"P4": "PBM",
    b"P5": "PGM",
    b"P6": "PPM",
}
# The operators that fail where a file is bad, as DALI's errors name them.
_READING = tuple(f"`nvidia.dali.fn.{name}" for name in ("io.", "decoders.", "peek_image_shape`"))


def reason(dataset: Dataset, index: int) -> str:
    """What is wrong with a sample that DALI does not decode, in words."""
    try:
        content = dataset.encoded(index)
    except OSError as error:
        return unreadable(error)
    return undecodable(content)


def unreadable(error: OSError) -> str:
    return error.strerror or str(error)


def undecodable(content: bytes) -> str:
    if not content:
        return "the file is empty"
    for start, name in _BEGINNINGS.items():
        if content.startswith(start):
            return f"its {name} data is damaged or cut short"
    return f"it is no image of a known format, it begins with {content[:16]!r}"


def fault(dataset: Dataset, index: int, why: str) -> DataError:
    """The error that a sample which cannot be decoded is to the user."""
    if dataset.reader.kind == "files":
        remedy = "Delete or replace the file (a stopped run can be resumed only if it is replaced)"
    else:
        remedy = (
            "Fetch or make the file that it lies in again (a stopped run can be resumed only if all images keep their "
            "places in it)"
        )
    return DataError(
        f"cannot decode image '{dataset.name(index)}': {why}. {remedy}, or have other samples given in place of such "
        "images: --on-bad-file replace."
    )


class Probe:
    """Decodes samples one at a time as the loader's pipeline decodes them: the same part of the image, on the same
    device. A file that is cut short can be whole in one crop and not in another.

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
        """Whether the sample can be decoded; `arrays` as for the loader's pipeline, for a batch of one.

        Raises:
            RuntimeError: DALI fails at something else.
        """
        if self._serialized is None:
            self._serialized = view_pipeline(self._recipe, device_id=self._device_id).serialize()
        if self._pipeline is None:
            self._pipeline = Pipeline.deserialize(self._serialized)
        try:
            with native_errors_hidden():
                self._pipeline.run(**{name: contiguous(arrays[name]) for name in view_inputs(self._recipe)})
        except RuntimeError as error:
            self._pipeline = None  # dead after an error; a new one, deserialized, takes 8 ms (AMD EPYC)
            if not any(operator in str(error) for operator in _READING):
                raise  # it is not the file's fault
            return False
        return True


def contiguous(array: Any) -> Any:
    """An array as DALI takes it; a list of them as it is."""
    return array if isinstance(array, list) else np.ascontiguousarray(array)


_hiding = threading.Lock()  # one at a time: another would take the empty place for what it is to restore


@contextlib.contextmanager
def native_errors_hidden() -> Iterator[None]:
    """Drops what decoders print on the standard error of the process: a line for each bad file, without its name."""
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
