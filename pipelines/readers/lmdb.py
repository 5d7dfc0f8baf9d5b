"""Images in Caffe's LMDB folders, whose values are Datum messages.

LMDB's own library maps the file into memory and trusts what is in it: a file that is cut short or damaged ends the
process. So the places of the values are found here, once, and the values are read as other byte ranges are.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .protobuf import Buffer, fields, signed
from .records import ByteRanges, Index, Records
from .untrusted import FileBytes

FILE = "data.mdb"  # in each folder
_DATA, _LABEL, _ENCODED = 4, 5, 7  # fields of caffe.Datum

# LMDB's file: pages of one size. The first two are meta pages; the one of the later transaction has the root of a
# B+ tree, whose leaves hold keys, and values or the numbers of the overflow pages that hold them.
_PAGE = struct.Struct("<QHHHH")  # number, –, flags, end of the places of nodes, start of the nodes
_META = struct.Struct("<IIQQ")  # magic, version, –, –
_TREE = struct.Struct("<IHHQQQQQ")  # page size, flags, depth, three numbers of pages, entries, root
_NODE = struct.Struct("<HHHH")  # size or child, low and high; flags, or the child's highest bits; length of the key
_MAGIC, _VERSION, _EMPTY = 0xBEEFC0DE, 1, 2**64 - 1
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 1, 2, 4, 8  # flags of pages
_BIG, _OTHER = 1, 6  # flags of nodes: the value is in overflow pages; it is a database or several values
_PAGE_SIZES = [2**power for power in range(8, 17)]
_DEPTH = 32


@dataclass(frozen=True, eq=False)
class LmdbValues(Records):
    """Values of LMDB folders.

    Attributes:
        ranges: The encoded images in the folders' files.
        keys: All keys of the folders, one after the other, uint8.
        ends: (N,) int64, of the keys.
        chosen: (n,) int64, places among the keys.
        folder: (N,) int32, places in `files`, of the keys.
        files, index_file: See `Reader`; the files are the folders.
    """

    ranges: ByteRanges
    keys: np.ndarray
    ends: np.ndarray
    chosen: np.ndarray
    folder: np.ndarray
    files: list[str]
    index_file: Path | None

    @classmethod
    def of(cls, index: Index) -> "LmdbValues":
        ends = index.arrays["key_length"].cumsum()
        ranges = ByteRanges.of(index._replace(files=[os.path.join(folder, FILE) for folder in index.files]))
        chosen = np.arange(len(ends))
        return cls(ranges, index.arrays["keys"], ends, chosen, index.file_numbers(), index.files, index.path)

    def __len__(self) -> int:
        return len(self.chosen)

    def encoded(self, index: int) -> bytes:
        return self.ranges.encoded(index)

    def name(self, index: int) -> str:
        place = int(self.chosen[index])
        key = self.keys[self.ends[place - 1] if place else 0 : self.ends[place]].tobytes()
        return f"{self.files[self.folder[place]]}, key {key.decode('utf-8', 'backslashreplace')}"

    def take(self, chosen: np.ndarray) -> "LmdbValues":
        return replace(self, ranges=self.ranges.take(chosen), chosen=self.chosen[chosen])

    def identity(self) -> Iterator[bytes]:
        arrays = (self.folder, self.keys, self.ends, self.chosen)
        yield from (np.ascontiguousarray(array).tobytes() for array in arrays)


def entries(data: FileBytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield each key of an LMDB file, in order, and where its value begins and ends.

    Raises:
        ValueError: The file is not an LMDB file, or is damaged or cut short.
    """
    tree = _read_meta(data)
    pages, found = [(tree.root, 0)] if tree.root != _EMPTY else [], 0
    visits = 0
    while pages:
        number, depth = pages.pop()
        visits += 1
        if depth > _DEPTH or visits > len(data) // tree.page_size:
            raise ValueError("its pages form a circle")
        page, flags, nodes = _read_page(data, tree.page_size, number)
        if flags & _BRANCH:
            for low, high, highest, _ in [_NODE.unpack_from(page, node) for node in reversed(nodes)]:
                pages.append((low | high << 16 | highest << 32, depth + 1))
            continue
        for node in nodes:
            key, start, end = _read_leaf(data, tree.page_size, number, page, node)
            found += 1
            yield key, start, end
    if found != tree.entries:
        raise ValueError(f"it has {found} entries in place of {tree.entries}")


class _Tree(NamedTuple):
    page_size: int
    entries: int
    root: int


def _read_meta(data: FileBytes) -> _Tree:
    page_size, flags = _TREE.unpack(data[_PAGE.size + _META.size : _PAGE.size + _META.size + _TREE.size])[:2]
    if page_size not in _PAGE_SIZES:
        raise ValueError("its first page is no meta page")
    metas: list[tuple[int, _Tree]] = []
    for place in (0, page_size):
        page = data[place : place + _PAGE.size + _META.size + 2 * _TREE.size + 16]
        flags = _PAGE.unpack_from(page)[2]
        magic, version = _META.unpack_from(page, _PAGE.size)[:2]
        if not flags & _META_PAGE or (magic, version) != (_MAGIC, _VERSION):
            raise ValueError(f"its meta page at byte {place} is damaged, or of another version of LMDB")
        *_, count, root = _TREE.unpack_from(page, _PAGE.size + _META.size + _TREE.size)
        (transaction,) = struct.unpack_from("<Q", page, len(page) - 8)
        metas.append((transaction, _Tree(page_size, count, root)))
    return max(metas, key=lambda meta: meta[0])[1]


def _read_page(data: FileBytes, page_size: int, number: int) -> tuple[bytes, int, list[int]]:
    """Return a page of the tree, its flags and where its nodes begin."""
    start = number * page_size
    if start + page_size > len(data):
        raise ValueError(f"its page {number} is beyond the end of the file, at byte {len(data)}: it is cut short")
    page = data[start : start + page_size]
    own, _, flags, lower, upper = _PAGE.unpack_from(page)
    count = (lower - _PAGE.size) // 2
    if own != number or flags & ~0x10 not in (_BRANCH, _LEAF) or not _PAGE.size <= lower <= upper <= page_size:
        raise ValueError(f"its page {number}, at byte {start}, is damaged")
    nodes = list(struct.unpack_from(f"<{count}H", page, _PAGE.size))
    if any(node < upper or node + _NODE.size > page_size for node in nodes):
        raise ValueError(f"its page {number}, at byte {start}, is damaged")
    return page, flags, nodes


def _read_leaf(data: FileBytes, page_size: int, number: int, page: bytes, node: int) -> tuple[bytes, int, int]:
    """Return a key, and where its value begins and ends."""
    low, high, flags, length = _NODE.unpack_from(page, node)
    size, value = low | high << 16, node + _NODE.size + length
    key = page[node + _NODE.size : value]
    if flags & _OTHER:
        raise ValueError(f"key {key!r} holds a database or several values")
    if value + (8 if flags & _BIG else size) > page_size:
        raise ValueError(f"its page {number}, at byte {number * page_size}, is damaged")
    if not flags & _BIG:
        return key, number * page_size + value, number * page_size + value + size
    (first,) = struct.unpack_from("<Q", page, value)
    start = first * page_size + _PAGE.size
    if start + size > len(data):
        raise ValueError(f"key {key!r}: its value is beyond the end of the file, at byte {len(data)}: it is cut short")
    own, _, kind, low, high = _PAGE.unpack(data[start - _PAGE.size : start])
    if own != first or not kind & _OVERFLOW or (low | high << 16) * page_size < size + _PAGE.size:
        raise ValueError(f"its page {first}, at byte {first * page_size}, is damaged")
    return key, start, start + size


def parse_datum(datum: Buffer, start: int, end: int) -> tuple[tuple[int, int], int]:
    """Return where the image of the Datum in datum[start:end] begins and ends, and its label.

    Raises:
        ValueError: It is not a Datum with an encoded image.
    """
    values = dict(fields(datum, start, end))
    data, label = values.get(_DATA), values.get(_LABEL, 0)
    if not isinstance(data, tuple) or not isinstance(label, int) or not values.get(_ENCODED):
        raise ValueError(
            "must be a Caffe Datum with an encoded image; Caffe's convert_imageset makes them with --encoded"
        )
    return data, signed(label)
