"""A data set: images, wherever they are, and their labels. `sources` finds data sets; `readers` reads their images."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .arguments import INT32_MAX, flag, refuse, require, whole
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
        labels: (n,) int64, from 0 to the number of classes − 1; other integers are converted.
        root: The folder of the data.
        reader: The n images.
        unlabelled: Whether −1 is a label too, of images whose class is not known. They cannot be trained on.

    Raises:
        DataError: There are not as many labels as images, or a label is out of range.
        ValueError: An argument is of another type.
    """

    classes: list[str]
    labels: np.ndarray
    root: str
    reader: Reader
    unlabelled: bool = False

    def __post_init__(self) -> None:
        names = isinstance(self.classes, list | tuple) and all(isinstance(name, str) for name in self.classes)
        require("classes", self.classes, "a list of names", names)
        require("root", self.root, "a path", isinstance(self.root, str))
        require("reader", self.reader, "a Reader, such as Files or Pixels", isinstance(self.reader, Reader))
        labels = _integers("labels", self.labels, "(n,) integers, one for each image")
        object.__setattr__(self, "labels", labels)
        if len(labels) != len(self.reader):
            raise DataError(f"there must be one label for each image, got {len(labels)} for {len(self.reader)} images")
        object.__setattr__(self, "unlabelled", flag("unlabelled", self.unlabelled))
        wrong = np.flatnonzero((labels < -int(self.unlabelled)) | (labels >= len(self.classes)))
        if len(wrong):
            raise DataError(
                f"labels must be from 0 to {len(self.classes) - 1}, the places of the {len(self.classes)} classes, got "
                f"{labels[wrong[0]]} for '{self.reader.name(int(wrong[0]))}'"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the name of a sample, for messages: the path of its file, or what comes closest to that.

        Args:
            index: Its place, from 0 on.
        """
        return self.reader.name(whole("index", index, 0, len(self) - 1))

    def encoded(self, index: int) -> bytes:
        """Return the content of a sample's file.

        Raises:
            OSError: It cannot be read.
        """
        return self.reader.encoded(whole("index", index, 0, len(self) - 1))

    @cached_property  # a second for a million files, and needed at each checkpoint
    def digest(self) -> str:
        """A hash of classes, labels and file names below `root`: the folder may move, the samples may not."""
        hashed = hashlib.sha256()
        prefix = len(os.path.join(self.root, ""))
        names = (file[prefix:] for file in self.reader.files) if self.reader.kind == "files" else ()
        for text in (*self.classes, "", *names):
            hashed.update(text.encode("utf-8", "surrogateescape") + b"\0")
        hashed.update(np.ascontiguousarray(self.labels).tobytes())
        for part in self.reader.identity():
            hashed.update(part)
        return hashed.hexdigest()[:16]

    def shares_files(self, other: "Dataset") -> bool:
        """Return whether some files are in both."""
        require("other", other, "a Dataset", isinstance(other, Dataset))
        return not set(self.reader.files).isdisjoint(other.reader.files)

    def require_labels(self) -> None:
        """Raise DataError if the class of an image is not known."""
        for index in np.flatnonzero(self.labels < 0)[:1]:
            raise DataError(f"the class of '{self.name(index)}' is not known; its label is −1")

    def first(self, count: int) -> "Dataset":
        """Return the first images of each class, in the order that they have here.

        They are dealt out round-robin over the classes: `count // len(classes)` of each or one more. A class with
        fewer contributes all it has, and the others fill up.

        Raises:
            DataError: `count` is less than the number of classes, or more than there are images.
        """
        count = whole("count", count, 0, INT32_MAX)
        self.require_labels()
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

    def take(self, chosen: np.ndarray | Sequence[int] | Sequence[bool]) -> "Dataset":
        """Return some of the images, as a data set with a digest of its own.

        Args:
            chosen: Their places, (m,) integers from 0 to n − 1, in the order to be; or (n,) bool: which of them.

        Raises:
            ValueError: It is neither, or a place is out of range.
        """
        legal = f"(m,) integers from 0 to {len(self) - 1}, or ({len(self)},) bool"
        places = _array("chosen", chosen, legal)
        if places.dtype == bool:
            require("chosen", chosen, legal, places.shape == (len(self),))
            places = np.flatnonzero(places)
        places = _integers("chosen", places, legal)
        for place in places[(places < 0) | (places >= len(self))][:1]:
            refuse("chosen", place, legal)
        return replace(self, labels=self.labels[places], reader=self.reader.take(places))


def _integers(name: str, value: object, legal: str) -> np.ndarray:
    """Return (m,) int64 of a sequence of integers."""
    array = _array(name, value, legal)
    if array.ndim == 1 and not array.size:
        return np.empty(0, dtype=np.int64)
    require(name, value, legal, array.ndim == 1 and np.issubdtype(array.dtype, np.integer))
    if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        refuse(name, array.max(), legal)
    return array.astype(np.int64, copy=False)


def _array(name: str, value: object, legal: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError):  # ragged lists, among others
        refuse(name, value, legal)
