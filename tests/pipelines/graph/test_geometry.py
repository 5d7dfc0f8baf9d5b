"""Flips, aspects, oblong images and the validation crop, against torchvision, timm and NumPy."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from timm.data import create_transform
from torchvision.transforms import v2

from pipelines import Affine, draws, image_loader
from pipelines.policies.operations import compose

OPTIONS: dict[str, Any] = {"device": "cpu", "num_threads": 1, "seed": 3}
SIZE = (24, 40)  # height, width
Pixels = Callable[..., np.ndarray]


def _folder(root: Path, pictures: list[Image.Image]) -> Path:
    (root / "only").mkdir(parents=True)
    for index, picture in enumerate(pictures):
        picture.save(root / "only" / f"{index:03}.png")
    return root


def _numbers(count: int) -> np.ndarray:
    return draws.uniforms(3, 0, draws.VIEW, 0, count, draws.VIEW_UNIFORMS)


def test_flips_follow_their_probabilities_and_the_earlier_draws_are_what_they_were() -> None:
    numbers = _numbers(8000)
    np.testing.assert_array_equal(numbers[:, :23], draws.uniforms(3, 0, draws.VIEW, 0, 8000, 23))
    horizontal, vertical = draws.flips(numbers, (0.5, 0))
    np.testing.assert_array_equal(horizontal, numbers[:, 22] < 0.5)  # the flips of all seeds so far
    assert not vertical.any()
    assert draws.flips(numbers, (1, 1)).all()
    horizontal, vertical = draws.flips(numbers, (0.3, 0.6))
    assert stats.binomtest(int(horizontal.sum()), 8000, 0.3).pvalue > 1e-3
    assert stats.binomtest(int(vertical.sum()), 8000, 0.6).pvalue > 1e-3
    assert stats.binomtest(int((horizontal & vertical).sum()), 8000, 0.18).pvalue > 1e-3


def _moved(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) under the map `matrix` of places, by the nearest pixel; grey where there is none."""
    height, width = image.shape[:2]
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]).astype(np.float64))
    y, x = np.mgrid[:height, :width] + 0.5
    source_x, source_y, _ = np.floor(np.tensordot(inverse, np.stack([x, y, np.ones_like(x)]), axes=1)).astype(int)
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    return np.where(inside[..., None], image[source_y.clip(0, height - 1), source_x.clip(0, width - 1)], 128)


@pytest.mark.parametrize("crop", ["random_resized", "pad"])
def test_the_policy_acts_on_the_image_after_both_flips(folders: Path, crop: str, pixels_of: Pixels) -> None:
    policy = Affine(True, True, (0.7, 1.3), 15, 40, 0.2)
    options: dict[str, Any] = OPTIONS | {"batch_size": 37, "image_size": SIZE, "crop": crop}
    [plain] = image_loader(folders, horizontal_flip=0, **options)
    loader = image_loader(folders, vertical_flip=0.5, policy=policy, with_matrices=True, **options)
    [batch] = loader
    assert batch.images.shape == batch.augmented.shape == (37, 3, *SIZE)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    numbers = _numbers(37)[:, 22:] < 0.5
    assert len({(bool(left), bool(up)) for left, up in numbers}) == 4
    flipped = [
        image[:, :: -1 if up else 1, :: -1 if left else 1]
        for image, (left, up) in zip(plain.images.numpy(), numbers, strict=True)
    ]
    np.testing.assert_array_equal(np.stack(flipped), batch.images.numpy())
    drawn = policy.draw(draws.uniforms(3, 0, draws.POLICY, 0, 37, policy.uniforms), SIZE)
    matrices = compose(drawn.matrices)
    np.testing.assert_array_equal(batch.matrices.numpy(), matrices)
    clean, augmented = (np.round(pixels_of(loader, images)) for images in (batch.images, batch.augmented))
    expected = np.stack([_moved(image, matrix) for image, matrix in zip(clean, matrices, strict=True)])
    wrong = (expected != augmented).any(axis=-1)
    assert wrong.mean() < 0.005  # where two pixels are as near
    assert (clean != augmented).any(axis=(1, 2, 3)).mean() > 0.9


def test_flips_and_sizes_of_ranks_together_are_those_of_one_process(cifar: Path) -> None:
    options: dict[str, Any] = OPTIONS | {
        "image_size": SIZE, "vertical_flip": 0.7, "horizontal_flip": 0.2, "crop": "random_resized",
        "crop_ratio": (0.5, 0.6), "policy": "simclr", "with_matrices": True, "resize_interpolation": "bicubic",
    }  # fmt: skip
    whole = list(image_loader(cifar, batch_size=60, **options))
    ranks = [image_loader(cifar, batch_size=30, rank=rank, world_size=2, **options) for rank in range(2)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        for name in ("images", "augmented", "matrices", "indices"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name)), name


def _window(numbers: np.ndarray, height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """torchvision's loop over our numbers: top, left, height, width."""
    for attempt in range(draws.CROP_ATTEMPTS):
        area = height * width * (0.08 + 0.92 * numbers[attempt])
        low, high = map(math.log, ratio)
        aspect = math.exp(low + (high - low) * numbers[draws.CROP_ATTEMPTS + attempt])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return math.floor(numbers[20] * (height - h + 1)), math.floor(numbers[21] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.usefixtures("resized_bytes")
@pytest.mark.parametrize(
    ("ratio", "interpolation"), [((3 / 4, 4 / 3), "bilinear"), ((0.2, 0.4), "bicubic"), ((2.5, 2.5), "bilinear")]
)
def test_random_resized_crops_are_torchvisions(
    tmp_path: Path, make_photo: Any, pixels_of: Pixels, ratio: tuple[float, float], interpolation: str
) -> None:
    sizes = [(50, 70), (64, 33), (40, 40), (20, 90), (90, 25)] * 4
    photos = [make_photo(*size, seed=i) for i, size in enumerate(sizes)]
    loader = image_loader(
        _folder(tmp_path / "p", photos), batch_size=20, image_size=SIZE, crop_ratio=ratio, horizontal_flip=0,
        resize_interpolation=interpolation, **OPTIONS,
    )  # fmt: skip
    [batch] = loader
    same = 0
    for pixels, index, numbers in zip(
        np.round(pixels_of(loader, batch.images)), batch.indices.tolist(), _numbers(20), strict=True
    ):
        window = _window(numbers, *sizes[index], ratio)
        picture = torch.from_numpy(np.array(photos[index])).permute(2, 0, 1)
        mode = v2.InterpolationMode(interpolation)
        expected = v2.functional.resized_crop(picture, *window, size=list(SIZE), interpolation=mode, antialias=True)
        same += np.array_equal(expected.permute(1, 2, 0).numpy(), pixels)
    assert same >= 18  # a side at a half is rounded otherwise in float32, and halves up


def _coded(height: int, width: int) -> Image.Image:
    """Red is x and green is y."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("size", [(27, 25), (26, 32)])
def test_the_validation_crop_is_torchvisions_centre_crop_to_the_pixel(
    tmp_path: Path, pixels_of: Pixels, size: tuple[int, int]
) -> None:
    sides = [(32, 32 + more) for more in range(9)]
    pictures = [_coded(*side) for each in sides for side in (each, each[::-1])]
    root = _folder(tmp_path / "coded", pictures)
    loader = image_loader(root, batch_size=18, image_size=size, train=False, val_resize=32, **OPTIONS)
    [batch] = loader
    crop = v2.CenterCrop(size)
    for pixels, picture in zip(np.round(pixels_of(loader, batch.images)), pictures, strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(crop(picture)))


def _assert_close(pixels: np.ndarray, expected: np.ndarray, whole: bool) -> None:
    """Within 2 levels of 255 where the resized sides are whole numbers. Elsewhere DALI keeps the aspect, to a fraction
    of a pixel, where torchvision and timm stretch the image to the whole number."""
    difference = np.abs(pixels - expected.astype(np.float64))
    assert difference.max() <= (2 if whole else 16)
    assert difference.mean() < (0.5 if whole else 2)


PHOTOS = [(80, 80), (80, 120), (160, 80), (40, 61), (123, 77)]


@pytest.mark.parametrize(
    ("options", "shorter"),
    [
        ({}, 32),
        ({"val_resize": 40}, 40),
        ({"crop_pct": 0.8, "resize_interpolation": "bicubic"}, 40),
        ({"crop_pct": 0.9}, 35),  # 35.6, rounded down as by timm
        ({"image_size": 140, "resize_interpolation": "bicubic"}, 160),
        ({"image_size": (140, 140), "crop_pct": 0.875}, 160),
    ],
)
def test_validation_is_torchvisions_resize_and_centre_crop(
    tmp_path: Path, make_photo: Any, pixels_of: Pixels, options: dict[str, Any], shorter: int
) -> None:
    photos = [make_photo(*size, seed=i) for i, size in enumerate(PHOTOS)]
    options = {"image_size": 32} | options
    loader = image_loader(_folder(tmp_path / "p", photos), batch_size=5, train=False, **options, **OPTIONS)
    mode = v2.InterpolationMode(options.get("resize_interpolation", "bilinear"))
    crop = v2.CenterCrop(options["image_size"])
    [batch] = loader
    for pixels, photo in zip(pixels_of(loader, batch.images), photos, strict=True):
        sides = [side * shorter / min(photo.size) for side in photo.size[::-1]]
        whole = all(side.is_integer() for side in sides)
        # The longer side is rounded to the nearest; torchvision would cut it off.
        resize = v2.Resize(shorter if whole else [math.floor(side + 0.5) for side in sides], interpolation=mode)
        _assert_close(pixels, np.asarray(crop(resize(photo))), whole)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_oblong_validation_is_timms(tmp_path: Path, make_photo: Any, pixels_of: Pixels, interpolation: str) -> None:
    photos = [make_photo(*size, seed=i) for i, size in enumerate([(60, 100), (90, 100), (60, 200), (31, 57), (77, 40)])]
    loader = image_loader(
        _folder(tmp_path / "p", photos), batch_size=5, image_size=SIZE, train=False, crop_pct=0.8,
        resize_interpolation=interpolation, **OPTIONS,
    )  # fmt: skip
    assert loader.recipe.resize_to == (30, 50)
    transform = create_transform(
        (3, *SIZE), is_training=False, interpolation=interpolation, crop_pct=0.8, normalize=False
    )
    [batch] = loader
    for pixels, photo in zip(pixels_of(loader, batch.images), photos, strict=True):
        expected = transform(photo).permute(1, 2, 0).numpy()
        _assert_close(pixels, expected, whole=max(30 / photo.height, 50 / photo.width) == 0.5)


@pytest.mark.usefixtures("resized_bytes")
def test_images_in_memory_take_any_size(cifar: Path, pixels_of: Pixels) -> None:
    options: dict[str, Any] = OPTIONS | {"batch_size": 30, "train": False}
    stored = image_loader(cifar, **options, image_size=32).dataset.reader.images
    for size in (SIZE, (32, 48)):
        loader = image_loader(cifar, image_size=size, **options)
        [batch] = loader
        resize = v2.Resize(size)
        expected = [resize(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy() for image in stored]
        np.testing.assert_array_equal(np.round(pixels_of(loader, batch.images)), np.stack(expected))
    loader = image_loader(cifar, image_size=(28, 20), val_resize=32, **options)  # they ask for a crop here too
    [batch] = loader
    np.testing.assert_array_equal(np.round(pixels_of(loader, batch.images)), stored[:, 2:30, 6:26])
    loader = image_loader(cifar, image_size=SIZE, horizontal_flip=0, **options | {"train": True, "batch_size": 100})
    [batch] = loader
    resize = v2.Resize(SIZE)
    for pixels, index in zip(np.round(pixels_of(loader, batch.images))[:8], batch.indices.tolist()[:8], strict=True):
        whole = resize(torch.from_numpy(loader.dataset.reader.images[index]).permute(2, 0, 1)).permute(1, 2, 0).numpy()
        padded = np.pad(whole, ((4, 4), (4, 4), (0, 0)))
        places = [(y, x) for y in range(9) for x in range(9)]
        assert any(np.array_equal(padded[y : y + 24, x : x + 40], pixels) for y, x in places)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("layout", ["folders", "cifar"])
def test_a_side_is_a_square(layout: str, train: bool, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(layout)
    options: dict[str, Any] = OPTIONS | {"batch_size": 30, "train": train, "policy": "combined", "with_matrices": True}
    one, other = (image_loader(root, image_size=size, **options) for size in (40, (40, 40)))
    for mine, theirs in zip(one, other, strict=True):
        for name in ("images", "augmented", "matrices"):
            assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
    assert one.state_dict() == other.state_dict()
    assert one.state_dict()["configuration"]["image_size"] == 40
    other.load_state_dict(one.state_dict())
