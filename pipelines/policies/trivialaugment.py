"""TrivialAugment: one operation, of any magnitude."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from nvidia.dali.auto_aug import trivial_augment

from .base import PolicyDraw
from .operations import NUM_BINS, Table, entries_of, pick, tabulate


@dataclass(frozen=True)
class TrivialAugment:
    """TrivialAugment, wide space (Müller and Hutter, 2021, §3): one operation, uniform, of uniform magnitude.

    Translations reach 32 pixels, whatever the image's size, as in the paper.
    """

    chains: ClassVar[int] = 1
    stages: ClassVar[int] = 1
    uniforms: ClassVar[int] = 3

    def operations(self, size: tuple[int, int]) -> tuple[str, ...]:
        return _table(size).names

    def draw(self, numbers: np.ndarray, size: tuple[int, int]) -> PolicyDraw:
        table = _table(size)
        operation = pick(numbers[:, :1], len(table.operations) // NUM_BINS)
        entry = operation * NUM_BINS + pick(numbers[:, 1:2], NUM_BINS)
        return table.take(entry, pick(numbers[:, 2:3], 2))


@cache
def _table(size: tuple[int, int]) -> Table:
    return tabulate(entries_of(trivial_augment.get_trivial_augment_wide_suite(), range(NUM_BINS)), size, relative=False)
