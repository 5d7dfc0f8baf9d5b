"""The labels of a data set, of any kind: checked, chosen from, hashed, and gathered on the device."""

from collections.abc import Iterator

import numpy as np
import torch

from ..arguments import refuse, require
from .objects import Objects

Labels = np.ndarray | dict[str, np.ndarray] | Objects
LEGAL = (
    "(n,) integers, (n,) floats, (n, K) floats or zeros and ones, one row for each image, or a dictionary of arrays "
    "(n, ...) by name"
)
_LARGEST_ON_DEVICE = 2**28  # bytes of an array; ImageNet's with 1000 shares for each image has 5 · 10⁹
_FEW = 1000  # unnamed classes that a data set of any size may have,
_PER_IMAGE = 100  # and those that it may have for each image: more are no classes, but damage


def most_classes(images: int) -> int:
    """Return the number of classes without names that so many images may have."""
    return _FEW + _PER_IMAGE * images


def as_labels(value: object) -> Labels:
    """Return labels as a data set keeps them: integers as int64, all others as float32.

    Raises:
        ValueError: They are of another type or shape.
    """
    if isinstance(value, Objects):
        return value
    if isinstance(value, dict):
        require("labels", value, LEGAL, all(isinstance(name, str) for name in value))
        return {
            name: _numbers(f"labels[{name!r}]", entry, "an array (n, ...) of numbers") for name, entry in value.items()
        }
    labels = _numbers("labels", value, LEGAL)
    require("labels", value, LEGAL, labels.ndim <= 2)
    if labels.ndim == 2 and labels.dtype == np.int64:
        only = f"{LEGAL}; (n, K) integers must be 0 or 1"
        require("labels", value, only, not labels.size or (labels.min() >= 0 and labels.max() <= 1))
        return labels.astype(np.float32)
    return labels


def _numbers(name: str, value: object, legal: str) -> np.ndarray:
    array = as_array(name, value, legal)
    require(name, value, legal, array.ndim >= 1)
    if array.ndim == 1 and not array.size and array.dtype != np.float32:  # no list has that
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind in "iu":
        return as_int64(name, array, legal)
    require(name, value, legal, array.dtype.kind in "bf")
    with np.errstate(over="ignore"):  # what is not finite is refused by others
        return np.require(array, np.float32, ["C", "W"])


def as_array(name: str, value: object, legal: str) -> np.ndarray:
    """Return a value as an array.

    Raises:
        ValueError: It is none.
    """
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError, RuntimeError):  # ragged lists and tensors on a GPU, among others
        refuse(name, value, legal)


def as_int64(name: str, array: np.ndarray, legal: str) -> np.ndarray:
    """Return an array of integers as int64.

    Raises:
        ValueError: One is too large.
    """
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        refuse(name, array.max(), legal)
    return np.require(array, np.int64, ["C", "W"])


def unknown(labels: Labels) -> np.ndarray:
    """Return the places of the images whose label is not known: −1, or not finite.

    Dictionaries and objects are not looked into.
    """
    if isinstance(labels, dict | Objects):
        return np.empty(0, dtype=np.int64)
    if labels.dtype == np.int64:
        return np.flatnonzero(labels < 0)
    return np.flatnonzero(~np.isfinite(labels).all(axis=tuple(range(1, labels.ndim))))


def take(labels: Labels, places: np.ndarray) -> Labels:
    """Return the labels at some places."""
    if isinstance(labels, dict):
        return {name: array[places] for name, array in labels.items()}
    if isinstance(labels, Objects):
        return labels.take(places)
    return labels[places]


def identity(labels: Labels) -> Iterator[bytes]:
    """Yield what distinguishes labels."""
    if isinstance(labels, Objects):
        yield from labels.identity()
        return
    if isinstance(labels, dict):
        for name in sorted(labels):
            yield name.encode("utf-8", "surrogateescape") + b"\0"
            yield from identity(labels[name])
        yield b"a dictionary"
        return
    if labels.dtype != np.int64 or labels.ndim != 1:
        yield f"{labels.dtype} {labels.shape}".encode()
    yield np.ascontiguousarray(labels).tobytes()


class LabelTable:
    """Labels, from which those of a batch are gathered on the device, without a wait for it.

    Arrays of more than 256 MB stay in the host's memory; of those, a batch is copied from pinned memory.
    """

    def __init__(self, labels: np.ndarray | dict[str, np.ndarray], device: torch.device) -> None:
        self._labels = labels
        self._device = device
        arrays = labels if isinstance(labels, dict) else {"": labels}
        self._host = {name: torch.from_numpy(array) for name, array in arrays.items()}
        small = (name for name, array in arrays.items() if array.nbytes <= _LARGEST_ON_DEVICE)
        self._there = {name: self._host[name].to(device) for name in small}

    def __call__(self, indices: torch.Tensor, same: np.ndarray) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return the labels of a batch.

        Args:
            indices: Their places, (B,) int64, on the device.
            same: The same, on the host.
        """
        found = {name: self._gather(name, indices, same) for name in self._host}
        return found if isinstance(self._labels, dict) else found[""]

    def _gather(self, name: str, indices: torch.Tensor, same: np.ndarray) -> torch.Tensor:
        if name in self._there:
            return self._there[name][indices]
        chosen = self._host[name][torch.from_numpy(same)]
        return chosen if self._device.type == "cpu" else chosen.pin_memory().to(self._device, non_blocking=True)
