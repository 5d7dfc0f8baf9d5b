"""Images that are files of their own: on disk, or in a store that speaks S3."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import s3
from .base import Reader


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

    def inputs(self, indices: np.ndarray) -> list[np.ndarray]:
        return [np.frombuffer(os.fsencode(self.files[index]), dtype=np.uint8) for index in indices]

    def take(self, chosen: np.ndarray) -> "Files":
        return Files([self.files[index] for index in chosen])
