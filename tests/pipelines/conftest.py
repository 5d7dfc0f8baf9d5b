"""Images made on the spot, in the layouts that the loader reads."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth coloured blobs with some grain: compresses like a photo, and no two pixels' rows are alike."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (max(height // 12, 2), max(width // 12, 2), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    grain = generator.integers(-6, 7, smooth.shape)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., Image.Image]:
    return photo


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """37 JPEGs of unlike sizes in three classes."""
    root = tmp_path_factory.mktemp("folders")
    generator = np.random.default_rng(1)
    for index in range(37):
        folder = root / ("ape", "bee", "cat")[index % 3]
        folder.mkdir(exist_ok=True)
        height, width = generator.integers(60, 200, 2)
        photo(height, width, seed=index).save(folder / f"{index:02}.jpg", quality=92)
    return root


@pytest.fixture(scope="session")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10's files with 5 × 20 and 30 random images."""
    root = tmp_path_factory.mktemp("cifar")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(2)
    sizes = {**{f"data_batch_{i}": 20 for i in range(1, 6)}, "test_batch": 30}
    for name, count in sizes.items():
        content = {
            b"data": generator.integers(0, 256, (count, 3072), dtype=np.uint8),
            b"labels": generator.integers(0, 10, count).tolist(),
        }
        (folder / name).write_bytes(pickle.dumps(content))
    names = [f"class {i}".encode() for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}))
    return root
