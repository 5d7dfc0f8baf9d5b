"""WebDataset shards: tar archives in which adjacent members of one name are a sample."""

import os
import re
import tarfile
from io import FileIO

import numpy as np

from ..formats import IMAGE_SUFFIXES
from ..readers.base import DataError
from ..readers.records import TAR_BLOCK, TarMembers
from ..readers.untrusted import open_regular
from .names import is_folder, is_junk
from .splits import Source, table

_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)  # WebDataset's: the key; all from the first dot on
_LABEL_SIZE = 40  # bytes of a .cls
_NUMBER = re.compile(rb"\s*[+-]?[0-9]+\s*")  # `int` takes more, such as 1_0
_TAIL = 2**20  # bytes of the end read at a time


def _matches(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(".tar") and not is_folder(entry)


def _scan(path: str) -> dict[str, np.ndarray]:
    rows: list[tuple[int, int, int]] = []
    key: str | None = None
    image: tuple[int, int] | None = None
    label: int | None = None

    def close() -> None:
        if image is None and label is None:
            return  # a sample of other things
        if image is None or label is None:
            raise DataError(
                f"'{path}', sample '{key}': needs an image ({' '.join(IMAGE_SUFFIXES)}) and its class number (.cls), "
                f"one after the other; it has no {'image' if image is None else '.cls'}."
            )
        rows.append((*image, label))

    try:
        with open_regular(path) as file:
            # tarfile mistakes part of a header for the end of the archive.
            size = os.fstat(file.fileno()).st_size
            if size % TAR_BLOCK:
                raise tarfile.ReadError(f"cut short, at byte {size}")
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - closing it does nothing
            place = -1
            for member in tar:
                tar.members = []  # type: ignore[attr-defined] # tarfile would keep them all
                if tar.offset <= place:  # a negative size leads back, in a circle
                    raise tarfile.ReadError(f"the size in the header at byte {place} is damaged")
                place = tar.offset
                match = _NAME.fullmatch(member.name)
                if match is None or not member.isreg() or any(map(is_junk, member.name.split("/")[:-1])):
                    continue
                if member.issparse():
                    raise tarfile.ReadError(f"member '{member.name}' is stored with its zeros left out")
                if match[1] != key:
                    close()
                    key, image, label = match[1], None, None
                suffix = f".{match[2].lower()}"
                if suffix in IMAGE_SUFFIXES and image is None:
                    image = member.offset_data, member.size
                elif suffix == ".cls":
                    content = os.pread(file.fileno(), min(member.size, _LABEL_SIZE + 1), member.offset_data)
                    label = _label(path, member.name, content)
            _require_end(file, tar.offset, size)
            close()
    except tarfile.TarError as error:
        raise DataError(f"'{path}' is no whole tar archive, uncompressed: {error}. Fetch or make it again.") from error
    return table(rows)


def _require_end(file: FileIO, start: int, size: int) -> None:
    """Raise an error unless the archive has nothing but zeros from `start` on, where tarfile sees its end."""
    place = start
    while place < size:
        rest = os.pread(file.fileno(), _TAIL, place)
        inside = len(rest) - len(rest.lstrip(b"\0"))
        place += inside
        if inside == len(rest) and rest:
            continue
        if not rest:
            raise tarfile.ReadError(f"cut short, at byte {place}")
        if place - start < TAR_BLOCK:
            raise tarfile.ReadError(f"the header at byte {start} is damaged")
        raise tarfile.ReadError(f"it ends at byte {start}, but there is more at byte {place}, as in joined archives")
    if size == start:
        raise tarfile.ReadError(f"cut short: it stops at byte {size} without an end")


def _label(path: str, name: str, content: bytes) -> int:
    if len(content) <= _LABEL_SIZE and _NUMBER.fullmatch(content) and -(2**63) <= (label := int(content)) < 2**63:
        return label
    raise DataError(f"'{path}/{name}' must hold a class number, an integer from 0; got {content[:40]!r}")


SOURCE = Source("WebDataset shards", _matches, _scan, TarMembers.of)
