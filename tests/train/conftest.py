"""A small copy of the embedded data, and the program as the user starts it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from train.data.shapes import write_shapes

# 48 training images at batch 8: six steps an epoch, quick enough for a test.
TINY = ["--image-size", "32", "--batch-size", "8", "--epochs", "2", "--region-size", "8"]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Beside other jobs, threads that spin while they wait make small tests slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training and 16 validation images of the embedded kind."""
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, train_per_class=6, val_per_class=2)
    return root


def _same(a: Any, b: Any) -> bool:
    """Equal to the last bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], bool]:
    return _same


class Cli:
    """python -m train on the small data; options given later win."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder = data, folder

    def start(self, *options: str, bare: bool = False) -> subprocess.Popen:
        defaults = [] if bare else ["--data", str(self.data), *TINY]
        return subprocess.Popen(
            [sys.executable, "-m", "train", *defaults, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def __call__(self, *options: str, bare: bool = False) -> subprocess.CompletedProcess:
        with self.start(*options, bare=bare) as process:
            output, errors = process.communicate(timeout=200)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@pytest.fixture
def cli(shapes: Path, tmp_path: Path) -> Cli:
    return Cli(shapes, tmp_path)
