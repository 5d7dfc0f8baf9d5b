"""WebDataset shards: tar archives in which adjacent members of one name are a sample."""

import os
import re
import tarfile

import numpy as np

from ..datasets import IMAGE_SUFFIXES
from ..readers.base import DataError
from ..readers.records import TAR_BLOCK, TarMembers
from .splits import Source, table

_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)  # WebDataset's: the key; all from the first dot on


def _matches(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(".tar") and entry.is_file()


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
        # tarfile mistakes part of a header for the end of the archive.
        if os.path.getsize(path) % TAR_BLOCK:
            raise tarfile.ReadError("cut short")
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined] # tarfile would keep them all
                match = _NAME.fullmatch(member.name)
                if match is None or not member.isreg():
                    continue
                if match[1] != key:
                    close()
                    key, image, label = match[1], None, None
                suffix = f".{match[2].lower()}"
                if suffix in IMAGE_SUFFIXES and image is None:
                    image = member.offset_data, member.size
                elif suffix == ".cls":
                    content = tar.extractfile(member)
                    label = _label(path, member.name, content.read() if content is not None else b"")
            close()
    except tarfile.TarError as error:
        raise DataError(f"'{path}' is no whole tar archive, uncompressed: {error}. Fetch or make it again.") from error
    return table(rows)


def _label(path: str, name: str, content: bytes) -> int:
    try:
        return int(content)
    except ValueError:
        raise DataError(f"'{path}/{name}' must hold a class number, an integer from 0; got {content[:40]!r}") from None


SOURCE = Source("WebDataset shards", _matches, _scan, TarMembers.of)
