"""The interface of a reader."""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image


class DataError(ValueError):
    """The data on disk cannot be used. The message gives the path and what to do."""


class StoreError(DataError):
    """A store of files cannot be used; none of its files is to blame."""


class Reader(ABC):
    """Images in a fixed order, and how each of them is read. A reader can be pickled.

    Attributes:
        kind: What the DALI pipeline receives for each image: "files" (a path), "contents" and "records" (the encoded
            content) or "pixels".
        files: Paths or s3:// addresses. Kinds "files" and "contents": one for each image, in order. Kind "records": the
            larger files that hold the images. Kind "pixels": none.
        index_file: Where the list of what the larger files hold is stored; None where there is no such list, or where
            it could not be stored.
    """

    kind: ClassVar[Literal["files", "contents", "records", "pixels"]]
    files: Sequence[str]
    index_file: Path | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """Return the content of an image file.

        Raises:
            OSError: The content cannot be read.
            StoreError: The store that holds it cannot be used.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of an image, for messages."""

    @abstractmethod
    def inputs(self, indices: np.ndarray) -> Any:
        """Return what the pipeline receives for the images at `indices`, (B,) integers.

        Returns:
            Kind "pixels": (B, h, w, 3) uint8. Otherwise B arrays, each (bytes,) uint8: the path, or the encoded image.
        """

    @abstractmethod
    def take(self, chosen: np.ndarray) -> "Reader":
        """Return a reader of the images at `chosen`, (m,) integers, in that order."""

    def identity(self) -> Iterator[bytes]:
        """Yield what distinguishes these images, other than files of their own; not the folder, which may move."""
        yield from ()

    def side(self, index: int) -> int:
        """Return the shorter side of an image, in pixels.

        Raises:
            OSError: The image cannot be read.
        """
        with Image.open(io.BytesIO(self.encoded(index))) as image:
            return min(image.size)
