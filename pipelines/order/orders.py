"""The samples of an epoch, in their order: always a function of the epoch alone, so that an epoch can be resumed."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .. import draws


class Order(ABC):
    """Returns the samples of an epoch: their places in the data set, (n,) int64. n is at least 1.

    Attributes:
        interleaved: Whether neighbours in the order go to different ranks, and not to one as far as possible.
        is_given: Whether the samples are the user's, and do not follow from the configuration.
        is_partial: Whether samples may be left out on purpose, and so may not replace bad files either.
    """

    interleaved: ClassVar[bool] = False
    is_given: ClassVar[bool] = False
    is_partial: bool = False

    @abstractmethod
    def __call__(self, epoch: int) -> np.ndarray: ...

    @property
    @abstractmethod
    def description(self) -> str:
        """What the configuration states of it."""


@dataclass(frozen=True)
class InOrder(Order):
    """Every sample once, as in the data set."""

    count: int
    description = "as in the data set"

    def __call__(self, epoch: int) -> np.ndarray:
        return np.arange(self.count)


@dataclass(frozen=True)
class Shuffled(Order):
    """Every sample once, in an order that is drawn for each epoch."""

    count: int
    seed: int
    description = "shuffled"

    def __call__(self, epoch: int) -> np.ndarray:
        return draws.epoch_order(self.count, self.seed, epoch)


@dataclass(frozen=True, eq=False)
class Weighted(Order):
    """As many samples as the data set has, drawn independently in proportion to `weights`, (n,) float64."""

    weights: np.ndarray
    seed: int
    is_partial = True

    @property
    def description(self) -> str:
        return f"drawn by {len(self.weights)} weights, {hash_of(self.weights)}"

    def __call__(self, epoch: int) -> np.ndarray:
        return draws.epoch_choice(self.weights, self.seed, epoch)


@dataclass(frozen=True)
class Repeated(Order):
    """The first samples of another order, `copies` times each in succession; an epoch keeps its length."""

    order: Order
    copies: int
    interleaved = True

    @property
    def is_partial(self) -> bool:  # type: ignore[override]
        return self.order.is_partial

    @property
    def description(self) -> str:
        return f"{self.order.description}, each {self.copies} times"

    def __call__(self, epoch: int) -> np.ndarray:
        order = self.order(epoch)
        copies = min(self.copies, len(order))
        return np.repeat(order[: -(-len(order) // copies)], copies)[: len(order)]


def hash_of(array: np.ndarray) -> str:
    """Return a hash of the content of an array."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
