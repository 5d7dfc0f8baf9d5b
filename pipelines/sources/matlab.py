"""MATLAB's files of version 5, as far as needed for a table of text and numbers.

SciPy's reader trusts what is in the file: a damaged one ends the process.
"""

import struct
import zlib
from collections.abc import Iterator

_HEADER = 128
_COMPRESSED, _MATRIX = 15, 14
_STRUCT, _CHAR = 2, 4  # classes of matrices
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXT = {1: "latin1", 2: "latin1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
_LIMIT = 2**26  # bytes, decompressed

Element = tuple[int, bytes]  # type and content


def read_table(content: bytes, name: str, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return columns of a struct array, row by row; numbers as text.

    Args:
        content: Of the file.
        name: Of the array.
        columns: Names of fields that hold text or one number.

    Raises:
        ValueError: There is no such array, or the file is damaged.
        Exception: Likewise; of many types.
    """
    if content[126:128] != b"IM":
        raise ValueError("not a MATLAB file of version 5")
    for kind, part in _elements(content[_HEADER:]):
        if kind == _COMPRESSED:
            ((kind, part),) = _elements(zlib.decompressobj().decompress(part, _LIMIT))
        if kind != _MATRIX:
            continue
        flags, _, own, *rest = _elements(part)
        if flags[1][0] == _STRUCT and own[1] == name.encode():
            (length,), names, *cells = struct.unpack("<i", rest[0][1]), rest[1][1], *rest[2:]
            fields = [names[start : start + length].rstrip(b"\0").decode() for start in range(0, len(names), length)]
            places = [fields.index(column) for column in columns]
            return [
                tuple(_value(cells[row + place][1]) for place in places) for row in range(0, len(cells), len(fields))
            ]
    raise ValueError(f"there is no array '{name}'")


def _elements(data: bytes) -> Iterator[Element]:
    start = 0
    while start < len(data):
        kind, size = struct.unpack_from("<II", data, start)
        begin = start + 8
        if kind >> 16:  # small: all in eight bytes
            kind, size, begin = kind & 0xFFFF, kind >> 16, start + 4
            start += 8
        else:
            start = begin + size + (-size % 8 if kind != _COMPRESSED else 0)
        if begin + size > len(data):
            raise ValueError("cut short")
        yield kind, data[begin : begin + size]


def _value(matrix: bytes) -> str:
    flags, _, _, (kind, content) = _elements(matrix)
    if flags[1][0] == _CHAR:
        return content.decode(_TEXT[kind])
    (number,) = struct.unpack(f"<{_NUMBERS[kind]}", content)
    return str(int(number))
