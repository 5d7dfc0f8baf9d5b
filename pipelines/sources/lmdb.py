"""Caffe's LMDB folders."""

import os

import numpy as np

from ..readers.base import DataError
from ..readers.lmdb import FILE, LmdbValues, open_folder, parse_datum
from .splits import Source


def _matches(entry: os.DirEntry) -> bool:
    return entry.is_dir() and os.path.isfile(os.path.join(entry.path, FILE))


def _scan(path: str) -> dict[str, np.ndarray]:
    keys: list[bytes] = []
    labels: list[int] = []
    with open_folder(path).begin(buffers=True) as transaction:
        for key, datum in transaction.cursor():
            keys.append(bytes(key))
            try:
                labels.append(parse_datum(datum)[1])
            except ValueError as error:
                raise DataError(f"'{path}', key {keys[-1]!r}: {error}") from error
    return {
        "keys": np.frombuffer(b"".join(keys), dtype=np.uint8),
        "key_length": np.array([len(key) for key in keys], dtype=np.int64),
        "label": np.array(labels, dtype=np.int64),
    }


SOURCE = Source("LMDB folders", _matches, _scan, LmdbValues.of)
