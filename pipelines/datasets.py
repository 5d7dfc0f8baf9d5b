"""A data set: images, wherever they are, and their labels. The layouts on disk are in `sources/`."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

# What DALI decodes on both backends (the CPU's list; nvJPEG falls back to it).
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".pnm", ".ppm", ".pgm", ".pbm",
)  # fmt: skip


class DataError(ValueError):
    """The data on disk cannot be used; the message gives the path and what to do."""


class Records(Protocol):
    """Encoded images inside larger files."""

    @property
    def files(self) -> list[str]:
        """The larger files."""

    @property
    def index(self) -> Path | None:
        """Where the list of what they hold is stored; None where it could not be."""

    def __len__(self) -> int: ...

    def encoded(self, index: int) -> bytes:
        """The content of an image. Raises OSError where it cannot be read."""

    def name(self, index: int) -> str:
        """Of an image, for messages."""

    def take(self, chosen: np.ndarray) -> "Records":
        """The images at the places `chosen`, in that order."""

    def identity(self) -> Iterator[bytes]:
        """What tells these images from others, wherever the files are."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels, in a fixed order.

    Attributes:
        classes: Class names; a label is an index into it.
        labels: (n,) int64.
        root: The folder given.
        paths: n paths of files below `root` (or s3:// addresses), or None.
        records: n encoded images in larger files, or None.
        images: (n, h, w, 3) uint8 RGB in memory, or None. One of the three is there.
    """

    classes: list[str]
    labels: np.ndarray
    root: str
    paths: list[str] | None = None
    records: Records | None = None
    images: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Of a sample, for messages: the path of its file, or what comes closest to that."""
        if self.records is not None:
            return self.records.name(index)
        return f"image {index} of '{self.root}'" if self.paths is None else self.paths[index]

    def encoded(self, index: int) -> bytes:
        """The content of a sample's file.

        Raises:
            OSError: It cannot be read.
        """
        if self.records is not None:
            return self.records.encoded(index)
        assert self.paths is not None
        path = self.paths[index]
        if path.startswith("s3://"):
            from .sources import s3

            return s3.read(path)
        return Path(path).read_bytes()

    @cached_property  # a second for a million files, and asked for at each checkpoint
    def digest(self) -> str:
        """A hash of classes, labels and file names below `root`: the folder may move, the samples may not."""
        hashed = hashlib.sha256()
        prefix = len(os.path.join(self.root, ""))
        for text in (*self.classes, "", *(path[prefix:] for path in self.paths or ())):
            hashed.update(text.encode("utf-8", "surrogateescape") + b"\0")
        hashed.update(np.ascontiguousarray(self.labels).tobytes())
        for part in self.records.identity() if self.records is not None else ():
            hashed.update(part)
        return hashed.hexdigest()[:16]

    def shares_files(self, other: "Dataset") -> bool:
        """Whether some files are in both."""
        return not set(self._files()).isdisjoint(other._files())

    def _files(self) -> Sequence[str]:
        return self.records.files if self.records is not None else self.paths or ()

    def first(self, count: int) -> "Dataset":
        """The first images of each class, as many of one as of another, in the order that they have here.

        They are dealt out round-robin over the classes: `count // len(classes)` of each or one more; a class that has
        fewer gives all it has, and the others fill up.

        Raises:
            DataError: `count` is less than the number of classes, or more than there are images.
        """
        if not len(self.classes) <= count <= len(self):
            raise DataError(
                f"'{self.root}' has {len(self)} images of {len(self.classes)} classes: the number of images to use "
                f"must be from {len(self.classes)} to {len(self)}, got {count}"
            )
        by_class = np.argsort(self.labels, kind="stable")
        counts = np.bincount(self.labels, minlength=len(self.classes))
        place = np.empty(len(self), dtype=np.int64)  # of each image among those of its class
        place[by_class] = np.arange(len(self)) - np.repeat(counts.cumsum() - counts, counts)
        return self.take(np.sort(np.lexsort((self.labels, place))[:count]))

    def take(self, chosen: np.ndarray) -> "Dataset":
        """The images at the places `chosen`, (m,) integers, in that order."""
        return replace(
            self,
            labels=self.labels[chosen],
            paths=None if self.paths is None else [self.paths[index] for index in chosen],
            records=None if self.records is None else self.records.take(chosen),
            images=None if self.images is None else self.images[chosen],
        )
