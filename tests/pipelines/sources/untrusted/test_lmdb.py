"""LMDB files that are cut short, also while they are used."""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import DataError, find_dataset, image_loader


def test_a_cut_lmdb_is_named_or_whole(tmp_path: Path, write_shard: Callable, read_all: Callable) -> None:
    samples = [(f"{number:03}.jpg", number % 2, bytes([number]) * (50 + 4000 * (number % 2))) for number in range(200)]
    (tmp_path / "whole").mkdir()
    write_shard("lmdb", tmp_path / "whole" / "some", samples)
    path = tmp_path / "whole" / "some" / "data.mdb"
    size = path.stat().st_size
    assert read_all(path.parents[1]) == 2 * [content for *_, content in samples]
    assert size % 4096 == 0
    for number, length in enumerate((0, 1, 16, 151, 4095, 4096, 8192, 8193, 20_000, size // 2, size - 4096, size - 1)):
        root = tmp_path / str(number)
        shutil.copytree(path.parent, root / "some")
        os.truncate(root / "some" / "data.mdb", length)
        if length >= size - 4096:  # LMDB's last page may be a free one
            with contextlib.suppress(DataError):
                assert read_all(root) == 2 * [content for *_, content in samples]
            continue
        with pytest.raises(DataError, match=r"cannot read '.*some/data\.mdb' as LMDB: .*Fetch or make it again"):
            find_dataset(root)


def test_an_lmdb_that_shrinks_while_it_is_used(folders: Path, tmp_path: Path, write_shard: Callable) -> None:
    files = find_dataset(folders)
    samples = [(f"{number:03}.jpg", int(files.labels[number]), files.encoded(number)) for number in range(37)]
    write_shard("lmdb", tmp_path / "some", samples)
    loader = image_loader(
        tmp_path, batch_size=37, image_size=16, device="cpu", num_threads=1, on_bad_file="replace", max_bad_share=1
    )
    assert len(next(iter(loader)).indices) == 37
    assert not loader.bad_files
    path = tmp_path / "some" / "data.mdb"
    os.truncate(path, path.stat().st_size * 3 // 4)
    for _ in range(4):  # some batches were made before
        (batch,) = loader
        assert len(batch.indices) == 37
    assert loader.bad_files
    assert all("some, key 000" in loader.dataset.name(index) for index in loader.bad_files)
