"""A data set: images, wherever they are, and their labels. `sources` finds data sets; `readers` reads their images."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from . import labels as kinds
from .arguments import INT32_MAX, flag, refuse, require, whole
from .labels import Labels
from .labels.objects import Objects
from .readers import hugging_face, image_folders
from .readers.base import DataError, Reader
from .readers.samples import samples_reader


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels, in a fixed order. A data set can be pickled.

    `find_dataset` makes one of a folder; `from_samples`, `from_hugging_face` and `from_torchvision` make one of what
    you have.

    Attributes:
        classes: Class names: a label is an index into it, or has a column for each. Empty where there are no classes.
        labels: One of

            - class indices, (n,) int64, from 0 to the number of classes − 1; other integers are converted;
            - rows, (n, K) float32: soft targets, several labels as zeros and ones, or K numbers. Other floats are
              converted, as are booleans and integers that are 0 or 1;
            - numbers, (n,) float32, as in regression;
            - a dictionary of arrays (n, ...) by name, int64 of integers and float32 of others, whose values are not
              looked at. An empty one means that there are no labels;
            - `Objects`, of `find_detection`: boxes and classes, any number for each image.
        root: The folder of the data, or another name for messages.
        reader: The n images.
        unlabelled: Whether −1, or a number that is not finite, is a label too, of images whose label is not known. They
            cannot be trained on.
        left_out: How many files in class folders were left out because of their suffix, by suffix.

    Raises:
        DataError: There are not as many labels as images, or a label is out of range or not finite.
        ValueError: An argument is of another type.
    """

    classes: list[str]
    labels: Labels
    root: str
    reader: Reader
    unlabelled: bool = False
    left_out: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = isinstance(self.classes, list | tuple) and all(isinstance(name, str) for name in self.classes)
        require("classes", self.classes, "a list of names", names)
        require("root", self.root, "a path", isinstance(self.root, str))
        require("reader", self.reader, "a Reader, such as Files or Pixels", isinstance(self.reader, Reader))
        require("left_out", self.left_out, "a dictionary", isinstance(self.left_out, dict))
        object.__setattr__(self, "unlabelled", flag("unlabelled", self.unlabelled))
        labels = kinds.as_labels(self.labels)
        object.__setattr__(self, "labels", labels)
        for name, array in (labels if isinstance(labels, dict) else {"": labels}).items():
            if len(array) != len(self.reader):
                of = f" in labels[{name!r}]" if name else ""
                raise DataError(
                    f"there must be one label for each image, got {len(array)}{of} for {len(self.reader)} images"
                )
        if isinstance(labels, dict):
            require("classes", self.classes, "empty where the labels are a dictionary", not self.classes)
        elif isinstance(labels, Objects):
            pass  # `find_detection` has checked them
        elif labels.dtype == np.int64:
            self._check_range(labels)
        else:
            self._check_floats(labels)

    def _check_range(self, labels: np.ndarray) -> None:
        wrong = np.flatnonzero((labels < -int(self.unlabelled)) | (labels >= len(self.classes)))
        if len(wrong):
            raise DataError(
                f"labels must be from 0 to {len(self.classes) - 1}, the places of the {len(self.classes)} classes, got "
                f"{labels[wrong[0]]} for '{self.reader.name(int(wrong[0]))}'"
            )

    def _check_floats(self, labels: np.ndarray) -> None:
        columns = labels.shape[1] if labels.ndim == 2 else None
        if self.classes and columns != len(self.classes):
            legal = f"class indices, or rows (n, {len(self.classes)}), as there are {len(self.classes)} classes"
            refuse("labels", labels, legal)
        for place in () if self.unlabelled else kinds.unknown(labels)[:1]:
            raise DataError(f"labels must be finite, got {labels[place]} for '{self.reader.name(int(place))}'")

    @classmethod
    def from_samples(
        cls,
        samples: Sequence[str | os.PathLike[str] | bytes],
        targets: Any = None,
        classes: Sequence[str] | None = None,
    ) -> "Dataset":
        """Return the data set of images that you have listed, or that are in memory.

        Args:
            samples: Paths of image files or s3:// addresses, text or `os.PathLike`; or the contents of image files,
                `bytes`. They are read as in any data set: a bad one is named by its path, or by its place.
            targets: Labels of any kind, see `labels` above, one for each sample; −1: not known. None: no labels.
            classes: Class names. By default the numbers from 0 to the greatest label, where labels are class indices.

        Raises:
            DataError: There are not as many targets as samples, or one is out of range.
            ValueError: An argument is of another type.
        """
        root, reader = samples_reader(samples)
        return cls._of(reader, root, {} if targets is None else targets, classes)

    @classmethod
    def from_hugging_face(
        cls, source: Any, image: str = "image", label: str | Sequence[str] | None = "label"
    ) -> "Dataset":
        """Return the images and labels of a `datasets.Dataset`, whose encoded images are read when they are needed.

        They are the bytes that `source.cast_column(image, Image(decode=False))` has, read without Pillow from Arrow's
        table, which is not loaded into memory. The order is that of `source`, its `select` and `shuffle` included.

        Args:
            source: One split, not a stream, without a transform.
            image: The column of the images, of type Image or binary.
            label: The column of the labels: ClassLabel (a missing one: −1), lists of it (several labels, as zeros and
                ones), integers (class indices), floats, or lists of one length of them. Several columns: a dictionary.
                None: no labels.

        Raises:
            DataError: The images cannot be used as they are.
            ValueError: An argument is of another type, or there is no such column.
        """
        reader = hugging_face.images_of(source, image)
        labels, classes = hugging_face.labels_of(reader, label)
        return cls._of(reader, reader.root, labels, classes)

    @classmethod
    def from_torchvision(cls, folder: torch.utils.data.Dataset) -> "Dataset":
        """Return the files, labels and classes of a `torchvision.datasets.ImageFolder`, or of a `Subset` of one.

        Any `DatasetFolder` of images will do, such as `torchvision.datasets.ImageNet`.

        Raises:
            ValueError: It is none, or has a transform or a loader of its own, which would have no effect.
        """
        return cls.from_samples(*image_folders.listed(folder))

    @classmethod
    def _of(cls, reader: Reader, root: str, targets: Any, classes: Sequence[str] | None) -> "Dataset":
        labels = kinds.as_labels(targets)
        indices = labels if isinstance(labels, np.ndarray) and labels.dtype == np.int64 else None
        if classes is None:
            greatest = -1 if indices is None else int(indices.max(initial=-1))
            limit = kinds.most_classes(len(reader))
            if greatest >= limit:
                raise DataError(
                    f"the greatest label is {greatest}: those of {len(reader)} images must be below {limit}, unless "
                    "classes names each of them. Numbers that are no classes must be floats."
                )
            classes = [str(number) for number in range(greatest + 1)]
        unlabelled = indices is not None and bool((indices == -1).any())
        return cls(classes, labels, root, reader, unlabelled)  # type: ignore[arg-type] # checked there

    def __len__(self) -> int:
        return len(self.reader)

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
        for part in (*kinds.identity(self.labels), *self.reader.identity()):
            hashed.update(part)
        return hashed.hexdigest()[:16]

    def shares_files(self, other: "Dataset") -> bool:
        """Return whether some files are in both."""
        require("other", other, "a Dataset", isinstance(other, Dataset))
        return not set(self.reader.files).isdisjoint(other.reader.files)

    def require_labels(self) -> None:
        """Raise DataError if the label of an image is not known."""
        for index in kinds.unknown(self.labels)[:1]:
            if self.has_class_indices:
                raise DataError(f"the class of '{self.name(index)}' is not known; its label is −1")
            raise DataError(f"the label of '{self.name(index)}' is not known; it is not finite")

    @property
    def has_class_indices(self) -> bool:
        """Whether the labels are class indices."""
        return isinstance(self.labels, np.ndarray) and self.labels.dtype == np.int64

    @property
    def class_indices(self) -> np.ndarray:
        """The labels, (n,) int64, where they are class indices.

        Raises:
            DataError: They are of another kind.
        """
        self.require_class_indices()
        return np.asarray(self.labels)

    def require_class_indices(self) -> None:
        """Raise DataError unless the labels are class indices, as the training program needs them."""
        if not self.has_class_indices:
            names = {dict: "a dictionary", Objects: "boxes"}
            kind = names.get(type(self.labels)) or f"float32 of shape {np.shape(self.labels)}"  # type: ignore[arg-type]
            raise DataError(f"the labels of '{self.root}' must be class indices here, (n,) integers, got {kind}")

    def first(self, count: int) -> "Dataset":
        """Return the first images of each class, in the order that they have here.

        They are dealt out round-robin over the classes: `count // len(classes)` of each or one more. A class with
        fewer contributes all it has, and the others fill up. Where labels are not class indices, these are the first
        images.

        Raises:
            DataError: `count` is less than the number of classes, or more than there are images.
        """
        return self.take(self._first_places(count))

    def without_first(self, count: int) -> "Dataset":
        """Return the images that are not among `first(count)`, in the order that they have here.

        Raises:
            DataError: As `first`; or a class has no other images.
        """
        rest = self.take(np.setdiff1d(np.arange(len(self)), self._first_places(count)))
        if self.has_class_indices:
            for label in np.setdiff1d(self.class_indices, rest.class_indices)[:1]:
                raise DataError(f"'{self.root}': the first {count} images have all those of {self.classes[label]!r}")
        return rest

    def _first_places(self, count: int) -> np.ndarray:
        count = whole("count", count, 0, INT32_MAX)
        self.require_labels()
        if not self.has_class_indices:
            if not 1 <= count <= len(self):
                raise DataError(
                    f"'{self.root}' has {len(self)} images: the number of images to use must be from 1 to {len(self)}, "
                    f"got {count}"
                )
            return np.arange(count)
        labels = self.class_indices
        if not len(self.classes) <= count <= len(self):
            raise DataError(
                f"'{self.root}' has {len(self)} images of {len(self.classes)} classes: the number of images to use "
                f"must be from {len(self.classes)} to {len(self)}, got {count}"
            )
        by_class = np.argsort(labels, kind="stable")
        counts = np.bincount(labels, minlength=len(self.classes))
        place = np.empty(len(self), dtype=np.int64)  # of each image among those of its class
        place[by_class] = np.arange(len(self)) - np.repeat(counts.cumsum() - counts, counts)
        return np.sort(np.lexsort((labels, place))[:count])

    def take(self, chosen: np.ndarray | Sequence[int] | Sequence[bool]) -> "Dataset":
        """Return some of the images, as a data set with a digest of its own.

        Args:
            chosen: Their places, (m,) integers from 0 to n − 1, in the order to be; or (n,) bool: which of them.

        Raises:
            ValueError: It is neither, or a place is out of range.
        """
        legal = f"(m,) integers from 0 to {len(self) - 1}, or ({len(self)},) bool"
        places = kinds.as_array("chosen", chosen, legal)
        if places.dtype == bool:
            require("chosen", chosen, legal, places.shape == (len(self),))
            places = np.flatnonzero(places)
        require("chosen", chosen, legal, places.ndim == 1 and (places.dtype.kind in "iu" or not places.size))
        places = kinds.as_int64("chosen", places, legal)
        for place in places[(places < 0) | (places >= len(self))][:1]:
            refuse("chosen", place, legal)
        return replace(self, labels=kinds.take(self.labels, places), reader=self.reader.take(places))
