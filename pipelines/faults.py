# DALI's type stubs lack its enumerations and sub-modules, and say "a node, several or None" of every operator.
# mypy: disable-error-code="attr-defined, arg-type, assignment, call-overload, return-value"
"""Which file made a batch fail, and why."""

import os
from collections.abc import Sequence

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.data_node import DataNode

from .datasets import DataError


@pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
def _decode_one() -> DataNode:
    path = fn.external_source(name="path", dtype=types.UINT8, ndim=1)
    return fn.decoders.image(fn.io.file.read(path), device="cpu", output_type=types.RGB)


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


def find_fault(paths: Sequence[str]) -> DataError | None:
    """Reads and decodes each file alone; describes the first that fails, or None if none does."""
    pipeline = _decode_one()
    for path in paths:
        try:
            with open(path, "rb") as file:
                beginning = file.read(16)
        except OSError as error:
            return _describe(path, error.strerror or str(error))
        try:
            pipeline.run(path=[np.frombuffer(os.fsencode(path), dtype=np.uint8)])
        except RuntimeError:
            return _describe(path, _undecodable(beginning))
    return None


def _describe(path: str, reason: str) -> DataError:
    return DataError(
        f"cannot decode image '{path}': {reason}. Delete or replace the file "
        "(a stopped run can be resumed only if it is replaced)."
    )


def _undecodable(beginning: bytes) -> str:
    if not beginning:
        return "the file is empty"
    for start, name in _BEGINNINGS.items():
        if beginning.startswith(start):
            return f"its {name} data is damaged or cut short"
    return f"it is no image of a known format, it begins with {beginning!r}"
