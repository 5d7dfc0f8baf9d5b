# DALI's type stubs lack its enumerations and sub-modules.
# mypy: disable-error-code="attr-defined, arg-type, call-overload, return-value"
"""Finds the bad files of a data set by decoding every file."""

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from nvidia.dali import Pipeline, fn, pipeline_def, types
from nvidia.dali.data_node import DataNode
from PIL import Image

from ..datasets import Dataset
from .probe import undecodable, unreadable

CHUNK = 64  # files that a thread checks at a time
_JPEG = b"\xff\xd8\xff"
_local = threading.local()


class BadFile(NamedTuple):
    """What is wrong with a file.

    kind: "undecodable": a run fails on it. "damaged": it is decoded, to an image that is wrong at least in part.
    """

    name: str
    kind: str
    reason: str


def check_files(dataset: Dataset, *, threads: int, damaged: bool = True) -> Iterator[tuple[int, list[BadFile]]]:
    """Decode every file, in the data set's order, as a whole (training decodes only what it crops).

    DALI's CPU decoder decodes the file, as in a run, and then a strict one does: libjpeg-turbo with warnings as
    errors, which detects lost or overwritten byte ranges; Pillow for formats other than JPEG. Neither detects a flipped
    bit in the body of a JPEG file.

    Args:
        damaged: Look for damaged files too, which takes about twice the time.

    Yields:
        The number of files checked since the last time, and the bad ones among them.
    """

    def check(start: int) -> tuple[int, list[BadFile]]:
        chunk = range(start, min(start + CHUNK, len(dataset)))
        found = [_check(dataset, index, damaged) for index in chunk]
        return len(chunk), [bad for bad in found if bad is not None]

    pool = ThreadPoolExecutor(threads)
    try:
        yield from pool.map(check, range(0, len(dataset), CHUNK))
    finally:
        pool.shutdown(cancel_futures=True)


def _check(dataset: Dataset, index: int, damaged: bool) -> BadFile | None:
    name = dataset.name(index)
    try:
        content = dataset.encoded(index)
    except OSError as error:
        return BadFile(name, "undecodable", unreadable(error))
    if not (content and _decodes(content)):
        return BadFile(name, "undecodable", undecodable(content))
    complaint = _complaint(content) if damaged else None
    return None if complaint is None else BadFile(name, "damaged", complaint)


@pipeline_def(batch_size=1, num_threads=1, device_id=None, exec_pipelined=False, exec_async=False, exec_dynamic=False)
def _decode() -> DataNode:
    content = fn.external_source(name="content", dtype=types.UINT8, ndim=1)
    return fn.decoders.image(content, device="cpu", output_type=types.RGB)


def _decodes(content: bytes) -> bool:
    pipeline: Pipeline | None = getattr(_local, "pipeline", None)
    if pipeline is None:
        pipeline = _local.pipeline = _decode()
    try:
        pipeline.run(content=[np.frombuffer(content, dtype=np.uint8)])
    except RuntimeError:
        _local.pipeline = None  # dead after an error
        return False
    return True


def _complaint(content: bytes) -> str | None:
    """Return the error of a strict decoder on an image that DALI decodes; None if there is none."""
    import simplejpeg

    try:
        if content.startswith(_JPEG):
            # All of the data is read, but at an eighth of the size, in grey: the pixels are not needed.
            simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1, strict=True)
        else:
            with Image.open(io.BytesIO(content)) as image:
                image.load()
    except Exception as error:  # Pillow raises many types
        return str(error) or type(error).__name__
    return None
