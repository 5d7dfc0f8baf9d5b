"""Image-level augmentation policies as data: which operation, with which parameter, drawn on the host.

The operations and their magnitudes are those of DALI's `nvidia.dali.auto_aug`, read off its suites.
"""

import os
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from nvidia.dali.auto_aug import rand_augment, trivial_augment

from ..arguments import require
from .augmix import AugMix
from .operations import MAX_TRANSLATE, Entry, PolicyDraw, Table, pick, tabulate
from .sub_policies import FILE_SUFFIXES, AutoAugment, SubPolicies
from .transforms import TRANSFORMS

NUM_BINS = 31  # magnitudes of RandAugment and TrivialAugment are 0 … 30


@runtime_checkable
class Policy(Protocol):
    """A distribution over sequences of operations. `repr` must tell two different policies apart."""

    @property
    def chains(self) -> int:
        """Number of sequences, each applied to the image as it was; the results of several are summed by weights."""

    @property
    def stages(self) -> int:
        """Number of operations applied one after the other, in each chain."""

    @property
    def uniforms(self) -> int:
        """Random numbers needed per image."""

    def operations(self, size: int) -> tuple[str, ...]:
        """Names of the operations that may be drawn."""

    def draw(self, numbers: np.ndarray, size: int) -> PolicyDraw:
        """Maps (B, uniforms) numbers in [0, 1) to operations on images of `size`×`size` pixels."""


@dataclass(frozen=True)
class RandAugment:
    """RandAugment (Cubuk et al., 2020, §3): n operations, each uniform over 14, all of magnitude m.

    DALI's suite, in which strength grows with m and signs are random; translations reach 150/331 of the side.
    m = 0 is not the identity: equalize and auto-contrast have no magnitude.

    Args:
        n: Operations per image, at least 1.
        m: Magnitude, 0 … 30.

    Raises:
        ValueError: An argument is out of its range.
    """

    chains: ClassVar[int] = 1
    n: int = 2
    m: int = 9

    def __post_init__(self) -> None:
        require("n", self.n, "an integer of at least 1", isinstance(self.n, int) and self.n >= 1)
        legal = f"an integer from 0 to {NUM_BINS - 1}"
        require("m", self.m, legal, isinstance(self.m, int) and 0 <= self.m < NUM_BINS)

    @property
    def stages(self) -> int:
        return self.n

    @property
    def uniforms(self) -> int:
        return 2 * self.n

    def operations(self, size: int) -> tuple[str, ...]:
        return _rand_augment_table(self.m, size).names

    def draw(self, numbers: np.ndarray, size: int) -> PolicyDraw:
        table = _rand_augment_table(self.m, size)
        return table.take(pick(numbers[:, : self.n], len(table.operations)), pick(numbers[:, self.n :], 2))


def _entries(suite: list[Any], bins: range) -> list[Entry]:
    entries = []
    for aug in suite:
        low, high = aug.mag_range or (0, 0)
        scale = np.linspace(low, high, NUM_BINS, dtype=np.float32)
        entries += [Entry.of(aug, scale[place]) for place in bins]
    return entries


@cache
def _rand_augment_table(m: int, size: int) -> Table:
    suite = rand_augment.get_rand_augment_suite(use_shape=True, max_translate_rel=MAX_TRANSLATE)
    return tabulate(_entries(suite, range(m, m + 1)), size)


@dataclass(frozen=True)
class TrivialAugment:
    """TrivialAugment, wide space (Müller and Hutter, 2021, §3): one operation, uniform, of uniform magnitude.

    Translations reach 32 pixels whatever the image's size, as in the paper.
    """

    chains: ClassVar[int] = 1
    stages: ClassVar[int] = 1
    uniforms: ClassVar[int] = 3

    def operations(self, size: int) -> tuple[str, ...]:
        return _trivial_augment_table(size).names

    def draw(self, numbers: np.ndarray, size: int) -> PolicyDraw:
        table = _trivial_augment_table(size)
        operation = pick(numbers[:, :1], len(table.operations) // NUM_BINS)
        entry = operation * NUM_BINS + pick(numbers[:, 1:2], NUM_BINS)
        return table.take(entry, pick(numbers[:, 2:3], 2))


@cache
def _trivial_augment_table(size: int) -> Table:
    suite = trivial_augment.get_trivial_augment_wide_suite()
    return tabulate(_entries(suite, range(NUM_BINS)), size, relative=False)


POLICIES: dict[str, Policy] = {
    "autoaugment": AutoAugment("imagenet"),
    "autoaugment_cifar10": AutoAugment("cifar10"),
    "autoaugment_svhn": AutoAugment("svhn"),
    "randaugment": RandAugment(),
    "trivialaugment": TrivialAugment(),
    "augmix": AugMix(),
    **TRANSFORMS,
}


def find_policy(policy: str | os.PathLike[str]) -> Policy:
    """The policy of a name in `POLICIES`, or of a file, see `SubPolicies.from_file`.

    Raises:
        ValueError: It is neither; or the file is not one of a policy.
    """
    name = os.fspath(policy)
    if name in POLICIES:
        return POLICIES[name]
    if name.endswith(FILE_SUFFIXES):
        return SubPolicies.from_file(name)
    raise ValueError(
        f"policy must be one of {', '.join(POLICIES)}, or a file that ends in {', '.join(FILE_SUFFIXES)}; got {name!r}"
    )
