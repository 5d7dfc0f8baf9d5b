"""Reading encoded images by their places in larger files."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..datasets import Records
from .index import Index

_READERS = 16  # reads at a time: a disk or a network answers many at once sooner than one after another
_OPEN = 256  # files kept open; a process may have 1024 on many systems


def read(records: Records, indices: np.ndarray) -> list[np.ndarray]:
    """The content of images, uint8; empty where it cannot be read, which no decoder takes for an image."""
    return list(_pool().map(lambda index: _content(records, index), indices.tolist()))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_READERS, thread_name_prefix="read-records")


def _content(records: Records, index: int) -> np.ndarray:
    try:
        return np.frombuffer(records.encoded(index), dtype=np.uint8)
    except OSError:
        return np.empty(0, dtype=np.uint8)


def _opener() -> Callable[[str], BinaryIO]:
    # A file that is dropped from the cache is closed once no thread reads it any more.
    return lru_cache(_OPEN)(lambda path: open(path, "rb", buffering=0))


@dataclass(frozen=True, eq=False)
class ByteRanges:
    """Images that are stretches of bytes of files.

    Not a memory map: a file that is cut short while it is read would end the process.

    Attributes:
        files: Paths.
        index: See `Records`.
        shard: (n,) int32, places in `files`.
        offset, size: (n,) int64, in bytes.
    """

    files: list[str]
    index: Path | None
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    _open: Callable[[str], BinaryIO] = field(default_factory=_opener, repr=False)

    @classmethod
    def of(cls, index: Index) -> "ByteRanges":
        shard = np.repeat(np.arange(len(index.files), dtype=np.int32), index.counts)
        return cls(index.files, index.path, shard, index.arrays["offset"], index.arrays["size"])

    def __len__(self) -> int:
        return len(self.shard)

    def encoded(self, index: int) -> bytes:
        return self._read(index, int(self.offset[index]), int(self.size[index]))

    def _read(self, index: int, offset: int, size: int) -> bytes:
        file = self._open(self.files[self.shard[index]])  # held: it may be no longer, or not, in the cache
        return os.pread(file.fileno(), size, offset)

    def name(self, index: int) -> str:
        return f"{self.files[self.shard[index]]}, byte {self.offset[index]}"

    def take(self, chosen: np.ndarray) -> "ByteRanges":
        return replace(self, shard=self.shard[chosen], offset=self.offset[chosen], size=self.size[chosen])

    def identity(self) -> Iterator[bytes]:
        yield "\0".join(os.path.basename(file) for file in self.files).encode("utf-8", "surrogateescape")
        yield from (np.ascontiguousarray(array).tobytes() for array in (self.shard, self.offset, self.size))
