"""The encoding of protocol buffers, as far as needed to find where a field's content is without reading the rest."""

from collections.abc import Iterator

from .untrusted import FileBytes

Buffer = bytes | memoryview | FileBytes


def fields(data: Buffer, start: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """Yield the fields of the message in data[start:end].

    Yields:
        Number, and value: an integer, or where in `data` the content begins and ends.

    Raises:
        ValueError: It is not a message.
    """
    while start < end:
        tag, start = varint(data, start, end)
        value: int | tuple[int, int]
        if tag & 7 == 0:
            value, start = varint(data, start, end)
        else:
            if tag & 7 == 2:
                length, start = varint(data, start, end)
            elif tag & 7 in (1, 5):
                length = 8 if tag & 7 == 1 else 4
            else:
                raise ValueError(f"not a message of protocol buffers: a field of type {tag & 7}")
            value = start, start + length
            start += length
        if start > end:
            raise ValueError("a message of protocol buffers that is cut short")
        yield tag >> 3, value


def varint(data: Buffer, start: int, end: int) -> tuple[int, int]:
    """Return an integer of 64 bits, and where it ends."""
    value = shift = 0
    while start < end and shift < 64:
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), start
        shift += 7
    raise ValueError("a message of protocol buffers that is cut short")


def signed(value: int) -> int:
    """Return the integer with a sign whose two's complement in 64 bits is `value`."""
    return value if value < 2**63 else value - 2**64
