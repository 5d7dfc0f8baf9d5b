"""Images that are files of their own: on disk, or in a store that speaks S3."""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from ..decoding import DecodingError, for_dali
from ..formats import JPEG, is_jpeg_name
from ..orientations import WINDOW, jpeg_states_several
from . import s3
from .base import Reader
from .untrusted import open_regular, read_bytes


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

    def read(self, indices: np.ndarray, max_pixels: int) -> list[np.ndarray]:
        if self.feed == "contents":
            return super().read(indices, max_pixels)
        paths = [self.files[index] for index in indices]
        # As a folder, which it is not, its opening fails.
        paths = [path if _ADDRESS in path or _is_for_dali(path, max_pixels) else f"{path}/" for path in paths]
        return [np.frombuffer(os.fsencode(path), dtype=np.uint8) for path in paths]

    def take(self, chosen: np.ndarray) -> "Files":
        return replace(self, files=[self.files[index] for index in chosen])


class FileContents(Files):
    """Files that are read here, because DALI cannot read some of them by their addresses."""

    feed = "contents"


_ADDRESS = "://"


def _is_for_dali(path: str, max_pixels: int) -> bool:
    """Return whether DALI may open a file with a JPEG's name: it decodes some forms incorrectly."""
    try:
        with open_regular(path) as file:  # of a FIFO, the opening in DALI would wait for a writer
            beginning = file.read(WINDOW)
            if beginning.startswith(JPEG):
                return not jpeg_states_several(file, beginning)
        content = read_bytes(path)
        return for_dali(content, max_pixels) is content
    except (OSError, DecodingError):
        return False  # the loader reads it again, and says why


def files_reader(files: list[str]) -> Files:
    """Return the reader of files, by their paths and addresses."""
    return Files(files) if all(map(s3.is_plain, files)) else FileContents(files)
