"""Image-level augmentation policies as data: which operation, with which parameter, drawn on the host.

The operations and their magnitudes are those of DALI's `nvidia.dali.auto_aug`, read off its suites; `graph.py`
applies what is drawn here.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from nvidia.dali.auto_aug import auto_augment, rand_augment, trivial_augment

NUM_BINS = 31  # magnitudes of RandAugment and TrivialAugment are 0 … 30
IDENTITY, WARP = "identity", "warp"
PARAMETERS = 9  # the longest parameter is sharpness's 3×3 kernel
_GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
# Of the side: 150 pixels of AutoAugment's 331; torchvision's maximum for AutoAugment and RandAugment.
_MAX_TRANSLATE = 150 / 331


class Drawn(NamedTuple):
    """What a policy does to each image of a batch.

    operations: (B, stages) int32, indices into the policy's `operations(size)`.
    parameters: (B, stages, 9) float32, what the operation takes, from the first place on.
    matrices: (B, stages, 2, 3) float32, source to destination, in pixels (x, y) with centres at +0.5; the
        identity for operations that move nothing.
    """

    operations: np.ndarray
    parameters: np.ndarray
    matrices: np.ndarray


@runtime_checkable
class Policy(Protocol):
    """A distribution over sequences of operations. `repr` must tell two different policies apart."""

    @property
    def stages(self) -> int:
        """Number of operations applied one after the other."""

    @property
    def uniforms(self) -> int:
        """Random numbers needed per image."""

    def operations(self, size: int) -> tuple[str, ...]:
        """Names of the operations that may be drawn."""

    def draw(self, numbers: np.ndarray, size: int) -> Drawn:
        """Maps (B, uniforms) numbers in [0, 1) to operations on images of `size`×`size` pixels."""


class _Table(NamedTuple):
    """Entries a policy chooses from; the sign of the magnitude is the second index."""

    names: tuple[str, ...]
    operations: np.ndarray  # (entries,)
    parameters: np.ndarray  # (entries, 2, 9)
    matrices: np.ndarray  # (entries, 2, 2, 3)

    def take(self, entries: np.ndarray, signs: np.ndarray) -> Drawn:
        return Drawn(self.operations[entries], self.parameters[entries, signs], self.matrices[entries, signs])


def _geometry(name: str, parameter: np.ndarray, size: int) -> np.ndarray:
    if name == "rotate":
        # Counter-clockwise as seen; y points down.
        cos, sin = np.cos(np.radians(parameter)), np.sin(np.radians(parameter))
        centre = size / 2
        return np.array([[cos, sin, centre * (1 - cos - sin)], [-sin, cos, centre * (1 - cos + sin)]], dtype=np.float32)
    x, y = parameter
    if name.startswith("shear"):
        return np.array([[1, x, 0], [y, 1, 0]], dtype=np.float32)
    return np.array([[1, 0, x], [0, 1, y]], dtype=np.float32)


def _tabulate(entries: list[tuple], num_bins: int, size: int, relative: bool) -> _Table:
    """Turns entries (DALI augmentation, bin) into arrays. `relative`: translations are shares of the side."""
    names = sorted({IDENTITY, *(WARP if aug.name in _GEOMETRIC else aug.name for aug, _ in entries)})
    operations = np.zeros(len(entries), dtype=np.int32)
    parameters = np.zeros((len(entries), 2, PARAMETERS), dtype=np.float32)
    matrices = np.tile(np.eye(2, 3, dtype=np.float32), (len(entries), 2, 1, 1))
    for row, (aug, magnitude_bin) in enumerate(entries):
        geometric = aug.name in _GEOMETRIC
        operations[row] = names.index(WARP if geometric else aug.name)
        if aug.mag_range is None:
            continue
        low, high = aug.mag_range
        magnitude = np.linspace(low, high, num_bins, dtype=np.float32)[magnitude_bin]
        for column, sign in enumerate((1, -1)):
            parameter = np.asarray(aug.mag_to_param(magnitude * (sign if aug.randomly_negate else 1)))
            if geometric:
                scale = size if relative and aug.name.startswith("translate") else 1
                matrices[row, column] = _geometry(aug.name, parameter * scale, size)
            else:
                parameters[row, column, : parameter.size] = parameter.ravel()
    return _Table(tuple(names), operations, parameters, matrices)


def _pick(numbers: np.ndarray, count: int) -> np.ndarray:
    return (numbers * count).astype(np.int64)


@dataclass(frozen=True)
class RandAugment:
    """RandAugment (Cubuk et al., 2020, §3): n operations, each uniform over 14, all of magnitude m.

    DALI's suite, in which strength grows with m and signs are random; translations reach 150/331 of the side.
    m = 0 is not the identity: equalize and auto-contrast have no magnitude.

    Args:
        n: Operations per image, at least 1.
        m: Magnitude, 0 … 30.
    """

    n: int = 2
    m: int = 9

    def __post_init__(self) -> None:
        if not isinstance(self.n, int) or self.n < 1:
            raise ValueError(f"n must be an integer of at least 1, got {self.n!r}")
        if not isinstance(self.m, int) or not 0 <= self.m < NUM_BINS:
            raise ValueError(f"m must be an integer from 0 to {NUM_BINS - 1}, got {self.m!r}")

    @property
    def stages(self) -> int:
        return self.n

    @property
    def uniforms(self) -> int:
        return 2 * self.n

    def operations(self, size: int) -> tuple[str, ...]:
        return _rand_augment_table(self.m, size).names

    def draw(self, numbers: np.ndarray, size: int) -> Drawn:
        table = _rand_augment_table(self.m, size)
        return table.take(_pick(numbers[:, : self.n], len(table.operations)), _pick(numbers[:, self.n :], 2))


@cache
def _rand_augment_table(m: int, size: int) -> _Table:
    suite = rand_augment.get_rand_augment_suite(use_shape=True, max_translate_rel=_MAX_TRANSLATE)
    return _tabulate([(aug, m) for aug in suite], NUM_BINS, size, relative=True)


@dataclass(frozen=True)
class TrivialAugment:
    """TrivialAugment, wide space (Müller and Hutter, 2021, §3): one operation, uniform, of uniform magnitude.

    Translations reach 32 pixels whatever the image's size, as in the paper.
    """

    @property
    def stages(self) -> int:
        return 1

    @property
    def uniforms(self) -> int:
        return 3

    def operations(self, size: int) -> tuple[str, ...]:
        return _trivial_augment_table(size).names

    def draw(self, numbers: np.ndarray, size: int) -> Drawn:
        table = _trivial_augment_table(size)
        operation = _pick(numbers[:, :1], len(table.operations) // NUM_BINS)
        entry = operation * NUM_BINS + _pick(numbers[:, 1:2], NUM_BINS)
        return table.take(entry, _pick(numbers[:, 2:3], 2))


@cache
def _trivial_augment_table(size: int) -> _Table:
    suite = trivial_augment.get_trivial_augment_wide_suite()
    return _tabulate([(aug, i) for aug in suite for i in range(NUM_BINS)], NUM_BINS, size, relative=False)


_AUTO_AUGMENT = {
    "imagenet": auto_augment.get_image_net_policy,
    "cifar10": auto_augment.get_reduced_cifar10_policy,
    "svhn": auto_augment.get_svhn_policy,
}


@dataclass(frozen=True)
class AutoAugment:
    """AutoAugment (Cubuk et al., 2019, §3 and appendix): one of 25 learned pairs of operations, each with its
    own probability and magnitude; translations reach 150/331 of the side.

    Args:
        learned_on: The data the policy was learned on: "imagenet", "cifar10" or "svhn".
    """

    learned_on: str = "imagenet"

    def __post_init__(self) -> None:
        if self.learned_on not in _AUTO_AUGMENT:
            raise ValueError(f"learned_on must be one of {', '.join(_AUTO_AUGMENT)}, got {self.learned_on!r}")

    @property
    def stages(self) -> int:
        return 2

    @property
    def uniforms(self) -> int:
        return 5

    def operations(self, size: int) -> tuple[str, ...]:
        return _auto_augment_table(self.learned_on, size)[0].names

    def draw(self, numbers: np.ndarray, size: int) -> Drawn:
        table, probabilities = _auto_augment_table(self.learned_on, size)
        sub_policy = _pick(numbers[:, 0], len(probabilities))
        applied = numbers[:, 1:3] < probabilities[sub_policy]
        # Entry 0 is the identity; the two operations of sub-policy s follow at 1 + 2s.
        entry = np.where(applied, 1 + 2 * sub_policy[:, None] + np.arange(2), 0)
        return table.take(entry, _pick(numbers[:, 3:5], 2))


@cache
def _auto_augment_table(learned_on: str, size: int) -> tuple[_Table, np.ndarray]:
    policy = _AUTO_AUGMENT[learned_on](use_shape=True, max_translate_rel=_MAX_TRANSLATE)
    nothing = (_IDENTITY_AUGMENTATION, 0.0, None)
    pairs = [(*sub_policy, nothing)[:2] for sub_policy in policy.sub_policies]
    entries = [(aug, magnitude) for pair in [(nothing,), *pairs] for aug, _, magnitude in pair]
    table = _tabulate(entries, policy.num_magnitude_bins, size, relative=True)
    return table, np.array([[probability for _, probability, _ in pair] for pair in pairs])


_IDENTITY_AUGMENTATION = next(aug for aug in rand_augment.get_rand_augment_suite() if aug.name == IDENTITY)

POLICIES: dict[str, Policy] = {
    "autoaugment": AutoAugment("imagenet"),
    "autoaugment_cifar10": AutoAugment("cifar10"),
    "autoaugment_svhn": AutoAugment("svhn"),
    "randaugment": RandAugment(),
    "trivialaugment": TrivialAugment(),
}


def compose(matrices: np.ndarray) -> np.ndarray:
    """The one matrix of all stages, first applied first: (B, stages, 2, 3) -> (B, 2, 3)."""
    total = matrices[:, 0]
    for stage in range(1, matrices.shape[1]):
        linear = matrices[:, stage, :, :2]
        total = linear @ total
        total[:, :, 2] += matrices[:, stage, :, 2]
    return total


def mirrored(matrices: np.ndarray, flips: np.ndarray, width: int) -> np.ndarray:
    """The same map seen in a mirror (x -> width − x) where `flips` is 1: (B, stages, 2, 3) both ways."""
    seen = matrices * np.array([[1, -1, -1], [-1, 1, 1]], dtype=np.float32)
    seen[..., 0, 2] += width * (1 - matrices[..., 0, 0])
    seen[..., 1, 2] += width * matrices[..., 1, 0]
    return np.where(flips[:, None, None, None] == 1, seen, matrices)
