"""CIFAR-10's and CIFAR-100's pickles, the "python version"."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import Dataset
from ..readers.base import DataError
from ..readers.pixels import Pixels

# Folder, training pickles, validation pickles, file of names, key of labels, key of names.
_CIFAR = (
    ("cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"], "batches.meta",
     "labels", "label_names"),
    ("cifar-100-python", ["train"], ["test"], "meta", "fine_labels", "fine_label_names"),
)  # fmt: skip
_CIFAR_SIDE = 32


def find(top: Path) -> tuple[Path, tuple] | None:
    """Return the folder of the pickles and their form, the arguments of `read`; None where there are no pickles."""
    for form in _CIFAR:
        for folder in (top, top / form[0]):
            if (folder / form[3]).is_file() and (folder / form[1][0]).is_file():
                return folder, form
    return None


def read(folder: Path, form: tuple, *, train: bool) -> Dataset:
    """Read the training or the validation images.

    Raises:
        DataError: A pickle cannot be read, or they do not fit one another.
    """
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
    return Dataset(classes, labels, str(folder), Pixels(images, str(folder)))


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
