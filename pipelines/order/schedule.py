"""The batches of an epoch, and the share that each process has of them."""

from functools import lru_cache

import numpy as np

from .. import draws
from ..readers.base import DataError
from .orders import Order, hash_of


class Schedule:
    """Which samples are in which batch of this process.

    Args:
        order: Of the samples of an epoch.
        batch_size, rank, world_size, drop_last: See `image_loader`.
        root, kind: Of the data set, for messages: its folder, and "training" or "validation".
    """

    def __init__(
        self, order: Order, *, batch_size: int, rank: int, world_size: int, drop_last: bool, root: str, kind: str
    ) -> None:
        self._interleaved = order.interleaved
        self._batch_size = batch_size
        self._rank, self._world_size = rank, world_size
        self._drop_last = drop_last
        self._root, self._kind = root, kind
        self.order = lru_cache(maxsize=2)(order)  # of this epoch, and of the next, which is made ahead
        self._is_given, self._is_partial = order.is_given, order.is_partial

    def global_batches(self, epoch: int) -> int:
        """Return the number of batches of all processes together.

        Raises:
            DataError: A process would have none. Raised on all ranks, so that none waits for the others.
        """
        count, global_batch = len(self.order(epoch)), self._world_size * self._batch_size
        if count < self._world_size:
            raise DataError(
                f"{self._counted(epoch)} for {self._world_size} processes. Start at most as many as there are images."
            )
        if not self._drop_last:
            return -(-count // global_batch)
        if count < global_batch:
            raise DataError(
                f"{self._counted(epoch)}, less than one global batch of {self._world_size} × {self._batch_size}, which "
                "drop_last drops. Lower the batch size, or keep the last batch."
            )
        return count // global_batch

    def _counted(self, epoch: int) -> str:
        count = len(self.order(epoch))
        if self._is_given:
            return f"the sampler has {count} {self._kind} images in epoch {epoch}"
        return f"'{self._root}' has {count} {self._kind} images"

    def batches(self, epoch: int) -> int:
        """Return the number of batches of this process, at least 1."""
        together = self.global_batches(epoch)
        return together - (not len(self.positions(epoch, together - 1)))

    def samples(self, epoch: int) -> int:
        """Return the number of samples of this process."""
        together = self.global_batches(epoch)
        return (together - 1) * self._batch_size + len(self.positions(epoch, together - 1))

    def positions(self, epoch: int, batch: int) -> range:
        """Return the positions in the epoch of a batch of this process."""
        count = len(self.order(epoch))
        return draws.shard(batch, count, self._batch_size, self._rank, self._world_size, interleaved=self._interleaved)

    def indices(self, epoch: int, positions: range) -> np.ndarray:
        """Return the samples at these positions of an epoch."""
        return self.order(epoch)[positions.start : positions.stop : positions.step]

    def spares(self, epoch: int, numbers: np.ndarray) -> np.ndarray:
        """Return samples that may replace others, drawn by numbers in [0, 1), (n,): (n,) int64.

        They are of the whole data set; of the epoch, where the user chose its samples.
        """
        order = self.order(epoch)
        places = (numbers * len(order)).astype(np.int64)
        return order[places] if self._is_partial else places

    def digest(self, epoch: int) -> str | None:
        """Return a hash of the samples of an epoch, if they do not follow from the configuration.

        None too if there are none: a sampler need not know the epoch after the last one.
        """
        if not self._is_given:
            return None
        try:
            indices = self.order(epoch)
        except Exception:  # whatever a sampler raises
            return None
        return f"{len(indices)} indices, {hash_of(indices)}"
