"""Images made on the spot, in the layouts that the loader reads; the policies' operations by other libraries."""

import io
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest
import tfrecord
import torch
import torchvision
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage
from torchvision.transforms.v2 import functional


@pytest.fixture(scope="session")
def resized_bytes() -> None:
    """For a test of torchvision's pixels: older versions resize bytes as floating point on some processors."""
    image = torch.arange(40 * 30 * 3, dtype=torch.uint8).view(1, 40, 30, 3).permute(0, 3, 1, 2)
    by_bytes = torch.ops.aten._upsample_bilinear2d_aa(image, [20, 16], False)
    if not torch.equal(functional.resize(image, [20, 16], antialias=True), by_bytes):
        pytest.skip(f"torchvision {torchvision.__version__} resizes bytes as floating point on this processor")


@pytest.fixture
def warned(recwarn: pytest.WarningsRecorder) -> Callable[[], list[str]]:
    """The warnings so far, but for DALI's own on Python 3.13, by which it notes the lines of conditions."""
    return lambda: [text for text in (str(entry.message) for entry in recwarn) if "___pyct_anno" not in text]


def _refused(call: Callable[[], object], name: str, value: object) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at below
        call()
    said = str(caught.value)
    assert re.search(rf"\b{name}\b", said), (said, name)
    assert len(said) < 500
    assert "\n" not in said
    assert "0x" not in said or "object" in said  # no address without its type
    if isinstance(value, str | int | float) and len(str(value)) < 20 and "\0" not in str(value):
        assert str(value) in said or repr(value) in said, said


@pytest.fixture(scope="session")
def refused() -> Callable[[Callable[[], object], str, object], None]:
    """What checks that a call raises a short ValueError that names an argument, and shows the value if it is given."""
    return _refused


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, make_photo: Callable[..., Image.Image]) -> Path:
    """37 JPEGs of unlike sizes in three classes."""
    root = tmp_path_factory.mktemp("folders")
    generator = np.random.default_rng(1)
    for index in range(37):
        folder = root / ("ape", "bee", "cat")[index % 3]
        folder.mkdir(exist_ok=True)
        height, width = generator.integers(60, 200, 2)
        make_photo(height, width, seed=index).save(folder / f"{index:02}.jpg", quality=92)
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


def _with_pillow(picture: np.ndarray, operation: str, parameters: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """One drawn operation on one picture (H, W, 3) uint8, by other libraries than DALI; geometry by nearest pixel."""
    image, amount = Image.fromarray(picture), float(parameters[0])
    if operation == "warp":
        inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]).astype(np.float64))
        arguments = tuple(inverse[:2].ravel().tolist())
        moved = image.transform(image.size, Image.Transform.AFFINE, arguments, fillcolor=(128, 128, 128))
        return np.asarray(moved)
    if operation == "cutout":
        top, left, height, width = parameters[:4].astype(int)
        cut = picture.copy()
        cut[top : top + height, left : left + width] = (125, 123, 114)
        return cut
    if operation == "sharpness":
        kernel = parameters.reshape(3, 3, 1)
        filtered = ndimage.convolve(picture.astype(np.float32), kernel, mode="mirror")
        return np.clip(np.round(filtered), 0, 255).astype(np.uint8)
    functions: dict[str, Callable[[], Any]] = {
        "identity": lambda: image,
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(amount),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(amount),
        "color": lambda: ImageEnhance.Color(image).enhance(amount),
        "posterize": lambda: picture & np.uint8(amount),
        "solarize": lambda: np.where(picture < amount, picture, 255 - picture),
        "invert": lambda: ImageOps.invert(image),
        # OpenCV's, as DALI's; Pillow's look-up table is another by a little.
        "equalize": lambda: np.stack(
            [cv2.equalizeHist(np.ascontiguousarray(c)) for c in picture.transpose(2, 0, 1)], -1
        ),
        "auto_contrast": lambda: ImageOps.autocontrast(image),
    }
    return np.asarray(functions[operation]())


@pytest.fixture(scope="session")
def with_pillow() -> Callable[..., np.ndarray]:
    return _with_pillow


def _pixels_of(loader: Any, images: Any) -> np.ndarray:
    """Normalised images of a loader back to pixels: (B, H, W, 3) in 0 … 255."""
    mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (loader.mean, loader.std))
    return ((images.numpy() * std + mean) * 255).transpose(0, 2, 3, 1)


@pytest.fixture(scope="session")
def pixels_of() -> Callable[..., np.ndarray]:
    return _pixels_of


Samples = list[tuple[str, int, bytes]]  # name, label and content of image files


def _write_tar(path: Path, samples: Samples) -> None:
    with tarfile.open(path, "w") as tar:
        for number, (name, label, content) in enumerate(samples):
            for suffix, data in ((Path(name).suffix, content), (".cls", str(label).encode()), (".json", b"{}")):
                member = tarfile.TarInfo(f"photos/{number:06}-{Path(name).stem}{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _write_tfrecord(path: Path, samples: Samples) -> None:
    writer = tfrecord.TFRecordWriter(str(path))
    for name, label, content in samples:
        writer.write(
            {
                "image/class/label": (label + 1, "int"),
                "image/filename": (name.encode(), "byte"),
                "image/encoded": (content, "byte"),
                "image/object/bbox/xmin": ([0.25, 0.5], "float"),
            }
        )
    writer.close()


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def _write_lmdb(path: Path, samples: Samples) -> None:
    with lmdb.open(str(path), map_size=2**26) as database, database.begin(write=True) as transaction:
        for number, (name, label, content) in enumerate(samples):
            # caffe.Datum: channels, height, width; data; label; encoded
            head = b"\x08\x03\x10\x00\x18\x00"
            datum = head + b"\x22" + _varint(len(content)) + content + b"\x28" + _varint(label) + b"\x38\x01"
            transaction.put(f"{number:08}_{name}".encode(), datum)


@pytest.fixture(scope="session")
def write_shard() -> Callable[[str, Path, Samples], None]:
    """Writes samples into a file, or a folder, of a kind: "tar", "tfrecord" (labels from 1) or "lmdb" (Caffe's)."""
    writers = {"tar": _write_tar, "tfrecord": _write_tfrecord, "lmdb": _write_lmdb}
    return lambda kind, path, samples: writers[kind](path, samples)
