"""Fine-grained saliency: against loops over pixels, and OpenCV with and without its roundings."""

import numpy as np
import pytest
import torch
from PIL import Image

from dali_salaug import saliency_map

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
REACHES = [3 * 4, 3 * 8, 3 * 16, 7 * 4, 7 * 8, 7 * 16]


def fine_grained(images, scale=1.0):
    return saliency_map(None, images, method="fine_grained", scale=scale)


def photograph(side):
    """Matplotlib's portrait of Grace Hopper, uint8 (side, side, 3)."""
    from matplotlib import cbook

    with cbook.get_sample_data("grace_hopper.jpg") as file:
        return np.asarray(Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def as_images(pixels, normalised=True):
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    return (images / 255 - MEAN) / STD if normalised else images


def opencv(pixels):
    cv2 = pytest.importorskip("cv2", reason="needs opencv-contrib-python-headless, of the test dependencies")
    if not hasattr(cv2, "saliency"):
        pytest.skip("needs opencv-contrib-python-headless; the installed OpenCV has no saliency module")
    ok, saliency = cv2.saliency.StaticSaliencyFineGrained_create().computeSaliency(pixels[..., ::-1].copy())
    assert ok
    return np.asarray(saliency, dtype=np.float64) * (255 if np.issubdtype(saliency.dtype, np.floating) else 1)


def rounded(pixels):
    """The same algorithm with OpenCV's roundings: whole greys, whole blurred greys, whole contrasts, whole maps."""
    import cv2

    grey = cv2.cvtColor(pixels[..., ::-1].copy(), cv2.COLOR_BGR2GRAY)
    grey = cv2.GaussianBlur(cv2.GaussianBlur(grey, (3, 3), 0), (3, 3), 0).astype(np.float64)
    contrasts = [grey - surround(grey, reach).astype(np.float32) for reach in REACHES]
    on = sum(np.floor(np.maximum(contrast, 0)) for contrast in contrasts)
    off = sum(np.floor(np.maximum(-contrast, 0)) for contrast in contrasts)
    on, off = (np.floor(255 * (part.astype(np.float32) / np.float32(part.max())).astype(float)) for part in (on, off))
    return np.floor(255 * (on + off) / max(on.max(), off.max()))


def surround(grey, reach):
    """By an integral image, in float64."""
    sums, count = np.pad(grey.cumsum(0).cumsum(1), ((1, 0), (1, 0))), 1
    for axis, side in enumerate(grey.shape):
        start = np.clip(np.arange(side) - reach + 1, 0, None)
        stop = np.clip(np.arange(side) + reach + 1, None, side)
        sums = np.take(sums, stop, axis) - np.take(sums, start, axis)
        count = np.multiply.outer(count, stop - start) if axis else stop - start
    return (sums - grey) / (count - 1)


def oracle(grey):
    """Pixel by pixel, from the definition; grey (h, w), float64."""
    for _ in range(2):
        padded = np.pad(grey, 1, mode="reflect")
        blurred = np.zeros_like(grey)
        for y, x in np.ndindex(grey.shape):
            blurred[y, x] = np.sum(padded[y : y + 3, x : x + 3] * np.outer([1, 2, 1], [1, 2, 1]) / 16)
        grey = blurred
    on, off = np.zeros_like(grey), np.zeros_like(grey)
    for y, x in np.ndindex(grey.shape):
        for reach in REACHES:
            window = grey[max(0, y - reach + 1) : y + reach + 1, max(0, x - reach + 1) : x + reach + 1]
            contrast = grey[y, x] - (window.sum() - grey[y, x]) / (window.size - 1)
            on[y, x] += max(contrast, 0)
            off[y, x] += max(-contrast, 0)
    return on / on.max() + off / off.max()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_equals_a_loop_over_pixels(channels):
    images = torch.randn(3, channels, 27, 34, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images[1] = images[1] * 40 + 100
    weights = torch.tensor([0.299, 0.587, 0.114] if channels == 3 else [1 / channels] * channels).double()
    expected = [oracle(np.einsum("c,chw->hw", weights, image)) for image in images]
    got = fine_grained(images)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, np.stack(expected), rtol=0, atol=2e-6)


@pytest.mark.parametrize("side", [32, 112, 224])
def test_opencv_is_the_same_but_for_its_roundings(side):
    """With them the algorithm is OpenCV's to the last grey value; so the rest of what differs is rounding.

    Bounds on the map in OpenCV's units (0..255), where 40 photographs of ImageNet gave at 224, 112 and 32 pixels:
    largest difference 6.5, 8.8 and 14.8; correlation at least 0.9993, 0.9992 and 0.9983; and OpenCV's map at the
    place of our peak at least 0.988 of its own.
    """
    pixels = photograph(side)
    expected = opencv(pixels)
    np.testing.assert_allclose(rounded(pixels), expected, rtol=0, atol=1e-3)
    for normalised in (False, True):
        got = fine_grained(as_images(pixels, normalised))[0].double().numpy() * 255
        assert np.abs(got - expected).max() < {32: 15, 112: 9, 224: 7}[side]
        assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.998
        assert expected.ravel()[got.argmax()] > 0.98 * expected.max()


def test_low_resolution_is_the_map_of_the_reduced_image():
    images = as_images(photograph(64))
    reduced = torch.nn.functional.interpolate(images, (32, 32), mode="bicubic", antialias=True)
    assert torch.equal(fine_grained(images, scale=0.5), fine_grained(reduced))


def test_brightness_and_contrast_of_an_image_do_not_matter():
    images = as_images(photograph(48), normalised=False)
    for changed in (images * 1e-3, images + 1000, (images - 50) / 7):
        torch.testing.assert_close(fine_grained(changed), fine_grained(images), rtol=0, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.1, -1.7, 12345.678])
@pytest.mark.parametrize("scale", [0.5, 0.7, 1.0])
def test_a_flat_image_has_a_flat_map(value, scale):
    """Also where the channels differ, and nearly cancel each other."""
    images = torch.full((3, 3, 37, 23), value)
    images[1, 0] = 0.3
    images[2, 0] = -value * (0.587 + 0.114) / 0.299
    saliency = fine_grained(images, scale)
    assert torch.equal(saliency, torch.zeros_like(saliency))


def test_the_faintest_step_of_8_bits_shows():
    pixels = torch.full((1, 3, 32, 32), 254.0)
    pixels[:, 2, 10:14, 20:24] = 255  # blue, which luma weighs least
    saliency = fine_grained(pixels / 255, scale=0.5)
    assert saliency.argmax() in [row * 16 + column for row in (5, 6) for column in (10, 11)]


def test_an_image_does_not_depend_on_the_others_nor_on_broken_pixels():
    images = torch.cat([as_images(photograph(40)), torch.randn(2, 3, 40, 40)])
    alone = fine_grained(images[:1])
    images[1, 0, 3, 4] = float("nan")
    images[2, 0, 3, 4] = float("inf")
    got = fine_grained(images)
    assert torch.equal(got[:1], alone)
    assert got.isfinite().all()
    assert (got.amax((1, 2)) > 0.9).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 1), (2, 3)])
def test_images_of_a_few_pixels(size):
    got = fine_grained(torch.randn(2, 3, *size))
    assert got.shape == (2, *size)
    assert got.isfinite().all()


def test_needs_neither_model_nor_labels_and_leaves_the_images_alone():
    images = torch.randn(2, 3, 16, 16, requires_grad=True)
    before = images.detach().clone()
    with torch.inference_mode():
        got = fine_grained(images, scale=0.5)
    assert not got.requires_grad
    assert not got.is_inference()
    assert torch.equal(images.detach(), before)
