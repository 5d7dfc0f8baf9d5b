"""Reading what strangers made: paths that may be anything, and files that may hold anything."""

import errno
import os
import pickle
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from typing import overload

from .base import DataError

# What parsers raise on bytes that are not what they seem. A lack of memory and interrupts are not among them.
_EXPECTED = (
    ArithmeticError, AttributeError, BufferError, EOFError, LookupError, RuntimeError, TypeError, ValueError,
    pickle.UnpicklingError, struct.error, tarfile.TarError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_SHOWN = 200  # characters of an error in a message
_BLOCK = 4096  # bytes read at a time


@contextmanager
def untrusted(path: str | os.PathLike[str], form: str) -> Iterator[None]:
    """Turn whatever the reading of a file raises into a DataError that names the file.

    MemoryError and what does not derive from Exception pass.

    Args:
        path: The file, or the folder.
        form: What it should be, as in "a CIFAR pickle".

    Raises:
        DataError: The block raised an error.
    """
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"cannot read '{error.filename or os.fspath(path)}': {error.strerror or error}.") from error
    except _EXPECTED as error:
        reason = f"{type(error).__name__}: {error}"[:_SHOWN]
        raise DataError(f"cannot read '{os.fspath(path)}' as {form}: {reason}. Fetch or make it again.") from error


def open_regular(path: str | os.PathLike[str]) -> FileIO:
    """Open a regular file for reading. Links are followed.

    Raises:
        OSError: The path leads to something else, whose opening or reading might never end, or cannot be read.
    """
    if "\0" in os.fspath(path):
        raise OSError(errno.EINVAL, "there is a zero byte in the name", os.fspath(path))
    _require_regular(os.stat(path).st_mode, path)  # to open a device can do harm already
    file = FileIO(os.fspath(path), opener=_open_without_waiting)
    try:
        _require_regular(os.fstat(file.fileno()).st_mode, path)
    except OSError:
        file.close()
        raise
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _require_regular(mode: int, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))


def read_bytes(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """Return the content of a regular file.

    Args:
        limit: The greatest size that is read, in bytes.

    Raises:
        OSError: It cannot be read, is not regular, or is larger than `limit`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise OSError(errno.EFBIG, f"it has {size} bytes, more than the {limit} that such a file may have", path)
        return file.read()


def read_lines(path: str | os.PathLike[str], *, strict: bool = False) -> list[str]:
    """Return the lines of a text file in UTF-8, without the byte order mark that it may begin with.

    Bytes that are not UTF-8 are escaped as those of file names are, so that they name the same file.

    Args:
        strict: Refuse bytes that are not UTF-8.

    Raises:
        DataError: The file cannot be read, has a zero byte, or bytes that are refused. The message gives the line.
    """
    with untrusted(path, "text"):
        content = read_bytes(path)
    text = content.decode("utf-8-sig", "surrogateescape")
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1) if strict or "\0" in text else ():
        if "\0" in line or (strict and not line.isascii() and any("\udc80" <= letter <= "\udcff" for letter in line)):
            raise DataError(f"'{os.fspath(path)}', line {number}: must be text in UTF-8, got {line[:_SHOWN]!r}")
    return lines


class FileBytes:
    """The bytes of a file, indexed as bytes are and read block by block.

    Mapped into memory, a file that is cut short while it is read would end the process.

    Args:
        file: Open for reading.
    """

    def __init__(self, file: FileIO) -> None:
        self._descriptor = file.fileno()
        self._start, self._block = 0, b""
        self._size = os.fstat(self._descriptor).st_size

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> bytes: ...
    def __getitem__(self, place: int | slice) -> int | bytes:
        if isinstance(place, slice):
            return self._read(place.start, place.stop)
        if not self._start <= place < self._start + len(self._block):
            self._start, self._block = place, os.pread(self._descriptor, _BLOCK, place)
            if not self._block:
                raise ValueError("cut short")
        return self._block[place - self._start]

    def _read(self, start: int, stop: int) -> bytes:
        inside = start - self._start
        if inside >= 0 and stop <= self._start + len(self._block):
            return self._block[inside : stop - self._start]
        if stop - start <= _BLOCK:
            self._start, self._block = start, os.pread(self._descriptor, _BLOCK, start)
            content = self._block[: stop - start]
        else:
            content = os.pread(self._descriptor, stop - start, start)
        if len(content) < stop - start:
            raise ValueError("cut short")
        return content
