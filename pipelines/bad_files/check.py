# DALI's type stubs lack its enumerations and sub-modules.
# mypy: disable-error-code="attr-defined, arg-type, call-overload, operator, return-value"
"""Finds the bad files of a data set by decoding every file."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from nvidia.dali import Pipeline, fn, pipeline_def, types
from nvidia.dali.data_node import DataNode

from ..datasets import Dataset
from ..decoding import DecodingError, for_dali, size_of
from .probe import misnamed, undecodable, unreadable
from .strict import complaint

CHUNK = 64  # files that a thread checks at a time
LARGEST = 2**27  # pixels of an image that is checked; a thread needs up to 1 GB for it
UNDECODABLE, DAMAGED, UNSUPPORTED, NOT_CHECKED = "undecodable", "damaged", "unsupported", "not checked"
_local = threading.local()


class BadFile(NamedTuple):
    """What is wrong with a file.

    kind: "undecodable": a run fails on it. "damaged": it is decoded, to an image that is wrong at least in part.
        "unsupported": a run fails on it or decodes it wrongly, because of its form; it may be intact. "not checked": it
        is too large.
    """

    name: str
    kind: str
    reason: str


def check_files(dataset: Dataset, *, threads: int, damaged: bool = True) -> Iterator[tuple[int, list[BadFile]]]:
    """Decode every file, in the data set's order, as a whole and in a crop.

    The file is decoded as in a run, by DALI's CPU decoder or by Pillow, and then by a strict decoder, which detects
    lost or overwritten byte ranges. Neither detects a flipped bit in the body of a JPEG file.

    Args:
        damaged: Look for damaged files too, which takes about one and a half times as long.

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
        return BadFile(name, UNDECODABLE, str(unreadable(error)))
    width, height = size_of(content)
    if width * height > LARGEST:
        return BadFile(name, NOT_CHECKED, f"it has {width}×{height} pixels, too many to check")
    try:
        fed = for_dali(content, LARGEST)
        if fed is not content and dataset.reader.feed == "paths":
            raise misnamed(content)
        if not _runs(_decode, fed):
            raise undecodable(content)
        if not _runs(_decode_crop, fed):
            raise DecodingError("random crops of it cannot be decoded, though the whole image can")
    except DecodingError as error:
        return BadFile(name, UNSUPPORTED if error.unsupported else UNDECODABLE, str(error))
    # What Pillow decodes for the run, it has decoded strictly.
    found = complaint(content) if damaged and fed is content else None
    return None if found is None else BadFile(name, DAMAGED, found)


@pipeline_def(batch_size=1, num_threads=1, device_id=None, exec_pipelined=False, exec_async=False, exec_dynamic=False)
def _decode() -> DataNode:
    return fn.decoders.image(_content(), device="cpu", output_type=types.RGB)


@pipeline_def(batch_size=1, num_threads=1, device_id=None, exec_pipelined=False, exec_async=False, exec_dynamic=False)
def _decode_crop() -> DataNode:
    """Return the last of the image as random crops are decoded."""
    content = _content()
    shape = fn.cast(fn.peek_image_shape(content)[:2], dtype=types.INT32)
    corner = fn.cast(shape // 2, dtype=types.INT32)
    return fn.decoders.image_slice(
        content, start=corner, shape=shape - corner, axes=[0, 1], device="cpu", output_type=types.RGB
    )


def _content() -> DataNode:
    return fn.external_source(name="content", dtype=types.UINT8, ndim=1)


def _runs(definition: Callable[[], Pipeline], content: bytes) -> bool:
    """Return whether a pipeline runs on the content of a file."""
    pipelines: dict[Callable, Pipeline] = _local.__dict__.setdefault("pipelines", {})
    if definition not in pipelines:
        pipelines[definition] = definition()
    try:
        pipelines[definition].run(content=[np.frombuffer(content, dtype=np.uint8)])
    except RuntimeError:
        del pipelines[definition]  # dead after an error
        return False
    return True
