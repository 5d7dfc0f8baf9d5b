"""A data set: images, wherever they are, and their labels. `sources` finds data sets; `readers` reads their images."""

import hashlib
import os
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .readers.base import DataError, Reader

# What DALI decodes on both backends (the CPU's list; nvJPEG falls back to it).
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".pnm", ".ppm", ".pgm", ".pbm",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels, in a fixed order. A data set can be pickled.

    Attributes:
        classes: Class names; a label is an index into it.
        labels: (n,) int64.
        root: The folder of the data.
        reader: The n images.
    """

    classes: list[str]
    labels: np.ndarray
    root: str
    reader: Reader

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the name of a sample, for messages: the path of its file, or what comes closest to that."""
        return self.reader.name(index)

    def encoded(self, index: int) -> bytes:
        """Return the content of a sample's file.

        Raises:
            OSError: It cannot be read.
        """
        return self.reader.encoded(index)

    @cached_property  # a second for a million files, and needed at each checkpoint
    def digest(self) -> str:
        """A hash of classes, labels and file names below `root`: the folder may move, the samples may not."""
        hashed = hashlib.sha256()
        prefix = len(os.path.join(self.root, ""))
        names = (file[prefix:] for file in self.reader.files) if self.reader.kind in ("files", "contents") else ()
        for text in (*self.classes, "", *names):
            hashed.update(text.encode("utf-8", "surrogateescape") + b"\0")
        hashed.update(np.ascontiguousarray(self.labels).tobytes())
        for part in self.reader.identity():
            hashed.update(part)
        return hashed.hexdigest()[:16]

    def shares_files(self, other: "Dataset") -> bool:
        """Return whether some files are in both."""
        return not set(self.reader.files).isdisjoint(other.reader.files)

    def first(self, count: int) -> "Dataset":
        """Return the first images of each class, in the order that they have here.

        They are dealt out round-robin over the classes: `count // len(classes)` of each or one more. A class with
        fewer contributes all it has, and the others fill up.

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
        """Return the images at the places `chosen`, (m,) integers, in that order."""
        return replace(self, labels=self.labels[chosen], reader=self.reader.take(chosen))
