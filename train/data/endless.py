"""The order of images that are passed over again and again, whatever the length of an epoch."""

import numpy as np

from pipelines.draws import epoch_order


class Endless:
    """The samples of a loader that passes over its images again and again, whatever the length of an epoch.

    Each pass has a new order. The sample at a position is a function of seed, epoch and position.

    Args:
        count: number of images.
        length: samples in an epoch.
        seed: of the orders.
    """

    def __init__(self, count: int, length: int, seed: int) -> None:
        self.count, self.length, self.seed = count, length, seed

    def __call__(self, epoch: int) -> np.ndarray:
        first, skipped = divmod(epoch * self.length, self.count)
        passes = range(first, first - (-(skipped + self.length) // self.count))
        orders = [epoch_order(self.count, self.seed, number) for number in passes]
        return np.concatenate(orders)[skipped : skipped + self.length]
