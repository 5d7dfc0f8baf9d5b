"""Orders of the user's making: samplers and weights, checked."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import islice
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import torch

from ..arguments import refuse, require
from ..datasets import Dataset
from .orders import InOrder, Order, Repeated, Shuffled, Weighted

Sampler: TypeAlias = Iterable[Any] | Callable[[int], Iterable[Any]]
Weights: TypeAlias = str | Sequence[float] | np.ndarray | torch.Tensor

_MOST = 2**28  # indices of an epoch, 2 GiB: an iterable that never ends is an error before the memory is full
# What can be iterated over, though its elements are no indices or in no order.
_NO_INDICES = (type, str, bytes, bytearray, memoryview, Mapping, Set)


def choose_order(
    dataset: Dataset,
    *,
    shuffle: bool,
    sampler: Sampler | None,
    weights: Weights | None,
    repeats: int,
    seed: int,
) -> Order:
    """Return the order that the arguments of `image_loader` describe.

    Raises:
        ValueError: `sampler`, `weights` or `repeats` is none, or does not fit the others or the data set.
    """
    order: Order
    if sampler is not None:
        require("weights", weights, "None with a sampler", weights is None)
        require("repeats", repeats, "1 with a sampler, which can repeat the indices", repeats == 1)
        return Sampled(sampler, len(dataset))
    if weights is not None:
        order = Weighted(_checked_weights(weights, dataset), seed)
    else:
        order = Shuffled(len(dataset), seed) if shuffle else InOrder(len(dataset))
        legal = "1 in the data set's order, of which each epoch would have the same first part"
        require("repeats", repeats, legal, repeats == 1 or shuffle)
    return order if repeats == 1 else Repeated(order, repeats)


class Sampled(Order):
    """What a sampler returns for an epoch.

    Args:
        sampler: See `image_loader`.
        count: Number of samples in the data set.

    Raises:
        ValueError: It is no sampler. When called: it returned something else than indices for that epoch.
    """

    is_given = is_partial = True
    description = "of a sampler"

    def __init__(self, sampler: Sampler, count: int) -> None:
        self._count = count
        self._legal = f"integers from 0 to {count - 1}, at least one"
        if not (_is_iterable(sampler) or _is_function(sampler)):
            legal = f"None, an iterable of {self._legal}, or a function of the epoch that returns such an iterable"
            refuse("sampler", sampler, legal)
        if getattr(sampler, "num_replicas", 1) != 1:
            legal = "one for all processes (num_replicas=1), as the loader's rank and world_size divide the epoch"
            refuse("sampler", sampler, legal)
        self._sampler: Any = sampler
        self._set_epoch = getattr(sampler, "set_epoch", None)
        self._fixed: np.ndarray | None = None
        if _is_iterable(sampler) and self._set_epoch is None:
            self._fixed = self._checked("sampler", sampler)

    def __call__(self, epoch: int) -> np.ndarray:
        if self._fixed is not None:
            return self._fixed
        if self._set_epoch is None:
            indices = self._sampler(epoch)
        else:
            self._set_epoch(epoch)
            indices = self._sampler
        return self._checked(f"indices of sampler in epoch {epoch}", indices)

    def _checked(self, name: str, indices: Any) -> np.ndarray:
        """Return indices as a new array, (n,) int64."""
        require(name, indices, self._legal, _is_iterable(indices))
        if isinstance(indices, torch.Tensor):
            indices = indices.detach().cpu().numpy()
        if not isinstance(indices, np.ndarray):
            indices = self._array(name, indices)
        if indices.dtype == bool:
            refuse(name, indices, f"{self._legal} (of a mask: numpy.flatnonzero(mask))")
        require(name, indices, self._legal, indices.ndim == 1 and np.issubdtype(indices.dtype, np.integer))
        require(name, indices, self._legal, len(indices) > 0)
        for outside in indices[(indices < 0) | (indices >= self._count)][:1]:
            refuse(name, outside, self._legal)
        return indices.astype(np.int64)

    def _array(self, name: str, indices: Iterable[Any]) -> np.ndarray:
        items = list(islice(indices, _MOST + 1))
        require(name, f"more than {_MOST}", f"{self._legal}, at most {_MOST}", len(items) <= _MOST)
        kinds = set(map(type, items))
        if kinds and kinds <= {bool, np.bool_}:
            return np.array(items)
        if kinds != {int}:
            items = [self._index(name, item) for item in items]
        try:
            return np.array(items, dtype=np.int64)
        except OverflowError:
            refuse(name, max(items, key=abs), self._legal)

    def _index(self, name: str, item: Any) -> int:
        if isinstance(item, torch.Tensor) and item.ndim == 0:
            item = item.item()  # of samplers that iterate over a tensor
        if isinstance(item, list | tuple | np.ndarray | torch.Tensor):
            refuse(name, item, f"{self._legal}, and no batches of them, as batch_size divides the epoch")
        if not isinstance(item, Integral) or isinstance(item, bool):
            refuse(name, item, self._legal)
        return int(item)


def _is_iterable(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, _NO_INDICES)


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type)


def _checked_weights(weights: Weights, dataset: Dataset) -> np.ndarray:
    """Return weights as (n,) float64, the largest of which is 1."""
    if isinstance(weights, str) and weights == "balanced":
        dataset.require_labels()
        labels = dataset.class_indices
        counts = np.bincount(labels, minlength=len(dataset.classes))
        return counts[counts > 0].min() / counts[labels]
    legal = f"None, 'balanced' or {len(dataset)} finite numbers of at least 0, not all of them 0"
    if isinstance(weights, torch.Tensor):
        weights = weights.detach().cpu().double().numpy() if weights.dtype.is_floating_point else weights.cpu().numpy()
    require("weights", weights, legal, isinstance(weights, list | tuple) or hasattr(weights, "__array__"))
    try:
        array = np.asarray(weights)
    except (ValueError, TypeError, OverflowError):  # ragged, among others
        refuse("weights", weights, legal)
    is_numbers = np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)
    require("weights", weights, legal, is_numbers and array.shape == (len(dataset),))
    array = array.astype(np.float64)
    for wrong in array[~(np.isfinite(array) & (array >= 0))][:1]:
        refuse("weights", wrong, legal)
    require("weights", weights, legal, array.max() > 0)
    return array / array.max()
