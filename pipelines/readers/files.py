"""Images that are files of their own: on disk, or in a store that speaks S3."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from ..decoding import is_jpeg_name
from . import s3
from .base import Reader, reading_threads


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
        return s3.read(path) if path.startswith(s3.SCHEME) else Path(path).read_bytes()

    def name(self, index: int) -> str:
        return self.files[index]

    @cached_property
    def feed(self) -> Literal["paths", "mixed"]:  # cached: there may be a million names
        return "paths" if all(map(is_jpeg_name, self.files)) else "mixed"

    def is_path(self, indices: np.ndarray) -> np.ndarray:
        return np.array([is_jpeg_name(self.files[index]) for index in indices], dtype=bool)

    def inputs(self, indices: np.ndarray) -> list[np.ndarray]:
        if self.feed == "paths":
            return [self._path(index) for index in indices]
        return list(reading_threads().map(self._input, indices.tolist()))

    def _path(self, index: int) -> np.ndarray:
        return np.frombuffer(os.fsencode(self.files[index]), dtype=np.uint8)

    def _input(self, index: int) -> np.ndarray:
        return self._path(index) if is_jpeg_name(self.files[index]) else self.content(index)

    def take(self, chosen: np.ndarray) -> "Files":
        return Files([self.files[index] for index in chosen])
