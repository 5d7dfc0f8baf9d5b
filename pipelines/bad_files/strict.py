"""A strict decoder, which detects lost and overwritten data where a run's decoders do not."""

import re
import zlib
from typing import Any

from ..decoding import DecodingError, chunks, decode
from ..formats import format_of

_PADDING = 8  # bytes before the end marker of a JPEG file that are no sign of damage, whatever they are
_EXTRANEOUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")
_MARKER = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]", re.DOTALL)  # in entropy-coded data; not a restart
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_TABLES_AND_FRAMES = (*range(0xC0, 0xD0), 0xDB, 0xDC, 0xDD)
_PROGRESSIVE_FRAMES = (0xC2, 0xCA)  # Huffman and arithmetic coding
_FRAMES = (0xC0, 0xC1, 0xC9, *_PROGRESSIVE_FRAMES)
_WARNINGS_OF_LOSS = ("Corrupt JPEG data", "Inconsistent progression")
_PIECE = 2**24  # bytes decompressed at a time


def complaint(content: bytes) -> str | None:
    """Return what a strict decoder says of an image that a run decodes; None if its pixels are all there.

    Metadata, and what decoders merely find odd, do not count.
    """
    form = format_of(content)
    if form == "JPEG":
        return _of_jpeg(content)
    if form == "PNG":
        return _of_png(content)
    return _of_pillow(content)


def _of_pillow(content: bytes) -> str | None:
    try:
        decode(content)
    except DecodingError as error:
        # DALI decodes some forms that Pillow does not.
        return None if error.unsupported else str(error)
    return None


def _of_png(content: bytes) -> str | None:
    """Verify the checksums of the palette and of the pixels; a chunk's checksum alone does not change pixels."""
    stream = zlib.decompressobj()
    try:
        for kind, data, checksum in chunks(content):
            if kind == b"PLTE" and zlib.crc32(kind + data) != checksum:
                return "Corrupt PNG data: wrong checksum of the palette"
            if kind == b"IDAT" and not stream.eof:
                stream.decompress(data, _PIECE)
                while stream.unconsumed_tail:
                    stream.decompress(stream.unconsumed_tail, _PIECE)
    except zlib.error as error:
        return f"Corrupt PNG data: {error}"
    return None if stream.eof else "Corrupt PNG data: premature end of the pixels"


def _of_jpeg(content: bytes) -> str | None:
    parts = _parts(content)
    found = _warning(content, b"".join(parts))
    return "Incomplete JPEG data: a scan is missing" if found is None and _scan_is_missing(parts) else found


def _warning(content: bytes, pixels: bytes) -> str | None:
    """Decode `pixels`, the parts of `content` that decide them, with libjpeg-turbo's warnings as errors."""
    import simplejpeg

    try:
        space = simplejpeg.decode_jpeg_header(pixels)[2]
        # All of the data is read, but at an eighth of the size and in grey: the pixels are not needed.
        options: dict[str, Any] = {"min_height": 1, "min_width": 1, "strict": True}
        simplejpeg.decode_jpeg(pixels, "CMYK" if space in ("CMYK", "YCCK") else "GRAY", **options)
    except ValueError as error:
        message = str(error)
        if not message.startswith(_WARNINGS_OF_LOSS):
            return _of_pillow(content)  # of a form that the strict decoder does not decode
        extraneous = _EXTRANEOUS.match(message)
        return None if extraneous and _is_padding(pixels, int(extraneous[1])) else message
    return None


def _is_padding(jpeg: bytes, count: int) -> bool:
    """Return whether the last bytes before the end marker are not data: few, of one value, or text.

    Overwritten data often leaves some of the data behind it unused.
    """
    rest = jpeg[-2 - count : -2]
    return count <= _PADDING or len(set(rest)) == 1 or (rest.isascii() and rest.decode().isprintable())


def _scan_is_missing(parts: list[bytes]) -> bool:
    """Return whether a coefficient of a component is in no scan, or not with all its bits.

    The standard allows a progression to end early, and decoders return a coarse picture without a warning.
    """
    missing: set[tuple[int, int]] = set()  # of a component and the place of a coefficient
    progressive = False
    for part in parts:
        if part[1] in _FRAMES and len(part) >= 10:
            missing = {(component, place) for component in part[10::3] for place in range(64)}
            progressive = part[1] in _PROGRESSIVE_FRAMES
        elif part[1] == _SOS and len(part) >= 8 + 2 * part[4]:
            first, last, bits = part[5 + 2 * part[4] :][:3] if progressive else (0, 63, 0)
            if bits & 15 == 0:  # the least bit is not left to a later scan
                components, coefficients = part[5 : 5 + 2 * part[4] : 2], range(first, last + 1)
                missing -= {(component, place) for component in components for place in coefficients}
    return bool(missing)


def _parts(jpeg: bytes) -> list[bytes]:
    """Return the first image of a JPEG file without what does not change its pixels, with an end marker.

    It is cut at its markers: each part begins with one.
    """
    parts, place = [b"\xff\xd8"], 2
    while True:
        start = jpeg.find(b"\xff", place)
        while start >= 0 and jpeg[start + 1 : start + 2] == b"\xff":  # filling
            start += 1
        if start < 0 or start + 4 > len(jpeg):
            break
        marker = jpeg[start + 1]
        if marker == _EOI:
            break
        if marker in (0x00, 0x01, _SOI, *range(0xD0, 0xD8)):  # without content
            place = start + 2
            continue
        place = start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
        segment = jpeg[start:place]
        if marker == _SOS:
            after = _MARKER.search(jpeg, place)
            end = after.start() if after else len(jpeg)
            parts.append(segment + jpeg[place:end])
            place = end
        elif marker in _TABLES_AND_FRAMES or (marker == 0xEE and segment[4:9] == b"Adobe"):
            parts.append(segment)
        elif marker == 0xE0 and segment[4:9] == b"JFIF\0":  # it says what the colours are
            parts.append(b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0")
        elif marker < 0xC0:  # no marker: the data is damaged, and the decoder says so
            parts.append(jpeg[start:])
            return parts
    return [*parts, b"\xff\xd9"]
