"""Images that are files of their own: on disk, or in a store that speaks S3."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from ..decoding import MAX_PIXELS, is_jpeg_name
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
    def feed(self) -> Literal["paths", "contents", "mixed"]:  # cached: there may be a million names
        return "paths" if all(map(is_jpeg_name, self.files)) else "mixed"

    def is_path(self, indices: np.ndarray) -> np.ndarray:
        return np.array([is_jpeg_name(self.files[index]) for index in indices], dtype=bool)

    def inputs(self, indices: np.ndarray, max_pixels: int = MAX_PIXELS) -> list[np.ndarray]:
        if self.feed == "paths":
            parts = reading_threads().map(self._paths, np.array_split(indices, READ_THREADS))
            return [path for part in parts for path in part]
        return list(reading_threads().map(lambda index: self._input(index, max_pixels), indices.tolist()))

    def _paths(self, indices: np.ndarray) -> list[np.ndarray]:
        return [self._path(index) for index in indices]

    def _path(self, index: int) -> np.ndarray:
        """Return a path whose opening ends: that of a FIFO waits for a writer."""
        path = self.files[index]
        if _ADDRESS not in path and not is_regular(path):
            path += "/"  # as a folder, which it is not, its opening fails
        return np.frombuffer(os.fsencode(path), dtype=np.uint8)

    def _input(self, index: int, max_pixels: int) -> np.ndarray:
        return self._path(index) if is_jpeg_name(self.files[index]) else self.content(index, max_pixels)

    def take(self, chosen: np.ndarray) -> "Files":
        return replace(self, files=[self.files[index] for index in chosen])


class FileContents(Files):
    """Files that are read here, because DALI cannot read some of them by their addresses."""

    feed = "contents"

    def is_path(self, indices: np.ndarray) -> np.ndarray:
        return Reader.is_path(self, indices)

    def inputs(self, indices: np.ndarray, max_pixels: int = MAX_PIXELS) -> list[np.ndarray]:
        return self.contents(indices, max_pixels)


_ADDRESS = "://"


def files_reader(files: list[str]) -> Files:
    """Return the reader of files, by their paths and addresses."""
    return Files(files) if all(map(s3.is_plain, files)) else FileContents(files)
