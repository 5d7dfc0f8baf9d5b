"""The interface of a reader."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from ..decoding import MAX_PIXELS, DecodingError, for_dali, open_image

READ_THREADS = 16  # reads at a time: a disk or a network answers many at once sooner than one after another
_SHARES = 2 * READ_THREADS  # of a batch, small enough that none waits long for the last


class DataError(ValueError):
    """The data on disk cannot be used. The message gives the path and what to do."""


class StoreError(DataError):
    """A store of files cannot be used; none of its files is to blame."""


class Reader(ABC):
    """Images in a fixed order, and how each of them is read. A reader can be pickled.

    Attributes:
        kind: What the images are: "files", "records" (in larger files, or in memory) or "pixels" (decoded already).
        feed: What the DALI pipeline receives for each image: "paths", "contents" (encoded) or "pixels".
        files: Paths or s3:// addresses. Kind "files": one for each image, in order. Kind "records": the larger files
            that hold the images; none where they are in memory. Kind "pixels": none.
        index_file: Where the list of what the larger files hold is stored; None where there is no such list, or where
            it could not be stored.
    """

    kind: ClassVar[Literal["files", "records", "pixels"]]
    files: Sequence[str]
    index_file: Path | None = None

    @property
    @abstractmethod
    def feed(self) -> Literal["paths", "contents", "pixels"]: ...

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

    def inputs(self, indices: np.ndarray, max_pixels: int = MAX_PIXELS) -> Any:
        """Return what the pipeline receives for the images at `indices`, (B,) integers.

        Args:
            max_pixels: Of an image that is decoded here.

        Returns:
            "pixels": (B, h, w, 3) uint8. Otherwise B arrays, each (bytes,) uint8: the path, or the encoded image.
        """
        return self.begin(indices, max_pixels)()

    def begin(self, indices: np.ndarray, max_pixels: int) -> Callable[[], Any]:
        """Begin to read images in threads, and return a function that waits for them and returns them, as `inputs`."""
        shares = np.array_split(indices, min(len(indices), _SHARES)) if len(indices) else []
        reads = [reading_threads().submit(_read, self, share, max_pixels) for share in shares]
        return lambda: [image for read in reads for image in read.result()]

    def read(self, indices: np.ndarray, max_pixels: int) -> list[np.ndarray]:
        """Return `inputs` of a few images, read one after the other."""
        return [self.content(index, max_pixels) for index in indices.tolist()]

    def content(self, index: int, max_pixels: int) -> np.ndarray:
        """Return an encoded image as the pipeline receives it, (bytes,) uint8.

        It is empty if it cannot be read or decoded; no decoder accepts that as an image.
        """
        try:
            return np.frombuffer(for_dali(self.encoded(index), max_pixels), dtype=np.uint8)
        except (OSError, DataError, DecodingError):
            return np.empty(0, dtype=np.uint8)

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
        try:
            with open_image(self.encoded(index)) as image:
                return min(image.size)
        except DecodingError as error:
            raise OSError(str(error)) from error


def _read(reader: Reader, indices: np.ndarray, max_pixels: int) -> list[np.ndarray]:
    return [] if _is_ending() else reader.read(indices, max_pixels)


def _is_ending() -> bool:
    """Return whether the interpreter is ending. It accepts no more work, but waits for all that it was given before,
    which nobody wants any more, and which a store that does not answer makes last."""
    try:
        reading_threads().submit(int)
    except RuntimeError:
        return True
    return False


@cache
def reading_threads() -> ThreadPoolExecutor:
    """Return the threads that read images."""
    return ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read-images")


os.register_at_fork(after_in_child=reading_threads.cache_clear)  # the threads stayed in the parent
