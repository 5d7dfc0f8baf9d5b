"""Encoded images inside larger files: what their readers have in common."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .base import Reader

_THREADS = 16  # reads at a time: a disk or a network answers many at once sooner than one after another


class Index(NamedTuple):
    """What larger files hold.

    Attributes:
        files: Their paths.
        arrays: Of all images, file after file.
        counts: (number of files,) int64: images in each.
        path: Where the index is stored; None where it could not be stored.
    """

    files: list[str]
    arrays: dict[str, np.ndarray]
    counts: np.ndarray
    path: Path | None

    def file_numbers(self) -> np.ndarray:
        """Return the place in `files` of each image's file, (n,) int32."""
        return np.repeat(np.arange(len(self.files), dtype=np.int32), self.counts)


class Records(Reader):
    """A reader of larger files."""

    kind = "records"

    def inputs(self, indices: np.ndarray) -> list[np.ndarray]:
        """Return the content of the images; empty where it cannot be read, which no decoder accepts as an image."""
        return list(_pool().map(self._content, indices.tolist()))

    def _content(self, index: int) -> np.ndarray:
        try:
            return np.frombuffer(self.encoded(index), dtype=np.uint8)
        except OSError:
            return np.empty(0, dtype=np.uint8)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="read-records")
