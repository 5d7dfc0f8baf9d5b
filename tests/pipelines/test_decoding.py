"""GIF, AVIF, HEIC and JPEG by its other names: Pillow's pixels, or a sentence that names what is missing."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, features

from pipelines import DataError, image_loader
from pipelines.decoding import DecodingError, TooLarge, decode, for_dali, open_image
from pipelines.formats import IMAGE_SUFFIXES, format_of, is_jpeg_name
from pipelines.readers.files import Files

SIDE = 48
NO_AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photo(make_photo: Callable[..., Image.Image]) -> Image.Image:
    return make_photo(SIDE, SIDE, seed=4)


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _gifs(photo: Image.Image) -> dict[str, bytes]:
    palette = photo.quantize(64)
    moved = [ImageOps.mirror(photo).quantize(64), ImageOps.flip(photo).quantize(16)]
    part = bytearray(_encoded(palette, "GIF"))
    part[6:10] = (SIDE + 9).to_bytes(2, "little") + (SIDE + 5).to_bytes(2, "little")  # a canvas that it does not fill
    return {
        "plain": _encoded(palette, "GIF"),
        "grey": _encoded(photo.convert("L"), "GIF"),
        "bitmap": _encoded(photo.convert("1"), "GIF"),
        "interlaced": _encoded(palette, "GIF", interlace=1),
        "transparent": _encoded(palette, "GIF", transparency=int(np.asarray(palette)[0, 0])),
        "animated": _encoded(palette, "GIF", save_all=True, append_images=moved, loop=0, duration=50),
        "disposed": _encoded(palette, "GIF", save_all=True, append_images=moved, disposal=2),
        "part": bytes(part),
        "GIF87a": b"GIF87a" + _encoded(palette, "GIF")[6:],
    }


def _by_pillow(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _of_loader(folder: Path, pixels_of: Callable[..., np.ndarray], side: int = SIDE) -> np.ndarray:
    [batch] = image_loader(folder, batch_size=99, image_size=side, train=False, device="cpu")
    return pixels_of(image_loader(folder, batch_size=1, image_size=side, device="cpu"), batch.images)


def test_gif_files_have_the_pixels_of_their_first_frame(
    tmp_path: Path, photo: Image.Image, pixels_of: Callable[..., np.ndarray]
) -> None:
    gifs = _gifs(photo)
    (tmp_path / "a").mkdir()
    for name, content in gifs.items():
        assert format_of(content) == "GIF"
        assert np.array_equal(decode(content), _by_pillow(content)), name
        if name != "part":
            (tmp_path / "a" / f"{name}.gif").write_bytes(content)
    assert decode(gifs["part"]).shape == (SIDE + 5, SIDE + 9, 3)
    assert np.array_equal(decode(gifs["animated"]), decode(gifs["plain"]))
    expected = [_by_pillow(gifs[name]) for name in sorted(gifs) if name != "part"]
    np.testing.assert_allclose(_of_loader(tmp_path, pixels_of), np.stack(expected), atol=0.01)


def _shapes(photo: Image.Image) -> dict[str, Image.Image]:
    grey = photo.convert("L")
    return {"RGB": photo, "L": grey, "RGBA": Image.merge("RGBA", [*photo.split(), grey])}


@NO_AVIF
def test_avif_files_have_pillows_pixels(
    tmp_path: Path, photo: Image.Image, pixels_of: Callable[..., np.ndarray]
) -> None:
    (tmp_path / "a").mkdir()
    contents = {
        f"{mode}-{q}": _encoded(image, "AVIF", quality=q) for mode, image in _shapes(photo).items() for q in (60, 100)
    }
    wide = photo.crop((0, 0, SIDE, SIDE // 2))
    turned = {n: _encoded(wide, "AVIF", quality=100, exif=_turned(n)) for n in (1, 3, 6, 8, 5)}
    moving = _encoded(photo, "AVIF", save_all=True, append_images=[ImageOps.flip(photo)])
    for content in (*contents.values(), *turned.values(), moving):
        assert format_of(content) == "AVIF"
        assert np.array_equal(decode(content), _by_pillow(content))
    assert [decode(content).shape[:2] for content in turned.values()] == [
        (24, 48),
        (24, 48),
        (48, 24),
        (48, 24),
        (48, 24),
    ]
    assert np.abs(decode(turned[6]).astype(int) - np.rot90(decode(turned[1]), -1)).mean() < 2
    for name, content in contents.items():
        (tmp_path / "a" / f"{name}.avif").write_bytes(content)
    expected = np.stack([_by_pillow(contents[name]) for name in sorted(contents)])
    np.testing.assert_allclose(_of_loader(tmp_path, pixels_of), expected, atol=0.01)


def test_heic_files_have_the_pixels_of_the_plugin(
    tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch, pixels_of: Callable[..., np.ndarray]
) -> None:
    plugin = pytest.importorskip("pillow_heif")
    monkeypatch.setitem(Image.SAVE, "HEIF", plugin.as_plugin._save_heif)

    def by_plugin(content: bytes) -> np.ndarray:
        return np.asarray(plugin.open_heif(io.BytesIO(content)).to_pillow().convert("RGB"))

    contents = {f"{m}-{q}": _encoded(image, "HEIF", quality=q) for m, image in _shapes(photo).items() for q in (50, -1)}
    wide = photo.crop((0, 0, SIDE, SIDE // 2))
    turned = {n: _encoded(wide, "HEIF", quality=-1, exif=_turned(n).tobytes()) for n in (1, 3, 6, 8, 5)}
    for content in (*contents.values(), *turned.values()):
        assert format_of(content) == "HEIC"
        assert np.array_equal(decode(content), by_plugin(content))
    assert [decode(content).shape[:2] for content in turned.values()] == [(24, 48)] * 2 + [(48, 24)] * 3
    assert np.array_equal(decode(turned[6]), np.rot90(decode(turned[1]), -1))
    (tmp_path / "a").mkdir()
    for name, content in contents.items():
        (tmp_path / "a" / f"{name}.HEIC").write_bytes(content)
    expected = np.stack([by_plugin(contents[name]) for name in sorted(contents)])
    np.testing.assert_allclose(_of_loader(tmp_path, pixels_of), expected, atol=0.01)
    for length in (24, 60, len(turned[1]) // 2, len(turned[1]) - 30):
        with pytest.raises(DecodingError, match="its HEIC data is damaged or cut short"):
            decode(turned[1][:length])
    assert "HEIF" not in Image.OPEN  # nothing is registered for others


BRANDS = {  # the first bytes of files, and what they are
    b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf": "AVIF",
    b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif": "AVIF",
    b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic": "HEIC",
    b"\0\0\0\x14ftypheix\0\0\0\0mif1": "HEIC",
    b"\0\0\0\x14ftypmif1\0\0\0\0mif1avif": None,  # beyond the box
    b"\xff\xff\xff\xffftypisom\0\0\0\0mp41": None,
    b"\0\0\0\x00ftyp": None,
}


def test_brands() -> None:
    assert {content: format_of(content) for content in BRANDS} == BRANDS
    for content, form in BRANDS.items():
        with pytest.raises(DecodingError, match=f"{form} (data|image)" if form else "(HEIF image|no image)"):
            open_image(content)


def test_without_the_plugin_the_error_names_it(
    tmp_path: Path, make_photo: Callable[..., Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a").mkdir()
    make_photo(20, 20).save(tmp_path / "a" / "0.png")
    (tmp_path / "a" / "1.heic").write_bytes(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(99))
    loader = image_loader(tmp_path, batch_size=2, image_size=16, train=False, device="cpu")
    with pytest.raises(DataError, match=r"1\.heic': it is an HEIC image, .* pip install pillow-heif\. Convert the im"):
        list(loader)


def test_an_older_pillow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    content = b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif"
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    with pytest.raises(DecodingError, match=r"it is an AVIF image, .* from version 11\.3 on") as caught:
        for_dali(content, 99)
    assert caught.value.unsupported


@pytest.mark.parametrize("kind", ["GIF", pytest.param("AVIF", marks=NO_AVIF)])
def test_damaged_and_large_ones(photo: Image.Image, kind: str) -> None:
    content = _encoded(photo, kind)
    for length in (7, 40, len(content) // 2):
        with pytest.raises(DecodingError, match=f"its {kind} data is damaged or cut short|no image"):
            decode(content[:length])
    with pytest.raises(TooLarge, match="48×48 pixels, more than max_pixels=2303"):
        for_dali(content, SIDE * SIDE - 1)
    assert for_dali(content, SIDE * SIDE).startswith(b"P6 48 48 255\n")


def test_a_gif_of_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x01\x44\0;"
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it decodes the pixels"))
    with pytest.raises(TooLarge, match="65535×65535 pixels"):
        for_dali(content, 178_956_970)


def test_jpeg_by_its_other_names(
    tmp_path: Path, make_photo: Callable[..., Image.Image], pixels_of: Callable[..., np.ndarray]
) -> None:
    (tmp_path / "a").mkdir()
    names = ["1.jpg", "2.jpeg", "3.jfif", "4.JFIF", "5.jpe"]
    for index, name in enumerate(names):
        make_photo(SIDE, SIDE, seed=index).save(tmp_path / "a" / name, "JPEG", quality=95)
        assert is_jpeg_name(name)
    reader = Files([str(tmp_path / "a" / name) for name in names])
    assert reader.feed == "paths"  # without a look at them on the host
    expected = np.stack([np.asarray(Image.open(path)) for path in reader.files]).astype(int)
    found = _of_loader(tmp_path, pixels_of)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 4  # another decoder


@pytest.mark.parametrize("kind", ["GIF", pytest.param("AVIF", marks=NO_AVIF)])
def test_files_under_the_name_of_a_jpeg_file_are_named(tmp_path: Path, photo: Image.Image, kind: str) -> None:
    (tmp_path / "a").mkdir()
    photo.convert("L").save(tmp_path / "a" / "0.jpg")
    (tmp_path / "a" / "1.jpg").write_bytes(_encoded(photo, kind))
    loader = image_loader(tmp_path, batch_size=2, image_size=16, train=False, device="cpu")
    with pytest.raises(DataError, match=rf"1\.jpg': it is an? {kind} file under the name of a JPEG file, .* rename it"):
        list(loader)


def test_a_form_that_dali_decodes_incorrectly_is_not_decoded_under_the_name_of_a_jpeg_file(
    tmp_path: Path, photo: Image.Image
) -> None:
    """Grey with alpha, of which DALI makes red, green and blue without a word; a PNG file is decoded as ever."""
    (tmp_path / "a").mkdir()
    photo.save(tmp_path / "a" / "0.jpg", "PNG")
    options = {"batch_size": 2, "image_size": 16, "train": False, "device": "cpu"}
    [batch] = image_loader(tmp_path, **options)
    assert batch.images.std() > 0
    photo.convert("LA").save(tmp_path / "a" / "1.jpg", "TIFF")
    with pytest.raises(DataError, match=r"1\.jpg': it is a TIFF file under the name of a JPEG file, .* rename it"):
        list(image_loader(tmp_path, **options))


def test_the_suffixes_are_those_of_files_that_are_decoded() -> None:
    assert {".gif", ".avif", ".heic", ".heif", ".hif", ".jfif", ".jpe"} < set(IMAGE_SUFFIXES)
    assert len(set(IMAGE_SUFFIXES)) == len(IMAGE_SUFFIXES)
