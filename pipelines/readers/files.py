"""Images that are files of their own: on disk, or in a store that speaks S3."""

import os
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from . import s3
from .base import Reader
from .records import READ_THREADS, read_all, read_pool
from .untrusted import is_regular, read_bytes


@dataclass(frozen=True, eq=False)
class Files(Reader):
    """Files.

    Attributes:
        files: Paths and s3:// addresses, one for each image.
    """

    kind: ClassVar[Literal["files", "contents"]] = "files"
    files: list[str]

    def __len__(self) -> int:
        return len(self.files)

    def encoded(self, index: int) -> bytes:
        path = self.files[index]
        return s3.read(path) if path.startswith(s3.SCHEME) else read_bytes(path)

    def name(self, index: int) -> str:
        return self.files[index]

    def inputs(self, indices: np.ndarray) -> list[np.ndarray]:
        parts = read_pool().map(self._readable, np.array_split(indices, READ_THREADS))
        return [np.frombuffer(path, dtype=np.uint8) for part in parts for path in part]

    def _readable(self, indices: np.ndarray) -> list[bytes]:
        """Return paths whose opening ends: that of a FIFO waits for a writer."""
        paths = [self.files[index] for index in indices]
        # As a folder, which it is not, its opening fails.
        return [os.fsencode(path if _ADDRESS in path or is_regular(path) else f"{path}/") for path in paths]

    def take(self, chosen: np.ndarray) -> "Files":
        return replace(self, files=[self.files[index] for index in chosen])


class FileContents(Files):
    """Files that are read here, because DALI cannot read some of them by their addresses."""

    kind = "contents"

    def inputs(self, indices: np.ndarray) -> list[np.ndarray]:
        return read_all(self, indices)


_ADDRESS = "://"


def files_reader(files: list[str]) -> Files:
    """Return the reader of files, by their paths and addresses."""
    return Files(files) if all(map(s3.is_plain, files)) else FileContents(files)
