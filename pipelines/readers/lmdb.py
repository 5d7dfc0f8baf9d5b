"""Images in Caffe's LMDB folders, whose values are Datum messages."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .base import DataError
from .protobuf import Buffer, fields
from .records import Index, Records

FILE = "data.mdb"  # in each folder
_DATA, _LABEL, _ENCODED = 4, 5, 7  # fields of caffe.Datum


@dataclass(frozen=True, eq=False)
class LmdbValues(Records):
    """Values of LMDB folders, by their keys.

    Attributes:
        files: The folders.
        folder: (N,) int32, places in `files`, of the keys.
        keys: All keys of the folders, one after the other, uint8.
        ends: (N,) int64, of the keys.
        chosen: (n,) int64, places among the keys.
        index_file: See `Reader`.
    """

    files: list[str]
    folder: np.ndarray
    keys: np.ndarray
    ends: np.ndarray
    chosen: np.ndarray
    index_file: Path | None

    @classmethod
    def of(cls, index: Index) -> "LmdbValues":
        ends = index.arrays["key_length"].cumsum()
        return cls(index.files, index.file_numbers(), index.arrays["keys"], ends, np.arange(len(ends)), index.path)

    def __len__(self) -> int:
        return len(self.chosen)

    def _folder(self, index: int) -> str:
        return self.files[self.folder[self.chosen[index]]]

    def _key(self, index: int) -> bytes:
        place = int(self.chosen[index])
        return self.keys[self.ends[place - 1] if place else 0 : self.ends[place]].tobytes()

    def encoded(self, index: int) -> bytes:
        import lmdb

        folder = self._folder(index)
        try:
            with open_folder(folder).begin(buffers=True) as transaction:
                datum = transaction.get(self._key(index))
                if datum is None:
                    raise OSError(f"its key is no longer in '{folder}'")
                start, end = parse_datum(datum)[0]
                return bytes(datum[start:end])
        except (lmdb.Error, ValueError) as error:
            raise OSError(str(error)) from error

    def name(self, index: int) -> str:
        return f"{self._folder(index)}, key {self._key(index).decode('utf-8', 'backslashreplace')}"

    def take(self, chosen: np.ndarray) -> "LmdbValues":
        return replace(self, chosen=self.chosen[chosen])

    def identity(self) -> Iterator[bytes]:
        arrays = (self.folder, self.keys, self.ends, self.chosen)
        yield from (np.ascontiguousarray(array).tobytes() for array in arrays)


def open_folder(folder: str) -> Any:
    """Return the environment of an LMDB folder, opened once in this process.

    Raises:
        DataError: The folder cannot be read as LMDB, or `lmdb` is not installed.
    """
    status = os.stat(os.path.join(folder, FILE))
    return _opened(os.path.realpath(folder), status.st_ino, status.st_mtime_ns)


@lru_cache  # LMDB opens a folder once in a process
def _opened(folder: str, *mark: int) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise DataError(f"'{folder}' is an LMDB folder; to read it, pip install lmdb") from error
    try:
        return lmdb.open(folder, readonly=True, lock=False, readahead=False, max_spare_txns=32)
    except lmdb.Error as error:
        raise DataError(f"cannot read '{folder}' as LMDB: {error}. Fetch or make it again.") from error


def parse_datum(datum: Buffer) -> tuple[tuple[int, int], int]:
    """Return where the image of a Datum begins and ends, and its label.

    Raises:
        ValueError: It is not a Datum with an encoded image.
    """
    values = dict(fields(datum, 0, len(datum)))
    data, label = values.get(_DATA), values.get(_LABEL, 0)
    if not isinstance(data, tuple) or not isinstance(label, int) or not values.get(_ENCODED):
        raise ValueError(
            "must be a Caffe Datum with an encoded image; Caffe's convert_imageset makes them with --encoded"
        )
    return data, label
