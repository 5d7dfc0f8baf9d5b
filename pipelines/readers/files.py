"""Images that are files of their own: on disk, or in a store that speaks S3."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from ..decoding import MAX_PIXELS
from ..formats import is_jpeg_name
from . import s3
from .base import READ_THREADS, Reader, reading_threads
from .untrusted import is_regular, read_bytes


@dataclass(frozen=True, eq=False)
class Files(Reader):
    """Files.

    Attributes:
        files: Paths and s3:// addresses, one for each image.
    """

    kind = "files"
    files: list[str]

    def __len__(self) -> int:
        return len(self.files)

    def encoded(self, index: int) -> bytes:
        path = self.files[index]
        return s3.read(path) if path.startswith(s3.SCHEME) else read_bytes(path)

    def name(self, index: int) -> str:
        return self.files[index]

    @cached_property
    def feed(self) -> Literal["paths", "contents"]:  # cached: there may be a million names
        return "paths" if all(map(is_jpeg_name, self.files)) else "contents"

    def inputs(self, indices: np.ndarray, max_pixels: int = MAX_PIXELS) -> list[np.ndarray]:
        if self.feed == "contents":
            return self.contents(indices, max_pixels)
        parts = reading_threads().map(self._paths, np.array_split(indices, READ_THREADS))
        return [path for part in parts for path in part]

    def _paths(self, indices: np.ndarray) -> list[np.ndarray]:
        """Return paths whose opening ends: that of a FIFO waits for a writer."""
        paths = [self.files[index] for index in indices]
        # As a folder, which it is not, its opening fails.
        paths = [path if _ADDRESS in path or is_regular(path) else f"{path}/" for path in paths]
        return [np.frombuffer(os.fsencode(path), dtype=np.uint8) for path in paths]

    def take(self, chosen: np.ndarray) -> "Files":
        return replace(self, files=[self.files[index] for index in chosen])


class FileContents(Files):
    """Files that are read here, because DALI cannot read some of them by their addresses."""

    feed = "contents"


_ADDRESS = "://"


def files_reader(files: list[str]) -> Files:
    """Return the reader of files, by their paths and addresses."""
    return Files(files) if all(map(s3.is_plain, files)) else FileContents(files)
