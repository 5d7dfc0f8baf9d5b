"""Each layout with six samples; what reads, lists and damages it. `_attack` is run by a process of its own too."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import DataError, find_dataset

KINDS = ("cifar", "list", "annotations", "tar", "tfrecord", "lmdb", "index")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each layout in turn."""
    return request.param


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory, write_shard: Callable) -> dict[str, Path]:
    """Six samples of two classes in each layout; "index" is a shard with its index."""
    roots = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    samples = [(f"{number}.jpg", number % 2, b"content %d" % number * (1 + 999 * (number % 2))) for number in range(6)]
    for name, label, content in samples:
        for folder in (roots["annotations"] / "train" / "ab"[label], roots["annotations"] / "val" / "images"):
            folder.mkdir(exist_ok=True, parents=True)
            (folder / name).write_bytes(content)
        (roots["list"] / name).write_bytes(content)
    annotations = "".join(f"{name}\t{'ab'[label]}\t0\t0\t9\t9\n" for name, label, _ in samples)
    (roots["annotations"] / "val" / "val_annotations.txt").write_text(annotations)
    for split in ("train", "val"):
        (roots["list"] / f"{split}.txt").write_text("".join(f"{name} {label}\n" for name, label, _ in samples))
    (roots["list"] / "classes.txt").write_text("ape\nbée\n")
    write_shard("tar", roots["tar"] / "0.tar", samples)
    write_shard("tfrecord", roots["tfrecord"] / "a.tfrecord", samples)
    write_shard("lmdb", roots["lmdb"] / "some", samples)
    write_shard("tar", roots["index"] / "0.tar", samples)
    find_dataset(roots["index"])
    _write_cifar(roots["cifar"])
    return roots


def _write_cifar(root: Path, **changes: Any) -> Path:
    data = np.arange(4 * 3072).astype(np.uint8).reshape(4, 3072)
    content = {"data": data, "fine_labels": [1, 0, 1, 2], "coarse_labels": [0] * 4, "filenames": ["a"] * 4}
    for name in ("train", "test"):
        (root / name).write_bytes(pickle.dumps({**content, **changes}))
    (root / "meta").write_bytes(pickle.dumps({"fine_label_names": ["x", "y", "z"]}))
    return root


def _read_all(root: Path) -> list[bytes]:
    contents = []
    for train in (True, False):
        dataset = find_dataset(root, train)
        for index in range(len(dataset)):
            dataset.name(index)
            contents.append(dataset.encoded(index))
    return contents


def _files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def _damaged(content: bytes, generator: np.random.Generator) -> bytes:
    changed, way = bytearray(content), generator.integers(5)
    if way == 0 or not changed:
        return generator.bytes(int(generator.integers(2000)))
    if way == 1:
        return content[: generator.integers(len(content))]
    for _ in range(generator.integers(1, 9)):
        place = int(generator.integers(min(len(content), 2000) if way == 2 else len(content)))
        if way == 4:
            patterns = (b"\xff" * 8, bytes(8), b"\0\0\0\x80" * 2, generator.bytes(8))
            changed[place : place + 8] = patterns[generator.integers(4)]
        else:
            changed[place] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def _attack(kind: str, source: Path, root: Path, cases: int) -> dict[str, int]:
    """Damage each file of a layout in turn, at random, and read all. Returns how often it could be read, or not."""
    outcomes = {"read": 0, "refused": 0}
    generator = np.random.default_rng(list(kind.encode()))
    shutil.copytree(source, root)
    files = [path for path in _files_of(root) if path.suffix != ".jpg" and path.name != "lock.mdb"]
    if kind == "index":
        files = [path for path in files if path.suffix == ".npz"]
    else:
        files = [path for path in files if path.suffix != ".npz"]
    for case in range(cases):
        path = files[case % len(files)]
        whole = path.read_bytes()
        status = path.stat()
        path.write_bytes(_damaged(whole, generator))
        try:
            _read_all(root)
            outcomes["read"] += 1
        except (DataError, OSError):
            outcomes["refused"] += 1
        path.write_bytes(whole)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return outcomes


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="session")
def bomb() -> Callable[[Path], object]:
    """Makes an object that, pickled, makes the folder at a path when it is read with pickle."""
    return _Bomb


@pytest.fixture(scope="session")
def write_cifar() -> Callable[..., Path]:
    """Writes CIFAR-100's three files with four images into a folder; keywords change what the pickles hold."""
    return _write_cifar


@pytest.fixture(scope="session")
def read_all() -> Callable[[Path], list[bytes]]:
    """The contents of all training and validation images."""
    return _read_all


@pytest.fixture(scope="session")
def files_of() -> Callable[[Path], list[Path]]:
    """All files in and below a folder."""
    return _files_of


@pytest.fixture(scope="session")
def attack() -> Callable[[str, Path, Path, int], dict[str, int]]:
    """Damages each file of a copy of a layout in turn, at random, and reads all: how often it could be read, or not."""
    return _attack
