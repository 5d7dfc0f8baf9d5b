"""Which images there are, and their labels: class folders, ImageNet's and TinyImageNet's layouts, CIFAR pickles."""

import hashlib
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

# What DALI decodes on both backends (the CPU's list; nvJPEG falls back to it).
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".pnm", ".ppm", ".pgm", ".pbm",
)  # fmt: skip


class DataError(ValueError):
    """The data on disk cannot be used; the message gives the path and what to do."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels, in a fixed order.

    Attributes:
        classes: Class names; a label is an index into it.
        labels: (n,) int64.
        root: The folder given.
        paths: n file paths below `root`, or None for images in memory.
        images: (n, h, w, 3) uint8 RGB in memory, or None for files.
    """

    classes: list[str]
    labels: np.ndarray
    root: str
    paths: list[str] | None = None
    images: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Of a sample, for messages: the path of its file."""
        return f"image {index} of '{self.root}'" if self.paths is None else self.paths[index]

    def encoded(self, index: int) -> bytes:
        """The content of a sample's file.

        Raises:
            OSError: It cannot be read.
        """
        assert self.paths is not None
        return Path(self.paths[index]).read_bytes()

    @cached_property  # a second for a million files, and asked for at each checkpoint
    def digest(self) -> str:
        """A hash of classes, labels and file names below `root`: the folder may move, the samples may not."""
        hashed = hashlib.sha256()
        prefix = len(os.path.join(self.root, ""))
        for text in (*self.classes, "", *(path[prefix:] for path in self.paths or ())):
            hashed.update(text.encode("utf-8", "surrogateescape") + b"\0")
        hashed.update(np.ascontiguousarray(self.labels).tobytes())
        return hashed.hexdigest()[:16]

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
            images=None if self.images is None else self.images[chosen],
        )


def find_dataset(root: str | os.PathLike[str], train: bool = True) -> Dataset:
    """Lists the training or the validation images under `root`. Reads names only (CIFAR: the pickles).

    The layout is recognised from what is there:

    - CIFAR-10 / CIFAR-100: the python pickles, in `root` or in its usual sub-folder;
    - `root/train/<class>/…` and `root/val/<class>/…` (ImageNet); `root/val/val_annotations.txt` beside
      `root/val/images/` (TinyImageNet). Labels of both forms number the classes of `root/train`;
    - `root/<class>/…`: the same images for training and validation.

    Nested files belong to the class folder above them. Hidden files and folders, files without an image
    suffix (`IMAGE_SUFFIXES`, in any case) and links to folders inside a class are ignored.

    Args:
        root: Folder of the data.
        train: The training form, or else the validation form.

    Returns:
        The data set, sorted by class name, then by path.

    Raises:
        DataError: The folder is missing or empty, a class has no images, the validation form has a class
            that the training form lacks, or a pickle cannot be read.
    """
    top = Path(root)
    if not top.is_dir():
        raise DataError(f"no folder '{top}'. Give the folder that holds the images, one sub-folder per class.")
    cifar = _find_cifar(top)
    if cifar is not None:
        return _read_cifar(*cifar, train=train)
    train_folder = top / "train"
    # A folder 'train' that holds images directly is a class (of vehicles, say), not a split.
    if not (train_folder.is_dir() and _subfolders(train_folder)):
        return _read_classes(top, top, _subfolders(top))
    classes = _subfolders(train_folder)
    if train:
        return _read_classes(top, train_folder, classes)
    val_folder = top / "val"
    if not val_folder.is_dir():
        raise DataError(
            f"no folder '{val_folder}' for validation beside '{train_folder}'. "
            f"Add it, or give '{train_folder}' itself to use the same images for both."
        )
    if (val_folder / "val_annotations.txt").is_file():
        return _read_annotations(top, val_folder, classes)
    return _read_classes(top, val_folder, classes)


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def _image_files(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _image_files(entry.path)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.is_dir():
                yield entry.path


def _read_classes(top: Path, folder: Path, classes: list[str]) -> Dataset:
    present = _subfolders(folder)
    if not present:
        raise DataError(f"'{folder}' holds no class folders. Put the images into one sub-folder per class.")
    _check_known(set(present), classes, folder)
    number = {name: label for label, name in enumerate(classes)}
    paths: list[str] = []
    labels: list[int] = []
    for name in present:
        files = sorted(_image_files(str(folder / name)))
        if not files:
            raise DataError(
                f"class folder '{folder / name}' holds no images ({' '.join(IMAGE_SUFFIXES)}). "
                "Remove the folder or put images into it."
            )
        paths += files
        labels += [number[name]] * len(files)
    return _of_files(top, classes, labels, paths)


def _read_annotations(top: Path, val_folder: Path, classes: list[str]) -> Dataset:
    lines = (val_folder / "val_annotations.txt").read_text().splitlines()
    rows = sorted(tuple(line.split("\t")[:2]) for line in lines if line.strip())
    if not rows or any(len(row) < 2 for row in rows):
        raise DataError(
            f"'{val_folder / 'val_annotations.txt'}' is empty or has a line without a tab. "
            "Each line is a file name, a tab and its class; fetch the data set again."
        )
    _check_known({row[1] for row in rows}, classes, val_folder)
    number = {name: label for label, name in enumerate(classes)}
    paths = [str(val_folder / "images" / row[0]) for row in rows]
    return _of_files(top, classes, [number[row[1]] for row in rows], paths)


def _of_files(top: Path, classes: list[str], labels: list[int], paths: list[str]) -> Dataset:
    return Dataset(classes, np.array(labels, dtype=np.int64), str(top), paths=paths)


def _check_known(present: set[str], classes: list[str], folder: Path) -> None:
    unknown = sorted(present.difference(classes))
    if unknown:
        raise DataError(
            f"'{folder}' has {len(unknown)} class(es) that the training images lack: {', '.join(unknown[:5])}. "
            "Name the classes alike in both folders."
        )


# Folder, training pickles, validation pickles, file of names, key of labels, key of names.
_CIFAR = (
    ("cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"], "batches.meta",
     "labels", "label_names"),
    ("cifar-100-python", ["train"], ["test"], "meta", "fine_labels", "fine_label_names"),
)  # fmt: skip
_CIFAR_SIDE = 32


def _find_cifar(top: Path) -> tuple[Path, tuple] | None:
    for form in _CIFAR:
        for folder in (top, top / form[0]):
            if (folder / form[3]).is_file() and (folder / form[1][0]).is_file():
                return folder, form
    return None


def _read_cifar(folder: Path, form: tuple, *, train: bool) -> Dataset:
    _, train_files, val_files, meta_file, label_key, names_key = form
    files = train_files if train else val_files
    parts = [_unpickle(folder / name, ("data", label_key)) for name in files]
    names = _unpickle(folder / meta_file, (names_key,))[names_key]
    classes = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    flat = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE)
    labels = np.concatenate([np.asarray(part[label_key], dtype=np.int64) for part in parts])
    if len(labels) != len(flat) or not len(labels) or not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(f"the pickles in '{folder}' do not fit one another. Fetch the data set again.")
    images = np.ascontiguousarray(flat.transpose(0, 2, 3, 1), dtype=np.uint8)
    return Dataset(classes, labels, str(folder), images=images)


def _unpickle(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            # Written by Python 2, so the keys are bytes; by Python 3, str.
            content = pickle.load(file, encoding="bytes")
        named = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        return {key: named[key] for key in keys}
    except (OSError, EOFError, ValueError, KeyError, AttributeError, ImportError, pickle.UnpicklingError) as error:
        raise DataError(
            f"cannot read '{path}' as a CIFAR pickle: {type(error).__name__}: {error}. "
            "Fetch the data set again (the 'python version')."
        ) from error
