"""What the tests of the programs share: a small copy of the embedded data, the command line, runs, logs, and stops."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from train.cli.checks import check
from train.config import Config
from train.data.loaders import resolve_for_data
from train.data.scenes import write_scenes
from train.data.shapes import write_shapes
from train.engine.run import Run
from train.tasks.classification import task as classification
from train.tasks.detection import pictures
from train.tasks.semi.config import OWN, SemiConfig

# 48 training images at batch 8: six steps an epoch, quick enough for a test.
TINY = ["--image-size", "32", "--batch-size", "8", "--epochs", "2", "--region-size", "8"]

TIMED = ("seconds", "images_per_second", "loader_wait_share")  # values of the log that are measured


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Beside other jobs, threads that spin while they wait make small tests slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _quick_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny file in place of a run's contact sheet, which takes longer than an epoch of the small data."""
    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr(
            classification, "write_figure", lambda *given, **_: Image.new("RGB", (1, 1)).save(given[-1])
        )
        for name, place in (("write_batch", 2), ("write_detections", 3)):
            monkeypatch.setattr(
                pictures, name, lambda *given, place=place, **_: Image.new("RGB", (1, 1)).save(given[place])
            )


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 training and 16 validation images of the embedded kind."""
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, train_per_class=6, val_per_class=2)
    return root


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 training and 6 validation images of the embedded scenes."""
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, train=14, val=6)
    return root


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], bool]:
    """Whether two values are equal to the last bit, through dicts, lists and tensors."""
    return _same


def _log_of(folder: Path, *, timed: bool = True) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if timed or k not in TIMED} for line in lines]


@pytest.fixture(scope="session")
def log_of() -> Callable[..., list[dict[str, Any]]]:
    """The records in a run's log; with ``timed=False`` without the values that are measured."""
    return _log_of


@contextlib.contextmanager
def _stop_in_step(step: int, epoch: int = 0) -> Iterator[None]:
    real = Run.train_step

    def stopped(run: Run, batches: Any) -> Any:
        if (run.epoch, run.step) == (epoch, step):
            signal.raise_signal(signal.SIGTERM)
        return real(run, batches)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "train_step", stopped)
        yield


@pytest.fixture(scope="session")
def stop_in_step() -> Callable[..., AbstractContextManager[None]]:
    """A context in which a run receives SIGTERM in a step of an epoch, both from 0."""
    return _stop_in_step


@pytest.fixture
def run_of(shapes: Path) -> Callable[..., Run]:
    """A run on the small data with the options of `Config`, before its first step."""

    def build(**options: Any) -> Run:
        of: type[Config] = SemiConfig if options.keys() & set(OWN) else Config
        config = of(**({"data": str(shapes), "image_size": 16, "batch_size": 8, "region_size": 6} | options))
        check(config)
        run = Run(resolve_for_data(config))
        run.begin_epoch()
        return run

    return build


class Cli:
    """python -m train on the small data; later options win."""

    def __init__(self, python: str, data: Path, folder: Path) -> None:
        self.python, self.data, self.folder = python, data, folder

    def start(self, *options: str, bare: bool = False) -> subprocess.Popen:
        defaults = [] if bare else ["--data", str(self.data), *TINY]
        return subprocess.Popen(
            [self.python, "-m", "train", *defaults, *options],
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
def cli(warm_python: str, shapes: Path, tmp_path: Path) -> Cli:
    return Cli(warm_python, shapes, tmp_path)
