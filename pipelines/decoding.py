"""Which images DALI decodes correctly, and how the others reach it: decoded by Pillow on the host.

DALI's decoders return wrong pixels without an error, or end the process, for some forms of the formats that they name.
The header decides: DALI receives the forms that it is known to decode correctly, and of every other form a PPM file of
the pixels that Pillow decodes; of an animation, the first frame's.
"""

import contextlib
import io
import re
import struct
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageOps, features

from .formats import article, format_of, other_format_of
from .orientations import jpeg_states_several, states_several

MAX_PIXELS = 178_956_970  # of an image, unless the user sets another limit; Pillow's
_PLUGINS = {"JPEG 2000": "JPEG2000", "WebP": "WEBP", "PBM": "PPM", "PGM": "PPM"}  # Pillow's names, where they differ


class DecodingError(Exception):
    """An image that cannot be decoded. The message says why.

    Attributes:
        unsupported: It may be intact, but is in a form that is not decoded.
    """

    def __init__(self, reason: str, *, unsupported: bool = False) -> None:
        super().__init__(reason)
        self.unsupported = unsupported


class TooLarge(DecodingError):
    """An image that is not bad, but larger than it may be."""


def check_size(content: bytes, max_pixels: int) -> None:
    """Raise TooLarge if an image, whose header can be read, has more pixels than that."""
    _limit(size_of(content), max_pixels)


def _limit(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooLarge(f"it has {width}×{height} pixels, more than max_pixels={max_pixels}")


def size_of(content: bytes) -> tuple[int, int]:
    """Return the width and height of an image, by its header; (0, 0) where the header cannot be read."""
    try:
        with open_image(content) as image:
            return image.size
    except DecodingError:
        return 0, 0


def for_dali(content: bytes, max_pixels: int) -> bytes:
    """Return an image as DALI decodes it correctly: `content` itself, or a PPM file of its pixels.

    What is no image is returned as it is; DALI refuses it.

    Args:
        max_pixels: Of an image that is decoded here; DALI's are checked in the pipeline.

    Raises:
        DecodingError: It is damaged, too large, or in a form that is not supported.
    """
    form = format_of(content)
    if form is None:
        error = _unknown(content)
        if error.unsupported:
            raise error
        return content  # which DALI refuses
    if _is_for_dali(form, content):
        return content
    pixels = decode(content, max_pixels)
    height, width = pixels.shape[:2]
    return b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()


def _unknown(content: bytes) -> DecodingError:
    if not content:
        return DecodingError("the file is empty")
    name = other_format_of(content)
    if name is not None:
        return DecodingError(f"it is {article(name)} image, a format that is not supported", unsupported=True)
    return DecodingError(f"it is no image of a known format, it begins with {content[:16]!r}")


def damaged(content: bytes) -> DecodingError:
    """Return the error for an image whose data cannot be decoded."""
    form = format_of(content)
    return _unknown(content) if form is None else DecodingError(f"its {form} data is damaged or cut short")


def _is_for_dali(form: str, content: bytes) -> bool:
    if form == "BMP":
        return _is_plain_bmp(content)
    if form == "TIFF":
        return _is_plain_tiff(content)
    if form == "WebP":
        return _is_plain_webp(content)
    if form == "JPEG":
        return not jpeg_states_several(io.BytesIO(content))
    if form == "PNG":  # at most one, by the standard
        blocks = [data for kind, data, _ in chunks(content) if kind == _EXIF] if content.count(_EXIF) > 1 else []
        return not states_several(blocks)
    return _PLAIN_PNM.match(content) is not None


def _is_plain_bmp(content: bytes) -> bool:
    """Return whether it is of three bytes a pixel, not compressed."""
    if len(content) < 34:
        return False
    header, _, height, _, bits, compression = struct.unpack_from("<IiiHHI", content, 14)
    return header >= 40 and height > 0 and bits == 24 and compression == 0


def _is_plain_webp(content: bytes) -> bool:
    """Return whether it is one chunk of pixels: no metadata, no animation."""
    if len(content) < 20 or content[12:16] not in (b"VP8 ", b"VP8L"):
        return False
    file, pixels = struct.unpack_from("<I", content, 4)[0], struct.unpack_from("<I", content, 16)[0]
    return file + 8 == len(content) and pixels + pixels % 2 + 20 == len(content)


# Binary, of a byte per value, without a comment in the header.
_PLAIN_PNM = re.compile(rb"P[56]\s+\d+\s+\d+\s+255\s")

# Tags of TIFF, and their values where they are missing.
_BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _CHANNELS, _PLANAR, _SAMPLE_FORMAT = 258, 259, 262, 274, 277, 284, 339
_DEFAULTS = {_BITS: [1], _COMPRESSION: [1], _ORIENTATION: [1], _CHANNELS: [1], _PLANAR: [1], _SAMPLE_FORMAT: [1]}
_PLAIN_COMPRESSIONS = (1, 5, 8, 32773, 32946)  # none, LZW, Deflate, PackBits, Deflate by its old number
_PLAIN_BITS = (8, 10, 12, 14, 16)
_GREY, _RGB = (1, 1), (2, 3)  # photometric interpretation and channels


def _is_plain_tiff(content: bytes) -> bool:
    """Return whether it is grey, with 0 for black, or RGB, of unsigned integers, interleaved."""
    tags = _tiff_tags(content)
    channels = tags[_CHANNELS][0]
    return (
        (tags.get(_PHOTOMETRIC, [0])[0], channels) in (_GREY, _RGB)
        and tags[_BITS] in [[bits] * channels for bits in _PLAIN_BITS]
        and tags[_COMPRESSION][0] in _PLAIN_COMPRESSIONS
        and (tags[_PLANAR][0] == 1 or channels == 1)
        and tags[_ORIENTATION][0] == 1
        and set(tags[_SAMPLE_FORMAT]) == {1}
    )


def _tiff_tags(content: bytes) -> dict[int, list[int]]:
    """Return the integers of the first directory of a TIFF file, by their tags.

    Raises:
        DecodingError: The file ends before the directory does.
    """
    order = "<" if content[:1] == b"I" else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    count, size, word = ("Q", 20, "Q") if big else ("H", 12, "I")
    values = {1: "B", 3: "H", 4: "I", 16: "Q"}
    try:
        (start,) = struct.unpack_from(order + word, content, 8 if big else 4)
        (entries,) = struct.unpack_from(order + count, content, start)
        first = start + struct.calcsize(count)
        tags: dict[int, list[int]] = {}
        for entry in range(first, first + entries * size, size):
            tag, kind = struct.unpack_from(order + "HH", content, entry)
            if tag not in (*_DEFAULTS, _PHOTOMETRIC) or kind not in values:
                continue
            (number,) = struct.unpack_from(order + word, content, entry + 4)
            form = f"{order}{min(number, 16)}{values[kind]}"  # no image has more channels
            place = entry + 4 + struct.calcsize(word)
            if struct.calcsize(form) > struct.calcsize(word):
                (place,) = struct.unpack_from(order + word, content, place)
            tags[tag] = list(struct.unpack_from(form, content, place))
    except (struct.error, OverflowError):  # beyond the end, or far beyond it
        raise damaged(content) from None
    return _DEFAULTS | {tag: found for tag, found in tags.items() if found}


def open_image(content: bytes) -> Image.Image:
    """Return an image of one of the formats that are decoded, opened by Pillow: its header is read, its pixels are not.

    Unlike `Image.open`, this sets no limit on the number of pixels and ignores PNG's metadata.

    Raises:
        DecodingError: The header is damaged, or of a form that Pillow does not know.
    """
    form = format_of(content)
    if form is None:
        raise _unknown(content)
    if form == "PNG":
        content = without_metadata(content)
    opener = _opener(form)
    try:
        return opener(io.BytesIO(content), "")
    except Exception as error:  # of many types
        # The directory of a TIFF file has been read in full: Pillow lacks the form.
        if (form == "TIFF" and _tiff_tags(content)) or _says_unsupported(error):
            raise _unsupported(form, error) from error
        raise damaged(content) from error


def _opener(form: str) -> Callable[..., Image.Image]:
    """Return Pillow's plugin for a format.

    Raises:
        DecodingError: It is not installed.
    """
    if form == "HEIC":
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            raise _not_installed(form, "pip install pillow-heif") from None
        return HeifImageFile
    Image.init()
    if form == "AVIF" and ("AVIF" not in Image.OPEN or not features.check("avif")):
        raise _not_installed(form, "Pillow decodes it from version 11.3 on")
    return Image.OPEN[_PLUGINS.get(form, form)][0]


def _not_installed(form: str, remedy: str) -> DecodingError:
    return DecodingError(f"it is {article(form)} image, which is not decoded here: {remedy}", unsupported=True)


def _says_unsupported(error: Exception) -> bool:
    return isinstance(error, NotImplementedError) or re.search("(un|not )supported", str(error).lower()) is not None


def _unsupported(form: str, why: str | Exception) -> DecodingError:
    return DecodingError(f"this form of {form} is not supported ({why})", unsupported=True)


def decode(content: bytes, max_pixels: int | None = None) -> np.ndarray:
    """Return the pixels of an image, (h, w, 3) uint8 RGB, decoded by Pillow.

    Alpha is dropped, values of other ranges are scaled to 0 … 255, and the orientation in the metadata is applied.

    Args:
        max_pixels: Of the image; None: any number.

    Raises:
        DecodingError: It is no image, is damaged, too large, or in a form that is not supported.
    """
    form = format_of(content) or ""
    with open_image(content) as image:
        if max_pixels is not None:
            _limit(image.size, max_pixels)
        if form == "TIFF":
            _refuse_tiff(content)
        if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
            raise _unsupported(form, "its values, integers of 32 bits or floats, have no known range")
        try:
            image.load()
            with contextlib.suppress(Exception):  # broken metadata do not change the pixels
                ImageOps.exif_transpose(image, in_place=True)
            return _grey(image, content) if image.mode.startswith("I") else np.asarray(image.convert("RGB"))
        except MemoryError as error:
            raise _unsupported(form, f"{image.width}×{image.height} pixels do not fit into memory") from error
        except Exception as error:  # of many types
            raise (_unsupported(form, error) if _says_unsupported(error) else damaged(content)) from error


def _grey(image: Image.Image, content: bytes) -> np.ndarray:
    """Return the pixels of a grey image of more than 8 bits."""
    # Pillow returns 12 bits as they are, and 16 bits of which 0 is white without inverting them.
    tags = _tiff_tags(content) if image.format == "TIFF" else _DEFAULTS | {_BITS: [16]}
    values = np.asarray(image).astype(np.float32) * (255 / (2 ** tags[_BITS][0] - 1))
    grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    inverted = tags.get(_PHOTOMETRIC, [1])[0] == 0
    return np.repeat((255 - grey if inverted else grey)[..., None], 3, axis=2)


def _refuse_tiff(content: bytes) -> None:
    """Raise DecodingError if Pillow would return wrong pixels."""
    tags = _tiff_tags(content)
    bits = tags[_BITS][0]
    channels = tags[_CHANNELS][0]
    if tags[_PLANAR][0] == 2 and (channels == 2 or (channels > 1 and bits > 8)):
        raise _unsupported("TIFF", f"{channels} planes of {bits} bits")
    if tags[_SAMPLE_FORMAT][0] == 2:
        raise _unsupported("TIFF", "signed integers")


_EXIF = b"eXIf"
_CRITICAL = (b"IHDR", b"PLTE", b"tRNS", _EXIF, b"IDAT", b"IEND")


def without_metadata(png: bytes) -> bytes:
    """Return a PNG file without the chunks that do not change its pixels."""
    parts = [png[:8]]
    for kind, data, checksum in chunks(png):
        if kind in _CRITICAL:
            parts.append(len(data).to_bytes(4, "big") + kind + data + checksum.to_bytes(4, "big"))
    return b"".join(parts)


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield type, data and stored checksum of each chunk of a PNG file, as far as they are there."""
    place = 8
    while place + 8 <= len(png):
        end = place + 8 + int.from_bytes(png[place : place + 4], "big")
        yield png[place + 4 : place + 8], png[place + 8 : end], int.from_bytes(png[end : end + 4], "big")
        place = end + 4
