"""Caffe's LMDB folders."""

import os

import numpy as np

from ..readers.base import DataError
from ..readers.lmdb import FILE, LmdbValues, entries, parse_datum
from ..readers.untrusted import FileBytes, open_regular
from .names import is_folder
from .splits import Source, table


def _matches(entry: os.DirEntry) -> bool:
    return is_folder(entry) and os.path.lexists(os.path.join(entry.path, FILE))


def _scan(path: str) -> dict[str, np.ndarray]:
    keys: list[bytes] = []
    rows: list[tuple[int, int, int]] = []
    file_path = os.path.join(path, FILE)
    with open_regular(file_path) as file:
        data = FileBytes(file)
        try:
            for key, start, end in entries(data):
                keys.append(key)
                (start, end), label = _parse(path, data, key, start, end)
                rows.append((start, end - start, label))
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"cannot read '{file_path}' as LMDB: {error}. Fetch or make it again.") from error
    return {
        "keys": np.frombuffer(b"".join(keys), dtype=np.uint8),
        "key_length": np.array([len(key) for key in keys], dtype=np.int64),
        **table(rows),
    }


def _parse(path: str, data: FileBytes, key: bytes, start: int, end: int) -> tuple[tuple[int, int], int]:
    try:
        return parse_datum(data, start, end)
    except ValueError as error:
        raise DataError(f"'{path}', key {key!r}: {error}") from error


SOURCE = Source(
    "LMDB folders", _matches, _scan, LmdbValues.of, columns=("offset", "size", "label", "keys", "key_length")
)
