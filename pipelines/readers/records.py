"""Encoded images inside larger files: what their readers have in common, and the reader of byte ranges."""

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .base import Reader
from .untrusted import open_regular

_OPEN = 256  # files kept open; a process may have 1024 on many systems
TAR_BLOCK = 512  # bytes of a header, right before the member's content


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
    feed = "contents"


class _OpenFiles:
    """Files opened for reading, at most `_OPEN` of them at a time. A pickle of it holds none.

    A file that the cache drops is closed once no thread reads it any more.
    """

    def __init__(self) -> None:
        self._open: Callable[[str], FileIO] = lru_cache(_OPEN)(open_regular)

    def __call__(self, path: str) -> FileIO:
        return self._open(path)

    def __reduce__(self) -> tuple[type["_OpenFiles"], tuple[()]]:
        return _OpenFiles, ()


@dataclass(frozen=True, eq=False)
class ByteRanges(Records):
    """Byte ranges of files.

    They are not mapped into memory: a file that is cut short while it is read would end the process.

    Attributes:
        files, index_file: See `Reader`.
        shard: (n,) int32, places in `files`.
        offset, size: (n,) int64, in bytes.
    """

    files: list[str]
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    index_file: Path | None
    _open: _OpenFiles = field(default_factory=_OpenFiles, repr=False)

    @classmethod
    def of(cls, index: Index) -> "ByteRanges":
        return cls(index.files, index.file_numbers(), index.arrays["offset"], index.arrays["size"], index.path)

    def __len__(self) -> int:
        return len(self.shard)

    def encoded(self, index: int) -> bytes:
        return self._read(index, int(self.offset[index]), int(self.size[index]))

    def _read(self, index: int, offset: int, size: int) -> bytes:
        file = self._open(self.files[self.shard[index]])  # a reference, as the cache may drop the file meanwhile
        return os.pread(file.fileno(), size, offset)

    def name(self, index: int) -> str:
        return f"{self.files[self.shard[index]]}, byte {self.offset[index]}"

    def take(self, chosen: np.ndarray) -> "ByteRanges":
        return replace(self, shard=self.shard[chosen], offset=self.offset[chosen], size=self.size[chosen])

    def identity(self) -> Iterator[bytes]:
        yield "\0".join(os.path.basename(file) for file in self.files).encode("utf-8", "surrogateescape")
        yield from (np.ascontiguousarray(array).tobytes() for array in (self.shard, self.offset, self.size))


class TarMembers(ByteRanges):
    """Byte ranges that are members of tar archives, which have names."""

    def name(self, index: int) -> str:
        try:
            header = self._read(index, int(self.offset[index]) - TAR_BLOCK, TAR_BLOCK)
            member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
        except (OSError, ValueError, tarfile.TarError):
            return super().name(index)
        return f"{self.files[self.shard[index]]}/{member}"
