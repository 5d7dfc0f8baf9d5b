"""Twelve kinds of file that data sets have and loaders trip over, and what a loader makes of each."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from train.benchmarks.loaders.job import MEAN, STD

SIDE = 224  # of all, and of what is asked for: no loader resizes, and pixels can be compared
STEM = "odd-picture"  # in the name of the bad file: an error that has it names the file
MEAN_OFF, MOST_OFF = 4.0, 32.0  # of 255: decoders differ in rounding and in the upsampling of colours
GOOD = ("right pixels", "names the file")


class Bad(NamedTuple):
    """A file's name and content, and what a viewer shows of it; None if there is nothing to show."""

    name: str
    content: bytes
    picture: Image.Image | None


def picture(phase: float = 0.0) -> Image.Image:
    """Return a smooth picture, no two quarters of which are alike."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    channels = [0.5 + 0.45 * np.sin(phase + 5 * x + 2 * y), 0.2 + 0.6 * x * y, 0.8 - 0.6 * y]
    return Image.fromarray((255 * np.stack(channels, axis=2)).astype(np.uint8))


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def shown(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def _truncated() -> Bad:
    content = encoded(picture(), "JPEG", quality=90)
    return Bad("jpg", content[: len(content) // 2], picture())


def _progressive() -> Bad:
    """Overwrite the first scan, and so all of the picture, with bytes that are no markers."""
    content = bytearray(encoded(picture(), "JPEG", quality=90, progressive=True))
    start = content.index(b"\xff\xda") + 14
    noise = np.random.default_rng(0).integers(0, 255, 200, dtype=np.uint8).tobytes()
    content[start : start + len(noise)] = noise
    return Bad("jpg", bytes(content), picture())


def _huge() -> Bad:
    """State 30,000 × 30,000 pixels, 2.7 GB, in the header of a small file."""
    content = bytearray(encoded(picture(), "JPEG"))
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = 2 * (30_000).to_bytes(2, "big")
    return Bad("jpg", bytes(content), None)


def _wide() -> Bad:
    values = np.asarray(picture().convert("L"), dtype=np.uint16) * 257
    return Bad("png", encoded(Image.fromarray(values), "PNG"), picture().convert("L").convert("RGB"))


def _same(suffix: str, content: bytes) -> Bad:
    return Bad(suffix, content, shown(content))


def _animated() -> Bad:
    frames = [picture(phase).quantize(64) for phase in (0.0, 2.0)]
    return _same("gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))


def _turned() -> Bad:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the top is at the right
    return _same("jpg", encoded(picture(), "JPEG", quality=95, exif=exif))


KINDS: dict[str, Callable[[], Bad]] = {
    "truncated": _truncated,
    "empty": lambda: Bad("jpg", b"", None),
    "not an image": lambda: Bad("jpg", b"<html>404 not found</html>\n" * 40, None),
    "wrong suffix": lambda: _same("jpg", encoded(picture(), "PNG")),
    "CMYK": lambda: _same("jpg", encoded(picture().convert("CMYK"), "JPEG", quality=95)),
    "16-bit": _wide,
    "grey": lambda: _same("jpg", encoded(picture().convert("L"), "JPEG", quality=95)),
    "palette": lambda: _same("png", encoded(picture().quantize(64), "PNG")),
    "animated": _animated,
    "huge header": _huge,
    "EXIF turned": _turned,
    "progressive with garbage": _progressive,
}


def write(kind: str, folder: Path) -> tuple[list[tuple[str, int]], Image.Image | None]:
    """Write good files and the bad one. Returns the samples, the bad one with label 1, and what it shows."""
    folder.mkdir(parents=True, exist_ok=True)
    bad = KINDS[kind]()
    samples = []
    for label in range(4):
        path = folder / (f"{STEM}.{bad.name}" if label == 1 else f"good-{label}.jpg")
        path.write_bytes(bad.content if label == 1 else encoded(picture(label), "JPEG", quality=95))
        samples.append((str(path), label))
    return samples, bad.picture


def is_right(pixels: torch.Tensor, expected: Image.Image | None) -> bool:
    """Return whether a normalised image (3, H, W) is the picture, but for the rounding of decoders."""
    if expected is None or tuple(pixels.shape[1:]) != (expected.height, expected.width):
        return False
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    found = 255 * (pixels * std + mean)
    off = (found - torch.from_numpy(np.array(expected)).permute(2, 0, 1)).abs()
    return bool(off.mean() < MEAN_OFF and off.flatten().kthvalue(int(0.99 * off.numel())).values < MOST_OFF)
