"""The types of the images: bfloat16 is float32 rounded, uint8 is the pixels before normalisation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from pipelines import AugMix, Batch, ImageLoader, image_loader

POLICIES = [None, "trivialaugment", AugMix(width=2, depth=1)]


def _loader(root: Path, dtype: str | torch.dtype, **changes: Any) -> ImageLoader:
    options = {"batch_size": 10, "image_size": 32, "device": "cpu", "num_threads": 1, "seed": 3, "images": 30}
    return image_loader(root, dtype=dtype, **(options | changes))


def _images(batch: Batch) -> list[torch.Tensor]:
    return [batch.images] if batch.augmented is None else [batch.images, batch.augmented]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_bfloat16_is_float32_rounded_and_uint8_the_pixels_before_it_is_normalised(
    cifar: Path, policy: str | AugMix | None
) -> None:
    options: dict[str, Any] = {"policy": policy, "color_jitter": 0.4, "std": (0.2, 0.3, 1.0)}
    loaders = [_loader(cifar, dtype, **options) for dtype in ("float32", torch.bfloat16, torch.uint8)]
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (loaders[0].std, loaders[0].mean))
    for batches in zip(*loaders, strict=True):
        for number, (full, half, pixels) in enumerate(zip(*map(_images, batches), strict=True)):
            assert (half.dtype, pixels.dtype) == (torch.bfloat16, torch.uint8)
            assert torch.equal(half, full.bfloat16())
            assert not torch.equal(half.float(), full)
            exact = 255 * (full.double() * std + mean)
            mixed = isinstance(policy, AugMix) and number == 1  # its sum is not whole
            assert ((exact - exact.round()).abs().max() > 0.4) == mixed
            assert (pixels - exact).abs().max() < (0.5 if mixed else 0) + 1e-3  # to the nearest
            normalised = loaders[2].normalize(pixels)
            assert normalised.dtype == torch.float32
            assert ((normalised - full).abs() <= (0.5 / 255 / std if mixed else 0) + 1e-5).all()
            for images in (half, pixels, normalised):
                assert images.is_contiguous(memory_format=torch.channels_last)


def test_uint8_of_validation_is_the_data_sets_own_pixels(cifar: Path) -> None:
    loader = _loader(cifar, "uint8", train=False, batch_size=30)
    [batch] = loader
    stored = loader.dataset.reader.images  # type: ignore[attr-defined]
    np.testing.assert_array_equal(batch.images.permute(0, 2, 3, 1).numpy(), stored)


def test_normalize_is_torchvisions_and_does_not_wait(cifar: Path, no_waiting: Any) -> None:
    loader = _loader(cifar, "uint8", mean=(0.5, 0.25, 0.0), std=(0.25, 1.0, 0.1))
    images = torch.arange(2 * 3 * 256).remainder(256).to(torch.uint8).reshape(2, 3, 16, 16)  # of another size
    before = images.clone()
    with no_waiting():
        normalised = loader.normalize(images)
    theirs = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(loader.mean, loader.std)])
    torch.testing.assert_close(normalised, theirs(images), rtol=0, atol=1e-5)
    assert torch.equal(images, before)
    for wrong in (None, images.float(), images[0], images[:, :1], images.numpy(), images.to("meta")):
        with pytest.raises(ValueError, match=r"^images must be a uint8 tensor \(B, 3, H, W\) on cpu, got"):
            loader.normalize(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["bfloat16", "uint8"])
def test_held_batches_are_never_overwritten_and_each_epoch_repeats(folders: Path, dtype: str) -> None:
    loader = _loader(folders, dtype, policy="flips", images=None)
    held = [tensor for batch in loader for tensor in _images(batch)]
    copies = [tensor.clone() for tensor in held]
    list(loader)
    loader.set_epoch(0)
    again = [tensor for batch in loader for tensor in _images(batch)]
    assert all(map(torch.equal, held, copies))
    assert all(map(torch.equal, held, again))
    assert {tensor.dtype for tensor in held} == {getattr(torch, dtype)}


def test_functions_of_torch_on_a_batch_leave_the_loader_alone(cifar: Path) -> None:
    """As the page has it: a batched transform makes its own tensors, and the loader's memory stays as it was."""
    loader, other = (_loader(cifar, "uint8", policy="flips") for _ in range(2))
    jitter = v2.ColorJitter(0.5)
    erase = v2.RandomErasing(p=1.0, scale=(0.1, 0.2))
    for batch, untouched in zip(loader, other, strict=True):
        images = erase(loader.normalize(jitter(batch.images)))
        assert images.shape == batch.images.shape
        assert ((images == 0).all(1).flatten(1).sum(1) > 50).all()
        assert torch.equal(batch.images, untouched.images)
        assert torch.equal(batch.augmented, untouched.augmented)
