"""What all tests share: the GPU marker, photographs and bad files made on the spot, and the place of the real data."""

import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali._utils import dali_trace
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With -n, each process takes consecutive tests, which share fixtures; an idle one takes over from others."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


def pytest_configure(config: pytest.Config) -> None:
    """Without `-m gpu` no test sees a GPU: what is claimed to the last bit is claimed of the CPU."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # of the processes that tests start, too


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU: python -m pytest -m gpu"))


@pytest.fixture(scope="session", autouse=True)
def _no_origins_of_operators() -> None:
    """DALI notes the line where each operator is made, for its messages; that is half the time of making a pipeline."""
    dali_trace.set_tracing(enabled=False)


@pytest.fixture
def origins_of_operators() -> Iterator[None]:
    """For a test of messages that come from them."""
    dali_trace.set_tracing(enabled=True)
    yield
    dali_trace.set_tracing(enabled=False)


@pytest.fixture(scope="session")
def warm_python() -> Iterator[str]:
    """A program that takes the place of `sys.executable`, in which all is imported already; see warm_python.py."""
    script = Path(__file__).with_name("warm_python.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:  # the path of a socket is short
        client = f"{folder}/python"
        command = [sys.executable, str(script), client, f"{folder}/socket"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, start_new_session=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield client
            os.killpg(server.pid, signal.SIGKILL)  # and what a test that failed has left


def _photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth coloured blobs with some grain: compresses like a photo, and no two pixels' rows are alike."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (max(height // 12, 2), max(width // 12, 2), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    grain = generator.integers(-6, 7, smooth.shape)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., Image.Image]:
    return _photo


def _encoded(photo: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, kind, **options)
    return buffer.getvalue()


def _spoiled(photo: Image.Image) -> dict[str, bytes]:
    jpeg, png = _encoded(photo, "JPEG"), _encoded(photo, "PNG")
    return {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": png[: len(png) // 2],
        "text.jpg": b"this is not an image\n" * 20,
        "page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "header.jpg": b"\xff\xd8\xff\xe0" + b"\0" * 300,
        "an_icon.jpg": _encoded(photo, "ICO"),
        "empty.jpg": b"",
    }


@pytest.fixture(scope="session")
def spoiled() -> Callable[[Image.Image], dict[str, bytes]]:
    """The content of files, by their names, that DALI cannot decode, one of each kind."""
    return _spoiled


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """The folder of a real data set by its name; a test on one that is not there is skipped."""

    def folder(name: str) -> Path:
        root = os.environ.get("DALI_SALAUG_DATA")
        if not root or not (Path(root) / name).is_dir():
            pytest.skip(f"needs real data: DALI_SALAUG_DATA names no folder with {name}/")
        return Path(root) / name

    return folder


_READS_BACK = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::bincount",
    "aten::histogram",
}


class NoWaiting(TorchDispatchMode):
    """Fails on any operator that, on a GPU, reads a value back or makes a shape that depends on values.

    Where there is a GPU, CUDA's own guard is set too.
    """

    def __enter__(self):
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("error")
        return super().__enter__()

    def __exit__(self, *error):
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split(".")[0]
        if name in _READS_BACK:
            raise AssertionError(f"{name} waits for the device")
        masks = args[1] if name in ("aten::index", "aten::index_put", "aten::index_put_") else []
        if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in masks):
            raise AssertionError(f"{name} with a boolean mask waits for the device")
        if name == "aten::repeat_interleave" and (kwargs or {}).get("output_size") is None:
            raise AssertionError(f"{name} without output_size waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_waiting():
    return NoWaiting
