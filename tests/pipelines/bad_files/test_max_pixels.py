"""Images larger than `max_pixels` are bad files, and are not decoded."""

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pipelines import DataError, ImageLoader, find_dataset, image_loader
from pipelines.readers.files import Files

LIMIT = 60 * 50


def _loader(root: Path, **changes: Any) -> ImageLoader:
    options = {"batch_size": 4, "image_size": 32, "device": "cpu", "num_threads": 1, "max_pixels": LIMIT}
    return image_loader(root, **(options | changes))


@pytest.fixture
def photos(tmp_path: Path, make_photo: Any) -> Path:
    folder = tmp_path / "photos/a"
    folder.mkdir(parents=True)
    sizes = {"0.jpg": (60, 50), "1.png": (30, 100), "2.bmp": (20, 40), "3.jpg": (51, 60), "4.png": (3001, 1)}
    for seed, (name, (width, height)) in enumerate(sizes.items()):
        make_photo(height, width, seed=seed).save(folder / name)
    return folder.parent


@pytest.mark.parametrize("train", [True, False])
def test_the_first_larger_one_is_named(photos: Path, train: bool) -> None:
    with pytest.raises(DataError) as caught:
        list(_loader(photos, train=train))
    large = {f"{photos}/a/3.jpg": "51×60", f"{photos}/a/4.png": "3001×1"}
    [(path, size)] = [item for item in large.items() if item[0] in str(caught.value)]
    assert str(caught.value) == (
        f"cannot decode image '{path}': it has {size} pixels, more than max_pixels=3000. Raise max_pixels (each thread "
        'that decodes takes 3 bytes a pixel), or use other samples in place of such images: on_bad_file="replace".'
    )


@pytest.mark.parametrize("train", [True, False])
def test_they_are_replaced_and_the_others_as_without_a_limit(photos: Path, train: bool) -> None:
    loader = _loader(photos, train=train, on_bad_file="replace", max_bad_share=1)
    limited, unlimited = list(loader), list(_loader(photos, train=train, max_pixels=10**9))
    assert loader.bad_files == {
        3: "it has 51×60 pixels, more than max_pixels=3000", 4: "it has 3001×1 pixels, more than max_pixels=3000"
    }  # fmt: skip
    same = 0
    for mine, theirs in zip(limited, unlimited, strict=True):
        for place, index in enumerate(theirs.indices.tolist()):
            if index < 3:
                assert torch.equal(mine.images[place], theirs.images[place])
                same += 1
            else:
                assert int(mine.indices[place]) < 3
    assert same == 3
    assert len(list(_loader(photos, train=train, max_pixels=LIMIT + 60))) == 2


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("on_bad_file", ["raise", "replace"])
def test_an_image_without_pixels_is_a_bad_file(photos: Path, train: bool, on_bad_file: str) -> None:
    for name in ("3.jpg", "4.png"):
        (photos / "a" / name).unlink()
    png = bytearray((photos / "a/1.png").read_bytes())
    png[16:20] = bytes(4)  # the width, in the header
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    (photos / "a/1.png").write_bytes(png)
    loader = _loader(photos, train=train, on_bad_file=on_bad_file, max_bad_share=1)
    if on_bad_file == "raise":
        with pytest.raises(DataError, match=r"cannot decode image '.*/1\.png': its PNG data is damaged or cut short\."):
            list(loader)
    else:
        (batch,) = loader
        assert loader.bad_files == {1: "its PNG data is damaged or cut short"}
        assert len(batch.images) == 3
        assert 1 not in batch.indices


def test_a_state_is_loaded_with_another_limit(photos: Path) -> None:
    state = json.loads(json.dumps(_loader(photos, max_pixels=10**9).state_dict()))
    assert "max_pixels" not in state["configuration"]
    _loader(photos).load_state_dict(state)


def _png(width: int, height: int) -> bytes:
    """An image of zeros, row by row, which take almost no room in the file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(1), bytes(1 + 3 * width)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "data/a").mkdir(parents=True)
    (tmp_path / "data/a/bomb.png").write_bytes(_png(15_000, 15_000))  # 644 MiB
    program = f"""
import resource
from pipelines import image_loader
options = dict(batch_size=1, image_size=32, device="cpu", num_threads=1)
loaders = [image_loader({str(tmp_path / "data")!r}, train=train, **options) for train in (True, False)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for loader in loaders:
    try:
        list(loader)
    except ValueError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    *said, megabytes = done.stdout.splitlines()
    assert len(said) == 2
    assert all("bomb.png': it has 15000×15000 pixels, more than max_pixels=178956970" in line for line in said)
    assert int(megabytes) < 300


def test_pixels_in_memory_have_no_limit(cifar: Path) -> None:
    assert len(next(iter(_loader(cifar, max_pixels=1))).labels) == 4


def test_photographs_up_to_pillows_limit_pass_by_default(photos: Path) -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    loader = image_loader(photos, batch_size=5, image_size=32, device="cpu")
    assert loader.recipe.max_pixels == 2 * Image.MAX_IMAGE_PIXELS
    assert isinstance(find_dataset(photos).reader, Files)
    assert len(list(loader)) == 1
