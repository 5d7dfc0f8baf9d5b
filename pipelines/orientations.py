"""How often an image states its orientation. Where it states different ones, DALI writes beyond its memory.

An image turned by one statement is written into a place of the size by another: the process ends, or the pixels are
wrong (nvImageCodec 0.9, DALI 2.4). Files with two blocks of metadata come from programs that add one to what was there.
"""

import struct
from typing import IO

_EXIF = b"Exif\0\0"
_APP1, _SOS = 0xE1, 0xDA
WINDOW = 4096  # bytes read at a time
_MOST_SEGMENTS = 10_000
_ORIENTATION, _SHORT = 0x112, 3


def states_several(blocks: list[bytes]) -> bool:
    """Return whether the blocks of metadata of an image, in TIFF's form, may state different orientations."""
    return len(blocks) > 1 and len(set(map(_stated, blocks)) - {None}) > 1


def jpeg_states_several(file: IO[bytes], window: bytes = b"") -> bool:
    """Return whether the header of a JPEG file may state different orientations.

    The header is read as DALI's parser reads it: each marker has a length, whether it should have one or not. A header
    in which that parser fails makes a bad file anyway.

    Args:
        window: What has been read of the file's beginning.
    """
    blocks: list[bytes] = []
    start, place = 0, 2
    for _ in range(_MOST_SEGMENTS):
        if place + 4 > start + len(window):
            file.seek(place)
            start, window = place, file.read(WINDOW)
        at = place - start
        if window[at : at + 2] == b"\xff\xff":  # filling
            place += len(window) - at - len(window[at:].lstrip(b"\xff")) - 1
            continue
        if len(window) < at + 4 or window[at] != 0xFF or window[at + 1] == _SOS:
            return states_several(blocks)
        length = int.from_bytes(window[at + 2 : at + 4], "big")
        if length < 2:
            return states_several(blocks)
        if window[at + 1] == _APP1:
            file.seek(place + 4)
            segment = file.read(length - 2)
            if segment.startswith(_EXIF):
                blocks.append(segment[len(_EXIF) :])
        place += 2 + length
    return True  # no program writes so many


def _stated(block: bytes) -> bytes | int | None:
    """Return the orientation of a block; None where there is none, the block where it is not plainly stated."""
    order = {b"MM": ">", b"II": "<"}.get(block[:2])
    if order is None:
        return block
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        places = range(start + 2, start + 2 + 12 * count, 12)
        entries = [struct.unpack_from(order + "HHIH", block, place) for place in places]
    except struct.error:
        return block
    found = [entry[1:] for entry in entries if entry[0] == _ORIENTATION]
    if not found:
        return None
    return found[0][2] if len(found) == 1 and found[0][:2] == (_SHORT, 1) else block
