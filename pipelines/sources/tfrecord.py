"""TFRecords of tf.train.Example, with the feature names of TensorFlow's ImageNet."""

import os
import re
import struct
from collections.abc import Iterator

import google_crc32c
import numpy as np

from ..readers.base import DataError
from ..readers.protobuf import Buffer, fields, signed, varint
from ..readers.records import ByteRanges
from ..readers.untrusted import FileBytes, open_regular
from .names import is_folder
from .splits import Source, table

IMAGE, LABEL = b"image/encoded", b"image/class/label"
_NAME = re.compile(r".+-\d{5}-of-\d{5}|.+\.tfrecords?", re.IGNORECASE)
_HEADER, _FOOTER = 12, 4  # length and its checksum; the content's checksum


def _matches(entry: os.DirEntry) -> bool:
    return _NAME.fullmatch(entry.name) is not None and not is_folder(entry)


def _scan(path: str) -> dict[str, np.ndarray]:
    """List the images by the headers alone, without reading the images or verifying their checksums."""
    with open_regular(path) as file:
        data = FileBytes(file)
        return table([_parse(path, data, start, end) for start, end in _records(path, data)])


def _records(path: str, data: FileBytes) -> Iterator[tuple[int, int]]:
    """Yield where each record's content begins and ends."""
    number = start = 0
    while start < len(data):
        header = data[start : min(start + _HEADER, len(data))]
        whole = len(header) == _HEADER and _masked_crc(header[:8]) == struct.unpack("<I", header[8:])[0]
        begin = start + _HEADER
        end = begin + struct.unpack("<Q", header[:8])[0] if whole else 0
        start = end + _FOOTER
        if not whole or start > len(data):
            raise DataError(
                f"'{path}' is no whole TFRecord file, uncompressed: record {number} is damaged or cut short, at byte "
                f"{begin - _HEADER}. Fetch or make it again."
            )
        number += 1
        yield begin, end


def _masked_crc(data: bytes) -> int:
    """Return the checksum of TFRecords: CRC-32C, rotated and shifted."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _parse(path: str, data: Buffer, start: int, end: int) -> tuple[int, int, int]:
    """Return where the image of a tf.train.Example begins, its size, and its label.

    Example { Features features = 1 }, Features { map<string, Feature> feature = 1 }, Feature { BytesList = 1 or
    Int64List = 3 }, each list { repeated value = 1 }.
    """
    values: dict[bytes, tuple[int, int]] = {}
    try:
        for _, features in _parts(data, start, end):
            for _, entry in _parts(data, *features):
                pair = dict(_parts(data, *entry))
                values[bytes(data[slice(*pair[1])])] = pair[2]
        ((_, image),) = _parts(data, *_only(data, values[IMAGE]))
        label = _integer(data, *_only(data, values[LABEL]))
    except (ValueError, KeyError) as error:
        names = ", ".join(name.decode(errors="replace") for name in values)
        raise DataError(
            f"'{path}', record at byte {start}: must be a tf.train.Example with one '{IMAGE.decode()}' and one "
            f"'{LABEL.decode()}'; it has {names or 'no features'}."
        ) from error
    return image[0], image[1] - image[0], label


def _parts(data: Buffer, start: int, end: int) -> list[tuple[int, tuple[int, int]]]:
    return [(number, place) for number, place in fields(data, start, end) if isinstance(place, tuple)]


def _only(data: Buffer, place: tuple[int, int]) -> tuple[int, int]:
    """Return where the list in a feature begins and ends."""
    ((_, content),) = _parts(data, *place)
    return content


def _integer(data: Buffer, start: int, end: int) -> int:
    """Return the integer in a list of one, which may be packed or not."""
    ((_, value),) = fields(data, start, end)
    return signed(varint(data, *value)[0] if isinstance(value, tuple) else value)


SOURCE = Source("TFRecords", _matches, _scan, ByteRanges.of, from_one=True)
