"""The views of crops: by pictures whose colours say where in the picture a pixel is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import Dataset, ImageLoader, image_loader
from pipelines.readers.pixels import Pixels

OPTIONS: dict[str, Any] = {
    "image_size": (24, 32), "device": "cpu", "num_threads": 1, "with_views": True, "mean": (0, 0, 0), "std": (1, 1, 1),
}  # fmt: skip
COUNT = 12


def _places(height: int, width: int) -> np.ndarray:
    """A picture (height, width, 3) uint8 that is redder to the right and greener downwards, and blue all over."""
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width])[:, None, None]
    return np.round(255 * np.stack([x, y, np.ones_like(x)], -1)).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    (root / "only").mkdir()
    generator = np.random.default_rng(0)
    for index in range(COUNT):
        picture = Image.fromarray(_places(*generator.integers(100, 300, 2)))
        exif = Image.Exif()
        exif[0x0112] = 1
        if index % 3 == 0:  # stored upside down, and so shown upright
            picture, exif[0x0112] = picture.transpose(Image.Transpose.ROTATE_180), 3
        picture.save(root / "only" / f"{index:02}.png", exif=exif)
    return root


@pytest.fixture(scope="module")
def arrays() -> Dataset:
    reader = Pixels(np.stack([_places(32, 32)] * COUNT), "memory")
    return Dataset(root="memory", reader=reader, labels=np.zeros(COUNT, dtype=np.int64), classes=["only"])


def _check(loader: ImageLoader) -> None:
    [batch] = loader
    assert batch.views is not None
    assert batch.views.dtype == torch.float32
    assert batch.views.shape == (COUNT, 2, 3)
    height, width = batch.images.shape[2:]
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    seen = 0
    for image, view in zip(batch.images, batch.views.double(), strict=True):
        inverse = torch.linalg.inv(torch.cat([view, torch.tensor([[0, 0, 1.0]]).double()]))
        place = torch.einsum("ij,jhw->ihw", inverse, torch.stack([x, y, torch.ones_like(x)]).double())
        inside = image[2] > 0.999  # padding is black
        seen += int(inside.sum())
        assert (image[:2] - place[:2]).abs().amax(0)[inside].max() < 0.012
        edge = 0.02
        beyond = ((place[:2] < -edge) | (place[:2] > 1 + edge)).any(0)
        assert not (inside & beyond).any()
    assert seen > 0.5 * COUNT * height * width


@pytest.mark.parametrize("crop", ["random_resized", "pad", "center"])
def test_of_files(pictures: Path, crop: str) -> None:
    options = OPTIONS | {"batch_size": COUNT, "vertical_flip": 0.5, "policy": "augmix"}
    if crop == "center":
        _check(image_loader(pictures, train=False, batch_size=COUNT, **OPTIONS))
    else:
        _check(image_loader(pictures, crop=crop, **options))


@pytest.mark.parametrize("crop", ["random_resized", "pad", "none"])
@pytest.mark.parametrize("size", [32, (24, 40)])
def test_of_images_in_memory(arrays: Dataset, crop: str, size: Any) -> None:
    options = OPTIONS | {"batch_size": COUNT, "image_size": size}
    if crop == "none":
        _check(image_loader(arrays, train=False, **options))
    else:
        _check(image_loader(arrays, crop=crop, policy="flips", with_matrices=True, **options))


def test_they_are_none_unless_requested(pictures: Path) -> None:
    [batch] = image_loader(pictures, batch_size=COUNT, **OPTIONS | {"with_views": False})
    assert batch.views is None


def test_pixels_and_state_do_not_depend_on_them(pictures: Path) -> None:
    loaders = [image_loader(pictures, batch_size=COUNT, **OPTIONS | {"with_views": views}) for views in (False, True)]
    (without,), (batch,) = loaders
    assert torch.equal(batch.images, without.images)
    loaders[0].load_state_dict(loaders[1].state_dict())
