"""CIFAR-10's and CIFAR-100's pickles, the "python version"."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import Dataset
from ..readers.base import DataError
from ..readers.pixels import Pixels
from ..readers.untrusted import read_bytes, untrusted
from . import pickles

# Folder, training pickles, validation pickles, file of names, key of labels, key of names.
_CIFAR = (
    ("cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"], "batches.meta",
     "labels", "label_names"),
    ("cifar-100-python", ["train"], ["test"], "meta", "fine_labels", "fine_label_names"),
)  # fmt: skip
_CIFAR_SIDE = 32
_LIMIT = 2**30  # bytes of a pickle; CIFAR-100's has 0.16 · 10⁹


def find(top: Path) -> tuple[Path, tuple] | None:
    """Return the folder of the pickles and their form, the arguments of `read`; None where there are no pickles."""
    for form in _CIFAR:
        for folder in (top, top / form[0]):
            if all(os.path.lexists(path) and not path.is_dir() for path in (folder / form[3], folder / form[1][0])):
                return folder, form
    return None


def read(folder: Path, form: tuple, *, train: bool) -> Dataset:
    """Read the training or the validation images.

    Raises:
        DataError: A pickle cannot be read, or they do not fit one another.
    """
    _, train_files, val_files, meta_file, label_key, names_key = form
    classes = _names(folder / meta_file, names_key)
    parts = [_part(folder / name, label_key, len(classes)) for name in (train_files if train else val_files)]
    flat = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([numbers for _, numbers in parts])
    images = np.ascontiguousarray(flat.transpose(0, 2, 3, 1))
    return Dataset(classes, labels, str(folder), Pixels(images, str(folder)))


def _names(path: Path, key: str) -> list[str]:
    (names,) = _unpickle(path, key)
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes | str) for name in names):
        raise _malformed(path, f"'{key}' must be a list of names")
    with untrusted(path, "a CIFAR pickle"):
        return [name.decode() if isinstance(name, bytes) else name for name in names]


def _part(path: Path, label_key: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images, (n, 3, 32, 32) uint8, and labels, (n,) int64."""
    data, labels = _unpickle(path, "data", label_key)
    side = (3, _CIFAR_SIDE, _CIFAR_SIDE)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] not in ((3 * 32 * 32,), side):
        got = f"{data.dtype} of shape {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise _malformed(path, f"'data' must be an array of uint8 of shape (n, 3072), got {got}")
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "iu" and labels.ndim == 1:
        labels = labels.tolist()
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise _malformed(path, f"'{label_key}' must be a list of integers")
    if not 0 < len(labels) == len(data):
        raise _malformed(path, f"it has {len(data)} images and {len(labels)} labels")
    if not all(0 <= label < classes for label in labels):
        raise _malformed(path, f"'{label_key}' must be from 0 to {classes - 1}, the number of a class")
    return data.reshape(-1, *side), np.array(labels, dtype=np.int64)


def _malformed(path: Path, reason: str) -> DataError:
    return DataError(f"'{path}' is no CIFAR pickle: {reason}. Fetch the data set again (the 'python version').")


def _unpickle(path: Path, *keys: str) -> list[Any]:
    with untrusted(path, "a CIFAR pickle (the 'python version')"):
        content = pickles.load(read_bytes(path, _LIMIT))
        if not isinstance(content, dict):
            raise _malformed(path, f"it holds a {type(content).__name__} in place of a dict")
        # Written by Python 2, the keys are bytes; by Python 3, str.
        named = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        missing = [key for key in keys if key not in named]
        if missing:
            raise _malformed(path, f"it has no '{missing[0]}'")
        return [named[key] for key in keys]
