"""Stored indexes: one that is not of the data, or would fill the memory, is made again."""

import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import find_dataset


def _tampered(place: Path, **changes: Any) -> None:
    with np.load(place) as stored:
        arrays = {name: stored[name] for name in stored.files} | changes
    np.savez(place, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize("kind", ["tar", "lmdb"])
def test_a_tampered_index_is_made_again(roots: dict[str, Path], tmp_path: Path, kind: str, read_all: Callable) -> None:
    root = tmp_path / "data"
    shutil.copytree(roots[kind], root)
    expected = read_all(root)
    place = find_dataset(root).reader.index_file
    assert place is not None
    with np.load(place) as stored:
        whole = {name: stored[name] for name in stored.files}
    changes: list[dict[str, Any]] = [
        {"offset": whole["offset"] + 10**9},
        {"offset": whole["offset"] + 2**62},
        {"offset": -whole["offset"]},
        {"size": -whole["size"]},
        {"size": whole["size"] + 2**62},
        {"size": whole["size"].astype(np.float64)},
        {"size": whole["size"][:3]},
        {"size": None},
        {"label": whole["label"].astype(str)},
        {"label": whole["label"].reshape(2, 3)},
        {"label": np.array([None] * 6)},
        {"label": whole["label"][:0]},
        {"counts": whole["counts"] - 1},
        {"counts": whole["counts"] * -1},
        {"counts": np.array([3, 3])},
        {"marks": np.array(3)},
        {"form": np.zeros((0, 2))},
    ]
    if kind == "lmdb":
        changes += [
            {"keys": whole["keys"][:-1]},
            {"key_length": whole["key_length"] * 2},
            {"key_length": whole["key_length"] + 2**61},
            {"key_length": -whole["key_length"]},
        ]
    for change in changes:
        _tampered(place, **change)
        assert read_all(root) == expected, change
        with np.load(place) as stored:
            assert all(np.array_equal(stored[name], array) for name, array in whole.items())


def test_an_index_that_would_fill_the_memory_is_made_again(
    roots: dict[str, Path], tmp_path: Path, read_all: Callable
) -> None:
    root = tmp_path / "data"
    shutil.copytree(roots["index"], root)
    place = root / "dali_salaug-index-all.npz"
    whole = place.read_bytes()
    with zipfile.ZipFile(place) as stored:
        members = {name: stored.read(name) for name in stored.namelist()}
    bomb = np.lib.format.magic(1, 0)
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }"
    bomb += struct.pack("<H", 118) + header + b" " * (117 - len(header)) + b"\n"
    for compression, content in (
        (zipfile.ZIP_STORED, bomb + bytes(48)),
        (zipfile.ZIP_DEFLATED, bomb + bytes(10**7)),
        (zipfile.ZIP_STORED, bomb[:30]),
        (zipfile.ZIP_STORED, b""),
    ):
        with zipfile.ZipFile(place, "w", compression) as archive:
            for name, member in members.items():
                archive.writestr(name, content if name == "offset.npy" else member)
        assert read_all(root) == read_all(roots["index"])
        assert len(place.read_bytes()) == len(whole)
