"""What all tests share: the GPU marker, photographs and bad files made on the spot, and the place of the real data."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU; torch.cuda.is_available() is False"))


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
        "animation.jpg": _encoded(photo, "GIF"),
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
