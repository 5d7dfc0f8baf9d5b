"""The pixels, against Pillow and torch: crops, resizing, mirroring, normalisation, geometry."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from pipelines import Batch, ImageLoader, RandAugment, draws, image_loader
from pipelines.policies.base import PolicyDraw

Resampling = Image.Resampling


def _pixels(loader: ImageLoader, images: torch.Tensor) -> np.ndarray:
    """Back to (B, H, W, 3) in 0 … 255."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (loader.mean, loader.std))
    return ((images * std + mean) * 255).permute(0, 2, 3, 1).numpy()


def _folder(root: Path, pictures: list[Image.Image], suffix: str = ".png", **options: Any) -> Path:
    (root / "only").mkdir(parents=True)
    for index, picture in enumerate(pictures):
        picture.save(root / "only" / f"{index:03}{suffix}", **options)
    return root


def _gradient(height: int, width: int) -> Image.Image:
    """Red tells x and green tells y."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8))


def test_cifar_training_pixels_are_a_padded_crop_perhaps_mirrored(cifar: Path) -> None:
    loader = image_loader(cifar, batch_size=100, image_size=32, device="cpu")
    [batch] = loader
    images = loader.dataset.reader.images
    assert images is not None
    found = []
    for pixels, index in zip(_pixels(loader, batch.images), batch.indices.tolist(), strict=True):
        padded = np.pad(images[index], ((4, 4), (4, 4), (0, 0)))
        matches = [
            (y, x, flip)
            for y in range(9)
            for x in range(9)
            for flip in (False, True)
            if np.abs(padded[y : y + 32, x : x + 32][:, :: -1 if flip else 1] - pixels).max() < 0.01
        ]
        found += matches
        assert len(matches) == 1
    assert len({(y, x) for y, x, _ in found}) > 40
    assert 30 < sum(flip for *_, flip in found) < 70


def test_cifar_validation_pixels_are_the_files(cifar: Path) -> None:
    loader = image_loader(cifar, batch_size=30, image_size=32, train=False, device="cpu")
    [batch] = loader
    np.testing.assert_allclose(_pixels(loader, batch.images), loader.dataset.reader.images, atol=1e-3)
    large = image_loader(cifar, batch_size=30, image_size=64, train=False, device="cpu")
    [batch] = large
    expected = [Image.fromarray(image).resize((64, 64), Resampling.BILINEAR) for image in loader.dataset.reader.images]
    assert np.abs(_pixels(large, batch.images) - np.stack(expected)).max() < 2


def _window(gradient: np.ndarray, height: int, width: int) -> tuple[tuple[float, ...], bool]:
    """Left, top, right, bottom of the crop, and whether it was mirrored, from the pixels of `_gradient`."""
    red, green = gradient[..., 0].mean(axis=0), gradient[..., 1].mean(axis=1)
    inner, side = slice(8, -8), len(gradient)
    centres = np.arange(side)[inner] + 0.5
    edges = []
    for values in (red, green):
        slope, start = np.polyfit(centres, values[inner] + 0.5, 1)
        edges.append((start, start + slope * side))
    (left, right), (top, bottom) = edges
    return (round(min(left, right)), round(top), round(max(left, right)), round(bottom)), left > right


@pytest.mark.parametrize("crop_scale", [(0.08, 1.0), (0.6, 0.9)])
def test_file_training_pixels_are_pillows_crop_and_resize(
    tmp_path: Path, make_photo: Any, crop_scale: tuple[float, float]
) -> None:
    sizes = [(160, 240), (250, 120), (200, 200), (90, 255), (128, 64)] * 6
    photos = [make_photo(*size, seed=i) for i, size in enumerate(sizes)]
    # Same seed and number of files, hence the same windows in both.
    roots = [_folder(tmp_path / "g", [_gradient(*size) for size in sizes]), _folder(tmp_path / "p", photos)]
    options: dict[str, Any] = {"batch_size": 30, "image_size": 64, "device": "cpu", "crop_scale": crop_scale}
    loaders = [image_loader(root, **options) for root in roots]
    [gradients], [batch] = loaders
    assert torch.equal(gradients.indices, batch.indices)
    mirrored = 0
    for gradient, pixels, index in zip(
        _pixels(loaders[0], gradients.images), _pixels(loaders[1], batch.images), batch.indices, strict=True
    ):
        box, flip = _window(gradient, *sizes[index])
        mirrored += flip
        share = (box[2] - box[0]) * (box[3] - box[1]) / (sizes[index][0] * sizes[index][1])
        assert share <= crop_scale[1] + 0.05
        # The edges read off the gradient may be a pixel out.
        boxes = [tuple(np.add(box, shift).tolist()) for shift in itertools.product((-1, 0, 1), repeat=4)]
        resized = [photos[index].crop(edges).resize((64, 64), Resampling.BILINEAR) for edges in boxes]
        candidates = np.stack(resized).astype(np.float32)
        difference = np.abs((candidates[:, :, ::-1] if flip else candidates) - pixels)
        best = difference.mean(axis=(1, 2, 3)).argmin()
        assert difference[best].mean() < 0.3
        assert difference[best].max() < 6
    assert 5 < mirrored < 25


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize(("image_size", "shorter"), [(64, 64), (140, 160)])
def test_validation_pixels_are_pillows_resize_and_centre_crop(
    tmp_path: Path, make_photo: Any, suffix: str, image_size: int, shorter: int
) -> None:
    sizes = [(180, 240), (300, 200), (190, 190), (61, 50)]
    root = _folder(tmp_path / "p", [make_photo(*size, seed=i) for i, size in enumerate(sizes)], suffix)
    loader = image_loader(root, batch_size=4, image_size=image_size, train=False, device="cpu")
    [batch] = loader
    for pixels, path in zip(_pixels(loader, batch.images), loader.dataset.reader.files, strict=True):
        photo = Image.open(path).convert("RGB")
        scale = shorter / min(photo.size)
        width, height = (round(side * scale) for side in photo.size)
        left, top = (round((side - image_size) / 2) for side in (width, height))
        whole = photo.resize((width, height), Resampling.BILINEAR)
        expected = whole.crop((left, top, left + image_size, top + image_size))
        assert np.abs(np.asarray(expected, np.float32) - pixels).mean() < 1.5


@pytest.mark.parametrize(
    ("size", "image_size", "options", "padding"),
    [((64, 64), 64, {}, 4), ((48, 32), (24, 12), {"padding": 10}, 10), ((20, 12), (20, 12), {"padding": 0}, 0)],
)
def test_pad_crop_of_files(
    tmp_path: Path, make_photo: Any, size: tuple[int, int], image_size: Any, options: dict[str, int], padding: int
) -> None:
    """The whole image is resized; a padding may be most of a side."""
    photo = make_photo(*size)
    root = _folder(tmp_path / "p", [photo] * 20)
    loader = image_loader(root, batch_size=20, image_size=image_size, crop="pad", device="cpu", **options)
    [batch] = loader
    height, width = loader.image_size
    whole = np.asarray(photo.resize((width, height), Resampling.BILINEAR), np.float32)
    padded = np.pad(whole, ((padding, padding), (padding, padding), (0, 0)))
    candidates = np.stack(
        [
            padded[y : y + height, x : x + width][:, ::flip]
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
            for flip in (1, -1)
        ]
    )
    found = set()
    for pixels in _pixels(loader, batch.images):
        differences = np.abs(candidates - pixels).max(axis=(1, 2, 3))
        assert differences.min() < (0.01 if size == (height, width) else 2)
        found.add(differences.argmin())
    assert len(found) > (10 if padding else 1)


def test_squashed_validation_pixels_are_the_whole_images(tmp_path: Path, make_photo: Any, cifar: Path) -> None:
    sizes = [(60, 100), (90, 40), (31, 57), (256, 128)]
    root = _folder(tmp_path / "p", [make_photo(*size, seed=i) for i, size in enumerate(sizes)])
    options: dict[str, Any] = {"train": False, "val_crop": "squash", "device": "cpu", "batch_size": 4}
    loader = image_loader(root, image_size=(40, 24), **options)
    [batch] = loader
    for pixels, path in zip(_pixels(loader, batch.images), loader.dataset.reader.files, strict=True):
        expected = np.asarray(Image.open(path).resize((24, 40), Resampling.BILINEAR), np.float32)
        assert np.abs(expected - pixels).max() < 2
    loader.set_image_size((20, 60))
    assert next(iter(loader)).images.shape[2:] == (20, 60)
    for size in (32, (24, 40)):  # images in memory are never cropped
        ours, theirs = (
            next(iter(image_loader(cifar, image_size=size, **options | changes)))
            for changes in ({}, {"val_crop": "center"})
        )
        assert torch.equal(ours.images, theirs.images)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_orientation_is_applied_before_the_crop(
    tmp_path: Path, make_photo: Any, train: bool, orientation: int
) -> None:
    upright = make_photo(120, 250)
    turned = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright.transpose(turned[orientation])
    roots = [
        _folder(tmp_path / "stored", [stored] * 8, ".jpg", exif=exif, quality=98, subsampling=0),
        _folder(tmp_path / "upright", [upright] * 8, ".jpg", quality=98, subsampling=0),
    ]
    loaders = [image_loader(root, batch_size=8, image_size=64, train=train, device="cpu") for root in roots]
    [one], [other] = loaders
    difference = np.abs(_pixels(loaders[0], one.images) - _pixels(loaders[1], other.images))
    assert difference.mean() < 2


class _Still(RandAugment):
    """Draws only the identity."""

    def draw(self, numbers: np.ndarray, size: tuple[int, int]) -> PolicyDraw:
        drawn = super().draw(numbers, size)
        still = np.full_like(drawn.operations, self.operations(size).index("identity"))
        return PolicyDraw(still, drawn.parameters, drawn.matrices)


@pytest.mark.parametrize("layout", ["folders", "cifar"])
def test_clean_and_augmented_are_the_same_crop(layout: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(layout)
    for batch in image_loader(root, batch_size=16, image_size=32, policy=_Still(), device="cpu"):
        assert batch.augmented is not None
        assert torch.equal(batch.images, batch.augmented)


@dataclass(frozen=True)
class _Moves(RandAugment):
    """Draws only the five geometric operations, the first of the suite."""

    def draw(self, numbers: np.ndarray, size: tuple[int, int]) -> PolicyDraw:
        return super().draw(np.concatenate([numbers[:, : self.n] * 5 / 14, numbers[:, self.n :]], axis=1), size)


def _warp(batch: Batch, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`images` moved by `matrices` with torch, and how much of each pixel comes from inside."""
    count = len(batch.images)
    assert batch.matrices is not None
    square = torch.cat([batch.matrices, torch.tensor([[[0.0, 0, 1]]]).expand(count, 1, 3)], dim=1)
    # Pixels (centres at +0.5) to affine_grid's [-1, 1].
    to_unit = torch.tensor([[2 / size, 0, -1], [0, 2 / size, -1], [0, 0, 1]])
    theta = (to_unit @ square.inverse() @ to_unit.inverse())[:, :2]
    grid = functional.affine_grid(theta, [count, 3, size, size], align_corners=False)
    arguments: dict[str, Any] = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False}
    inside = functional.grid_sample(torch.ones_like(batch.images), grid, **arguments)
    return functional.grid_sample(batch.images, grid, **arguments), inside


@pytest.mark.parametrize("stages", [1, 2])
def test_the_matrix_takes_clean_to_augmented(folders: Path, stages: int) -> None:
    size = 64
    loader = image_loader(
        folders, batch_size=37, image_size=size, policy=_Moves(n=stages, m=15), with_matrices=True,
        interpolation="linear", device="cpu",
    )  # fmt: skip
    [batch] = loader
    expected, inside = _warp(batch, size)
    assert batch.augmented is not None
    moved = torch.from_numpy(np.abs(_pixels(loader, batch.augmented) - _pixels(loader, batch.images))).mean()
    assert moved > 10
    # Twice interpolated (two stages) is softer than once, and content that left the image is gone.
    kept = inside == 1 if stages == 1 else (inside == 1) & (batch.augmented != batch.augmented.amin())
    std = torch.tensor(loader.std).view(1, 3, 1, 1)
    difference = ((batch.augmented - expected) * std * 255).abs()[kept]
    assert kept.float().mean() > 0.5
    if stages == 1:
        assert difference.max() < 3
        outside = ((batch.augmented * std + torch.tensor(loader.mean).view(1, 3, 1, 1)) * 255)[inside == 0]
        assert (outside - 128).abs().max() < 0.6
    else:
        assert difference.median() < 3


def test_matrices_are_the_identity_where_nothing_moved(cifar: Path) -> None:
    options: dict[str, Any] = {"batch_size": 100, "image_size": 32, "with_matrices": True, "device": "cpu"}
    [still] = image_loader(cifar, policy=_Still(m=0), **options)
    assert torch.equal(still.matrices, torch.eye(2, 3).expand(100, 2, 3))
    [batch] = image_loader(cifar, policy=RandAugment(n=1, m=15), **options)
    stays = (batch.matrices == torch.eye(2, 3)).all(dim=2).all(dim=1)
    assert 0.45 < stays.float().mean() < 0.8  # nine of fourteen


def test_nearest_and_linear_differ_only_in_geometry(cifar: Path) -> None:
    options: dict[str, Any] = {
        "batch_size": 100, "image_size": 32, "with_matrices": True, "device": "cpu",
        "policy": RandAugment(n=1, m=15),
    }  # fmt: skip
    [nearest], [linear] = (image_loader(cifar, interpolation=name, **options) for name in ("nearest", "linear"))
    moved = (nearest.matrices != torch.eye(2, 3)).any(dim=2).any(dim=1)
    differs = (nearest.augmented != linear.augmented).flatten(1).any(dim=1)
    assert not differs[~moved].any()
    assert differs[moved].float().mean() > 0.5


def test_colour_jitter_is_torchvisions_saturation_then_contrast_about_mid_grey_then_brightness(folders: Path) -> None:
    options: dict[str, Any] = {"batch_size": 100, "image_size": 64, "policy": "trivialaugment", "device": "cpu"}
    [plain], [jittered] = (image_loader(folders, color_jitter=strength, **options) for strength in (0.0, 0.4))
    loader = image_loader(folders, color_jitter=0.4, **options)
    numbers = draws.uniforms(0, 0, draws.JITTER, 0, len(plain.labels), 3)
    factors = draws.jitter_factors(numbers, 0.4)
    assert all(((f >= 0.6) & (f <= 1.4) & (f != 1)).all() for f in factors.values())
    before, after = (torch.from_numpy(_pixels(loader, batch.images)).double() for batch in (plain, jittered))
    for index, (image, got) in enumerate(zip(before, after, strict=True)):
        brightness, contrast, saturation = (float(factors[name][index]) for name in draws.JITTER_FACTORS)
        grey = (image * torch.tensor([0.2989, 0.587, 0.114])).sum(-1, keepdim=True)
        expected = grey + saturation * (image - grey)
        expected = brightness * (127.5 + contrast * (expected - 127.5))
        assert (expected.clamp(0, 255) - got).abs().max() < 2.5
        assert (image - got).abs().max() > 4
    unmoved = (plain.augmented == plain.images).flatten(1).all(1)  # the policy drew the identity: it sees the jitter
    assert unmoved.any()
    assert torch.equal(jittered.augmented[unmoved], jittered.images[unmoved])
    [validation] = image_loader(folders, color_jitter=0.4, train=False, **(options | {"policy": None}))
    [untouched] = image_loader(folders, train=False, **(options | {"policy": None}))
    assert torch.equal(validation.images, untouched.images)
