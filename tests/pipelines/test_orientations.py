"""Images that state their orientation more than once: DALI would end the process, or return wrong pixels."""

import io
import itertools
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import DataError, find_dataset, image_loader
from pipelines.bad_files.check import UNSUPPORTED, check_files
from pipelines.decoding import for_dali
from pipelines.orientations import WINDOW, jpeg_states_several

SIDE = 32
REASON = "its metadata states different orientations, and it is not decoded correctly: keep one"


def _tiff(orientation: int | None, order: str = ">", kind: int = 3) -> bytes:
    """Metadata in TIFF's form, of one entry: the orientation, or None and another tag."""
    tag, value = (0x110, 5) if orientation is None else (0x112, orientation)
    form = {3: "HHIHxx", 4: "HHII"}[kind]
    return (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(
        order + "IH" + form + "I", 8, 1, tag, kind, 1, value, 0
    )


def _app1(tiff: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.fixture(scope="module")
def photo(make_photo: Callable[..., Image.Image]) -> Image.Image:
    return make_photo(SIDE, SIDE + 8)


def _encoded(photo: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, form, quality=95)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def jpeg(photo: Image.Image) -> bytes:
    return _encoded(photo, "JPEG")


STATED = {
    "none": ([], False),
    "one": ([_tiff(6)], False),
    "the same": ([_tiff(6), _tiff(6, "<")], False),
    "one of two": ([_tiff(None), _tiff(6), _tiff(None)], False),
    "others": ([_tiff(6), _tiff(3)], True),
    "the last of three": ([_tiff(6), _tiff(6), _tiff(1)], True),
    "as another type": ([_tiff(6), _tiff(6, kind=4)], True),
    "cut short": ([_tiff(6), _tiff(6)[:18]], True),
    "no TIFF": ([_tiff(6), b"x" * 30], True),
}


@pytest.mark.parametrize("name", list(STATED))
def test_headers(jpeg: bytes, photo: Image.Image, name: str) -> None:
    blocks, several = STATED[name]
    between = (b"", b"\xff\xff\xff", b"\xff\xfe" + struct.pack(">H", 60_000) + bytes(59_998), b"\xff\xd0\0\4ab")
    for more, filler in itertools.product(between, between):
        segments = b"".join(more + filler + _app1(block) for block in blocks)
        for place in (2, jpeg.index(b"\xff\xda")):
            content = jpeg[:place] + segments + jpeg[place:]
            assert (for_dali(content, 10**6) is content) != several
            assert jpeg_states_several(io.BytesIO(content)) == several
            file = io.BytesIO(content)
            assert jpeg_states_several(file, file.read(WINDOW)) == several
    png = _encoded(photo, "PNG")
    for places in ((33, 33, 33), (33, len(png) - 12, len(png) - 12)):
        content = png
        for place, block in reversed(list(zip(places, blocks, strict=False))):
            content = content[:place] + _chunk(b"eXIf", block) + content[place:]
        assert (for_dali(content, 10**6) is content) != several


def test_hostile_headers_take_no_time(jpeg: bytes) -> None:
    two = _app1(_tiff(6)) + _app1(_tiff(3))
    assert jpeg_states_several(io.BytesIO(jpeg[:2] + b"\xff" * 10**6 + two + jpeg[2:]))
    assert jpeg_states_several(io.BytesIO(jpeg[:2] + b"\xff\xe5\0\2" * 10**6 + jpeg[2:]))


def test_the_loader_and_check_data(tmp_path: Path, jpeg: bytes, photo: Image.Image) -> None:
    """The same pixels as Pillow's, which takes the first one; by a JPEG's name alone, where DALI reads, an error."""
    several = jpeg[:2] + _app1(_tiff(8)) + _app1(_tiff(3)) + jpeg[2:]
    assert for_dali(several, 10**6) is not several
    (tmp_path / "a").mkdir()
    for number in range(3):
        (tmp_path / "a" / f"{number}.jpg").write_bytes(jpeg if number else several)
    options = {"batch_size": 3, "image_size": SIDE, "device": "cpu", "dtype": "uint8"}
    with pytest.raises(DataError, match=rf"0\.jpg': {REASON}"):
        list(image_loader(tmp_path, **options))
    loader = image_loader(tmp_path, train=False, on_bad_file="replace", max_bad_share=1, **options)
    assert [len(batch.replaced) for batch in loader] == [1]
    assert loader.bad_files == {0: REASON}
    [(_, [bad])] = check_files(find_dataset(tmp_path), threads=1)
    assert (bad.kind, bad.reason) == (UNSUPPORTED, REASON)

    photo.save(tmp_path / "a" / "3.png")  # not all have a JPEG's name: the host reads them
    [(_, found)] = check_files(find_dataset(tmp_path), threads=1)
    assert found == []
    [batch] = image_loader(tmp_path, train=False, **(options | {"batch_size": 4, "val_crop": "squash"}))
    turned = Image.open(io.BytesIO(jpeg)).transpose(Image.Transpose.ROTATE_90)
    expected = np.asarray(turned.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(float)
    pixels = batch.images[0].permute(1, 2, 0).numpy()
    assert np.abs(pixels - expected).mean() < 2
