"""RandAugment: several operations, all of one magnitude."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
from nvidia.dali.auto_aug import rand_augment

from ..arguments import whole
from .base import PolicyDraw
from .operations import MAX_STAGES, MAX_TRANSLATE, NUM_BINS, Table, entries_of, pick, tabulate


@dataclass(frozen=True)
class RandAugment:
    """RandAugment (Cubuk et al., 2020, §3): n operations, each uniform over 14, all of magnitude m.

    DALI's suite, in which strength grows with m and signs are random; translations reach 150/331 of the side.
    m = 0 is not the identity: equalize and auto-contrast have no magnitude.

    Args:
        n: Operations per image, from 1 to 32.
        m: Magnitude, 0 … 30.

    Raises:
        ValueError: An argument is out of its range.
    """

    chains: ClassVar[int] = 1
    n: int = 2
    m: int = 9

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", whole("n", self.n, 1, MAX_STAGES))
        object.__setattr__(self, "m", whole("m", self.m, 0, NUM_BINS - 1))

    @property
    def stages(self) -> int:
        return self.n

    @property
    def uniforms(self) -> int:
        return 2 * self.n

    def operations(self, size: tuple[int, int]) -> tuple[str, ...]:
        return _table(self.m, size).names

    def draw(self, numbers: np.ndarray, size: tuple[int, int]) -> PolicyDraw:
        table = _table(self.m, size)
        return table.take(pick(numbers[:, : self.n], len(table.operations)), pick(numbers[:, self.n :], 2))


@cache
def _table(m: int, size: tuple[int, int]) -> Table:
    suite = rand_augment.get_rand_augment_suite(use_shape=True, max_translate_rel=MAX_TRANSLATE)
    return tabulate(entries_of(suite, range(m, m + 1)), size)
