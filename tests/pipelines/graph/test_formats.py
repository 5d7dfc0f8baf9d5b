"""Every form of the formats that are claimed: the right pixels in validation and training, or a sentence."""

import io
import itertools
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from pipelines import DataError, image_loader
from pipelines.decoding import MAX_PIXELS, DecodingError, for_dali
from pipelines.readers.files import Files

SIDE = 48
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
TIFF_COMPRESSIONS = (
    None, "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg", "group3", "group4", "zstd", "lzma",
)  # fmt: skip
SAVINGS: list[tuple[str, str, dict[str, Any]]] = [
    (".png", "PNG", {}), (".bmp", "BMP", {}), (".webp", "WEBP", {"lossless": True}), (".webp", "WEBP", {"quality": 90}),
    (".jpg", "JPEG", {"quality": 95}), (".jp2", "JPEG2000", {}), (".jp2", "JPEG2000", {"no_jp2": True}),
    (".jp2", "JPEG2000", {"tile_size": (16, 16)}), (".ppm", "PPM", {}), (".tif", "TIFF", {"big_tiff": True}),
    *((".tiff", "TIFF", {"compression": compression}) for compression in TIFF_COMPRESSIONS),
]  # fmt: skip

# Before version 13, Pillow ends the process at the others instead of refusing them.
_POSSIBLE = {"jpeg": ("L", "LA", "RGB", "RGBA", "CMYK"), "group3": ("1",), "group4": ("1",)}


class Form(NamedTuple):
    """A file, and its pixels; None where it is not supported."""

    suffix: str
    content: bytes
    pixels: np.ndarray | None


@pytest.fixture(scope="module")
def picture(make_photo: Callable[..., Image.Image]) -> np.ndarray:
    return np.asarray(make_photo(SIDE, SIDE, seed=3))


def _grey(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("L"))


def _three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def _in_mode(pixels: np.ndarray, mode: str) -> Image.Image:
    photo = Image.fromarray(pixels)
    grey = _grey(pixels)
    if mode in ("LA", "RGBA", "PA"):
        alpha = Image.fromarray(np.arange(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint8))
        photo = photo.quantize(100).convert("PA") if mode == "PA" else photo.convert(mode)
        photo.putalpha(alpha)
        return photo
    if mode in ("I;16", "I"):
        return Image.fromarray(grey.astype(np.uint16 if mode == "I;16" else np.int32) * 256 + 77)
    if mode == "F":
        return Image.fromarray(grey.astype(np.float32))
    return photo.quantize(100) if mode == "P" else photo.convert(mode)


def _by_pillow(content: bytes) -> np.ndarray | None:
    with Image.open(io.BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16") or (upright.mode == "I" and image.format == "PPM"):
        return _three(np.rint(np.asarray(upright) / 257))
    return None if upright.mode in ("I", "F") else np.asarray(upright.convert("RGB"))


def _saved(pixels: np.ndarray) -> Iterator[Form]:
    """All that Pillow can write."""
    for mode, (suffix, form, options) in itertools.product(MODES, SAVINGS):
        if mode not in _POSSIBLE.get(options.get("compression"), MODES):
            continue
        buffer = io.BytesIO()
        try:
            _in_mode(pixels, mode).save(buffer, form, **options)
        except (OSError, ValueError, RuntimeError, KeyError):
            continue
        yield Form(suffix, buffer.getvalue(), _by_pillow(buffer.getvalue()))


def _pnm(pixels: np.ndarray) -> Iterator[Form]:
    grey, size = _grey(pixels), f"{SIDE} {SIDE}".encode()
    for greatest in (1, 7, 15, 100, 254, 255, 256, 1000, 4095, 65535):
        for number, suffix, values in ((3, ".ppm", pixels), (2, ".pgm", grey)):
            scaled = np.rint(values / 255 * greatest).astype(">u2" if greatest > 255 else np.uint8)
            expected = np.rint(scaled / greatest * 255).astype(np.uint8)
            expected = expected if number == 3 else _three(expected)
            text = b" ".join(b"%d" % value for value in scaled.ravel())
            yield Form(suffix, b"P%d\n%s\n%d\n" % (number, size, greatest) + text, expected)
            yield Form(".pnm", b"P%d %s %d\n" % (number + 3, size, greatest) + scaled.tobytes(), expected)
    bits = grey < 128
    rows = b"\n".join(b"".join(b"%d" % bit for bit in row) for row in bits)
    yield Form(".pbm", b"P1\n" + size + b"\n" + rows, _three(255 * ~bits))
    yield Form(".pbm", b"P4\n" + size + b"\n" + np.packbits(bits, axis=1).tobytes(), _three(255 * ~bits))
    for header in (b"P6\n# a comment\n%s\n255\n", b"P6\n# 255 255 255\n%s 255\n"):
        yield Form(".ppm", header % size + pixels.tobytes(), pixels)


def _bmp(pixels: np.ndarray) -> Iterator[Form]:
    def file(
        bits: int, compression: int, data: bytes, height: int = SIDE, extra: bytes = b"", colours: int = 0
    ) -> bytes:
        start = 54 + len(extra)
        head = struct.pack("<IiiHHIIiiII", 40, SIDE, height, 1, bits, compression, len(data), 0, 0, colours, 0)
        return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + extra + data

    upward = pixels[::-1].astype(int)
    five = pixels.astype(int) >> 3
    green = five.copy()
    green[..., 1] = pixels[..., 1] >> 2
    packed = [
        ((colours[::-1] * np.array(shifts)).sum(-1).astype("<u2").tobytes(), (colours * 255 // limits).astype(np.uint8))
        for colours, shifts, limits in ((five, (1 << 10, 1 << 5, 1), 31), (green, (1 << 11, 1 << 5, 1), (31, 63, 31)))
    ]
    masks = [struct.pack("<III", *each) for each in ((0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F))]
    yield Form(".bmp", file(16, 0, packed[0][0]), packed[0][1])
    for mask, (data, expected) in zip(masks, packed, strict=True):
        yield Form(".bmp", file(16, 3, data, extra=mask), expected)
    yield Form(".bmp", file(24, 0, upward[..., ::-1].astype(np.uint8).tobytes()), pixels)
    yield Form(".bmp", file(24, 0, pixels[..., ::-1].tobytes(), height=-SIDE), pixels)
    fourth = np.dstack([upward[..., ::-1], np.zeros((SIDE, SIDE))]).astype(np.uint8)
    yield Form(".bmp", file(32, 0, fourth.tobytes()), pixels)
    indices = _grey(pixels) >> 4
    palette = np.array([[i * 8, 255 - i * 16, i * 16] for i in range(16)], np.uint8)
    stored = np.dstack([palette[None, :, ::-1], np.zeros((1, 16), np.uint8)]).tobytes()
    flipped = indices[::-1]
    yield Form(".bmp", file(8, 0, flipped.tobytes(), extra=stored, colours=16), palette[indices])
    halves = (flipped[:, ::2] << 4 | flipped[:, 1::2]).tobytes()
    yield Form(".bmp", file(4, 0, halves, extra=stored, colours=16), palette[indices])
    runs = b"".join(b"".join(bytes([1, value]) for value in row) + b"\0\0" for row in flipped.tolist()) + b"\0\1"
    yield Form(".bmp", file(8, 1, runs, extra=stored, colours=16), palette[indices])


def _tiff(values: np.ndarray, *, bits: int, meaning: int, planar: bool = False, order: str = "<", **tags: Any) -> bytes:
    """A TIFF file that is not compressed, of (h, w, channels) integers."""
    height, width, channels = values.shape

    def packed(rows: np.ndarray) -> bytes:
        if bits in (8, 16, 32):
            return rows.astype(f"{order}{tags.get('kind', 'u')}{bits // 8}").tobytes()
        ones = (rows[..., None].astype(int) >> np.arange(bits - 1, -1, -1)) & 1
        return np.packbits(ones.reshape(height, -1).astype(np.uint8), axis=1).tobytes()

    parts = [values[..., channel] for channel in range(channels)] if planar else [values.reshape(height, -1)]
    strips = [packed(part) for part in parts]
    starts = [8 + sum(map(len, strips[:place])) for place in range(len(strips))]
    entries: dict[int, tuple[str, list[int]]] = {
        256: ("H", [width]), 257: ("H", [height]), 258: ("H", [bits] * channels), 259: ("H", [1]),
        262: ("H", [meaning]), 273: ("I", starts), 274: ("H", [tags.get("orientation", 1)]), 277: ("H", [channels]),
        278: ("H", [height]), 279: ("I", [len(strip) for strip in strips]), 284: ("H", [1 + planar]),
    }  # fmt: skip
    if channels in (2, 4) and meaning != 5:
        entries[338] = ("H", [2])
    if "kind" in tags:
        entries[339] = ("H", [{"i": 2, "f": 3}[tags["kind"]]] * channels)
    body = b"".join(strips)
    directory, extra = struct.pack(order + "H", len(entries)), b""
    after = 8 + len(body) + 2 + 12 * len(entries) + 4
    for tag, (form, numbers) in sorted(entries.items()):
        data = struct.pack(f"{order}{len(numbers)}{form}", *numbers)
        directory += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[form], len(numbers))
        directory += data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(order + "I", after + len(extra))
        extra += data if len(data) > 4 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(body))
    return head + body + directory + bytes(4) + extra


def _tiffs(pixels: np.ndarray) -> Iterator[Form]:
    grey = _grey(pixels)
    alpha = np.arange(SIDE * SIDE).reshape(SIDE, SIDE, 1) % 256
    one = grey[..., None]
    for order, planar in itertools.product("<>", (False, True)):
        options: dict[str, Any] = {"order": order, "planar": planar}
        for bits in (8, 10, 12, 14, 16):
            scale = (2**bits - 1) / 255
            wanted = None if planar and bits > 8 else pixels  # a sentence
            yield Form(".tif", _tiff(np.rint(pixels * scale).astype(int), bits=bits, meaning=2, **options), wanted)
            yield Form(".tif", _tiff(np.rint(one * scale).astype(int), bits=bits, meaning=1, **options), _three(grey))
        yield Form(".tif", _tiff(np.dstack([pixels, alpha]), bits=8, meaning=2, **options), pixels)
        both = _tiff(np.dstack([one, alpha]), bits=8, meaning=1, **options)
        yield Form(".tif", both, None if planar else _three(grey))
    yield Form(".tif", _tiff(255 - one, bits=8, meaning=0), _three(grey))
    yield Form(".tif", _tiff(65535 - one.astype(int) * 257, bits=16, meaning=0), _three(grey))
    yield Form(".tif", _tiff(one >> 4, bits=4, meaning=1), _three((grey >> 4) * 17))
    yield Form(".tif", _tiff(one, bits=32, meaning=1, kind="f"), None)
    yield Form(".tif", _tiff(one, bits=32, meaning=1), None)
    yield Form(".tif", _tiff(one, bits=16, meaning=1, kind="i"), None)
    yield Form(".tif", _tiff(np.rot90(pixels), bits=8, meaning=2, orientation=6), pixels)


def _webps(pixels: np.ndarray) -> Iterator[Form]:
    def riff(*chunks: tuple[bytes, bytes]) -> bytes:
        parts = [name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks]
        body = b"WEBP" + b"".join(parts)
        return b"RIFF" + struct.pack("<I", len(body)) + body

    def extended(flags: int) -> tuple[bytes, bytes]:
        side = struct.pack("<I", SIDE - 1)[:3]
        return b"VP8X", struct.pack("<I", flags) + side * 2

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True)
    content = buffer.getvalue()
    image = (content[12:16], content[20 : 20 + struct.unpack_from("<I", content, 16)[0]])
    odd = (image[0], image[1] + bytes(1 - len(image[1]) % 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, orientation = np.rot90(pixels, -1), exif.tobytes().removeprefix(b"Exif\0\0")
    yield Form(".webp", riff(image), pixels)
    yield Form(".webp", riff(odd), pixels)
    yield Form(".webp", riff(image) + b"junk", pixels)
    yield Form(".webp", riff(extended(0), (b"ABCD", b"abc"), odd), pixels)
    for data in (orientation, b"Exif\0\0" + orientation, orientation + b"\0"):
        yield Form(".webp", riff(extended(8), odd, (b"EXIF", data)), turned)
    yield Form(".webp", riff(extended(8), image, (b"EXIF", b"nonsense")), pixels)


def _palette_jp2(pixels: np.ndarray) -> Iterator[Form]:
    indices = _grey(pixels) >> 4
    palette = np.array([[i * 8, 255 - i * 16, i * 16] for i in range(16)], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(indices).save(buffer, "JPEG2000")
    content = buffer.getvalue()

    def box(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data) + 8) + name + data

    start = content.index(b"jp2h") - 4
    end = start + struct.unpack_from(">I", content, start)[0]
    header = content[start + 8 : content.index(b"colr") - 4]
    header += box(b"colr", b"\1\0\0" + struct.pack(">I", 16))
    header += box(b"pclr", struct.pack(">HB", 16, 3) + b"\7\7\7" + palette.tobytes())
    header += box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, channel) for channel in range(3)))
    yield Form(".jp2", content[:start] + box(b"jp2h", header) + content[end:], palette[indices])


@pytest.fixture(scope="module")
def forms(picture: np.ndarray) -> list[Form]:
    makers = (_saved, _pnm, _bmp, _tiffs, _webps, _palette_jp2)
    return [form for maker in makers for form in maker(picture)]


@pytest.mark.parametrize("train", [True, False])
def test_pixels_of_every_form(tmp_path: Path, forms: list[Form], train: bool) -> None:
    supported = [form for form in forms if form.pixels is not None]
    assert len(supported) > 200
    for root in ("forms", "expected"):
        (tmp_path / root / "only").mkdir(parents=True)
    for number, form in enumerate(supported):
        (tmp_path / "forms" / "only" / f"{number:03}{form.suffix}").write_bytes(form.content)
        Image.fromarray(form.pixels).save(tmp_path / "expected" / "only" / f"{number:03}.png")
    # The same seed and number of files, hence the same crops of both.
    one, other = (
        image_loader(
            tmp_path / root, batch_size=len(supported), image_size=SIDE, train=train, device="cpu", mean=(0, 0, 0),
            std=(1, 1, 1),
        )
        for root in ("forms", "expected")
    )  # fmt: skip
    [batch], [expected] = one, other
    assert torch.equal(batch.indices, expected.indices)
    differences = 255 * (batch.images - expected.images).abs().amax(dim=(1, 2, 3))
    wrong = {
        one.dataset.name(i): d for i, d in zip(batch.indices.tolist(), differences.tolist(), strict=True) if d > 1.01
    }
    assert wrong == {}


def test_forms_that_are_not_supported_are_named(tmp_path: Path, forms: list[Form]) -> None:
    unsupported = [form for form in forms if form.pixels is None]
    assert len(unsupported) > 20
    for form in unsupported:
        with pytest.raises(DecodingError, match="not supported") as caught:
            for_dali(form.content, MAX_PIXELS)
        assert caught.value.unsupported
        assert "object at" not in str(caught.value)
    (tmp_path / "only").mkdir()
    path = tmp_path / "only" / "float.tif"
    path.write_bytes(unsupported[-2].content)
    with pytest.raises(DataError) as error:
        list(image_loader(tmp_path, batch_size=1, image_size=SIDE, device="cpu"))
    assert str(error.value).startswith(f"cannot decode image '{path}': this form of TIFF is not supported (")
    assert "Convert the image to RGB of 8 bits" in str(error.value)
    assert "Delete" not in str(error.value)


def test_jpeg_files_are_not_read_on_the_host(
    tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only").mkdir()
    for name in ("a.jpg", "b.JPEG", "c.png"):
        Image.fromarray(picture).save(tmp_path / "only" / name)
    read: list[int] = []
    encoded = Files.encoded
    monkeypatch.setattr(Files, "encoded", lambda self, index: read.append(index) or encoded(self, index))

    def load() -> tuple[set[int], int]:
        read.clear()
        [batch] = image_loader(tmp_path, batch_size=3, image_size=SIDE, train=False, device="cpu")
        return set(read), len(batch.images)

    assert load() == ({0, 1, 2}, 3)  # one that may need Pillow, and all are read here
    (tmp_path / "only" / "c.png").unlink()
    assert load() == (set(), 2)


LOADING = """
import sys
from pipelines import DataError, image_loader
for train in (True, False):
    for mode in ("raise", "replace"):
        loader = image_loader(sys.argv[1], batch_size=4, image_size=48, train=train, device="cpu", on_bad_file=mode,
                              max_bad_share=1.0)
        try:
            print(sorted(index for batch in loader for index in batch.replaced), loader.bad_files)
        except DataError as error:
            print(error)
"""


def test_a_cut_tiled_jpeg_2000_is_one_bad_file(tmp_path: Path, make_photo: Callable[..., Image.Image]) -> None:
    (tmp_path / "only").mkdir()
    for number in range(7):
        make_photo(200, 260, seed=number).save(tmp_path / "only" / f"{number}.jp2", tile_size=(64, 64))
    bad = tmp_path / "only" / "3.jp2"
    bad.write_bytes(bad.read_bytes()[:20_000])
    # In a process of its own: DALI's decoder can end it.
    ended = subprocess.run([sys.executable, "-c", LOADING, str(tmp_path)], capture_output=True, text=True, check=True)
    reason = "its JPEG 2000 data is damaged or cut short"
    said = ended.stdout.splitlines()
    assert len(said) == 4
    for raised, replaced in (said[:2], said[2:]):
        assert raised.startswith(f"cannot decode image '{bad}': {reason}. ")
        assert replaced == f"[3] {{3: '{reason}'}}"


def test_no_jpeg_2000_reaches_dali(picture: np.ndarray) -> None:
    for options in ({}, {"no_jp2": True}):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG2000", **options)
        assert for_dali(buffer.getvalue(), MAX_PIXELS).startswith(b"P6 ")
