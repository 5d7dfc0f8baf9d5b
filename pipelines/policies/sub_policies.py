"""Policies of sub-policies: lists of (operation, probability, magnitude), from a file or AutoAugment's."""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cache
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import yaml
from nvidia.dali.auto_aug import auto_augment

from ..arguments import finite, require_one, shown
from ..arguments import path as _path
from .base import PolicyDraw
from .operations import CUTOUT, IDENTITY, MAX_TRANSLATE, OperationEntry, Table, pick, tabulate

Ranges = dict[str, tuple[float, float]]  # of operations' magnitudes, in their own units
STEPS = 10  # of AutoAugment's magnitudes: a whole number m means m / 10 of the range
FILE_SUFFIXES = (".yaml", ".yml", ".json")
# Where the ranges of Fast AutoAugment's levels are not those of AutoAugment's magnitudes (augmentations.py of
# kakaobrain/fast-autoaugment). Shears, translations and angles begin at the negative end; the sign is random as well.
_LEVEL_RANGES: Ranges = {
    "shear_x": (-0.3, 0.3),
    "shear_y": (-0.3, 0.3),
    "translate_x": (-0.45, 0.45),
    "translate_y": (-0.45, 0.45),
    "rotate": (-30, 30),
    "posterize": (4, 8),
}
# Table 6 of AutoAugment's paper: the bits that posterize keeps. DALI's range, for magnitudes of whole numbers and for
# its tables, is that of the authors' later code, 0 … 4.
_PAPERS_RANGES: Ranges = {"posterize": (4, 8)}
_CUTOUT_RANGE = (0, 0.2)  # of the width; AutoAugment's 60 pixels of 331 are 0.18


class Operation(NamedTuple):
    """One operation of a sub-policy."""

    name: str
    probability: float
    magnitude: int | float | None


class SubPolicies:
    """One of several sub-policies, drawn uniformly: operations that are applied one after the other, each with its own
    probability, at its own magnitude. The policies of AutoAugment and Fast AutoAugment are published in this form.

    A magnitude is either AutoAugment's, a whole number from 0 to 10 (`m / 10` of the operation's range; Cubuk et al.,
    2019, appendix, in the ranges of DALI's suite), or Fast AutoAugment's, a level from 0.0 to 1.0 with a decimal point
    (Lim et al., 2019, §3.2, in the ranges of the authors' code, where 0.5 is a shear, shift or angle of nothing).
    One policy has magnitudes of one kind. They have no effect on auto_contrast, equalize and invert, and may be left
    out there. Names are `shear_x` or `ShearX`. Pixels that geometric operations uncover are grey (128), and cutout's
    square is (125, 123, 114), as the authors have it; the authors of Fast AutoAugment leave the former black.

    Args:
        sub_policies: For each sub-policy its operations, (name, probability, magnitude) or (name, probability).

    Raises:
        ValueError: An entry is not of this form, a name is unknown, or a number is out of its range.
    """

    chains: ClassVar[int] = 1

    def __init__(self, sub_policies: Sequence[Sequence[Sequence[Any]]]) -> None:
        if not isinstance(sub_policies, list | tuple) or not sub_policies:
            raise ValueError(f"a policy must be a list of sub-policies, got {shown(sub_policies)}")
        self.sub_policies = tuple(_read(sub_policy, place) for place, sub_policy in enumerate(sub_policies, start=1))
        kinds: dict[type, str] = {}
        for place, sub_policy in enumerate(self.sub_policies, start=1):
            for number, operation in enumerate(sub_policy, start=1):
                if operation.magnitude is not None:
                    kinds.setdefault(type(operation.magnitude), f"{_at(place, number)}: {operation.magnitude}")
        if len(kinds) > 1:
            raise ValueError(
                f"magnitudes must be all whole numbers from 0 to {STEPS}, or all levels from 0.0 to 1.0 with a decimal "
                f"point; got {' and '.join(kinds.values())}"
            )
        self._tables: dict[tuple[int, int], Table] = {}
        self._probabilities = np.zeros((len(self.sub_policies), self.stages))
        for row, sub_policy in zip(self._probabilities, self.sub_policies, strict=True):
            row[: len(sub_policy)] = [operation.probability for operation in sub_policy]

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "SubPolicies":
        """Read a policy from YAML or JSON: a list of sub-policies, each a list of [operation, probability, magnitude].

        In YAML, with one sub-policy a line:

            - [[posterize, 0.4, 8], [rotate, 0.6, 9]]
            - [[solarize, 0.6, 5], [auto_contrast, 0.6]]

        The lists in Fast AutoAugment's archive.py, such as `fa_reduced_cifar10()`, are of this form already:
        `json.dump` writes them to a file.

        Raises:
            ValueError: The file cannot be read or is not of this form. The message names it, and the place in it.
        """
        file = Path(_path("path", path, "the path of a policy file"))
        if file.suffix not in FILE_SUFFIXES:
            raise ValueError(f"policy file '{file}': its name must end in {', '.join(FILE_SUFFIXES)}")
        if file.exists() and not file.is_file():  # a pipe would never end
            raise ValueError(f"policy file '{file}': it is no regular file")
        try:
            text = file.read_text(encoding="utf-8")
            # YAML includes JSON, except for numbers such as 1e-05.
            content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
            return cls(content)
        except RecursionError:
            raise ValueError(f"policy file '{file}': its lists are nested too deeply") from None
        except (OSError, UnicodeError, yaml.YAMLError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"policy file '{file}': {reason}") from None

    @property
    def _ranges(self) -> Ranges:
        """Of magnitudes that are whole numbers, where they are not DALI's."""
        return {}

    @property
    def stages(self) -> int:
        return max(map(len, self.sub_policies))

    @property
    def uniforms(self) -> int:
        cutout = any(operation.name == CUTOUT for sub_policy in self.sub_policies for operation in sub_policy)
        return 1 + (4 if cutout else 2) * self.stages  # sub-policy; applied or not, sign, place of the cutout

    def operations(self, size: tuple[int, int]) -> tuple[str, ...]:
        return self._table(size).names

    def draw(self, numbers: np.ndarray, size: tuple[int, int]) -> PolicyDraw:
        table, stages = self._table(size), self.stages
        sub_policy = pick(numbers[:, 0], len(self.sub_policies))
        applied = numbers[:, 1 : 1 + stages] < self._probabilities[sub_policy]
        # Entry 0 is the identity; the operations of sub-policy s follow from 1 + stages · s on.
        entry = np.where(applied, 1 + stages * sub_policy[:, None] + np.arange(stages), 0)
        drawn = table.take(entry, pick(numbers[:, 1 + stages : 1 + 2 * stages], 2))
        if CUTOUT in table.names:
            cut = drawn.operations == table.names.index(CUTOUT)
            centres = numbers[:, 1 + 2 * stages :].reshape(-1, stages, 2)
            drawn.parameters[cut, :4] = _cutout_windows(drawn.parameters[cut, 0], centres[cut], size)
        return drawn

    def _table(self, size: tuple[int, int]) -> Table:
        if size not in self._tables:
            entries = [OperationEntry(IDENTITY)]
            for sub_policy in self.sub_policies:
                entries += [_entry(operation, self._ranges) for operation in sub_policy]
                entries += [OperationEntry(IDENTITY)] * (self.stages - len(sub_policy))
            self._tables[size] = tabulate(entries, size)
        return self._tables[size]

    def __repr__(self) -> str:
        digest = hashlib.sha256(repr(self.sub_policies).encode()).hexdigest()[:16]
        return f"SubPolicies({len(self.sub_policies)} of up to {self.stages} operations, {digest})"


class AutoAugment(SubPolicies):
    """AutoAugment (Cubuk et al., 2019, arXiv:1805.09501, §3 and appendix): one of 25 learned pairs of operations, each
    with its own probability and magnitude; translations reach 150/331 of the side.

    "imagenet" is the paper's table 9, with the ranges of its table 6: a magnitude m is m / 10 of the range ("7 out of
    10"), and posterize keeps 4 + 0.4 m bits, rounded down, so that a larger magnitude is a smaller change. timm's
    "original" is the same. torchvision has the same sub-policies, but takes m / 9, thresholds and bits that fall as m
    grows, and colour, contrast and sharpness of 1 ± 0.1 m, of random sign.

    "imagenet_v0", "cifar10" and "svhn" are DALI's tables. The first is not in the paper: the authors published it
    later, with EfficientNet (timm's "v0"). In these, posterize keeps 0.4 m bits, rounded, and at least one.

    Args:
        learned_on: The data the policy was learned on: "imagenet", "imagenet_v0", "cifar10" or "svhn".

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, learned_on: str = "imagenet") -> None:
        require_one("learned_on", learned_on, ("imagenet", *_DALIS))
        self.learned_on = learned_on
        if learned_on in _DALIS:
            policy = _DALIS[learned_on]()
            super().__init__([[(aug.name, p, m) for aug, p, m in sub_policy] for sub_policy in policy.sub_policies])
        else:
            super().__init__(_IMAGENET)

    @property
    def _ranges(self) -> Ranges:
        return {} if self.learned_on in _DALIS else _PAPERS_RANGES

    def __repr__(self) -> str:
        return f"AutoAugment(learned_on={self.learned_on!r})"


_IMAGENET: list[list[tuple[Any, ...]]] = [
    [("posterize", 0.4, 8), ("rotate", 0.6, 9)],
    [("solarize", 0.6, 5), ("auto_contrast", 0.6)],
    [("equalize", 0.8), ("equalize", 0.6)],
    [("posterize", 0.6, 7), ("posterize", 0.6, 6)],
    [("equalize", 0.4), ("solarize", 0.2, 4)],
    [("equalize", 0.4), ("rotate", 0.8, 8)],
    [("solarize", 0.6, 3), ("equalize", 0.6)],
    [("posterize", 0.8, 5), ("equalize", 1.0)],
    [("rotate", 0.2, 3), ("solarize", 0.6, 8)],
    [("equalize", 0.6), ("posterize", 0.4, 6)],
    [("rotate", 0.8, 8), ("color", 0.4, 0)],
    [("rotate", 0.4, 9), ("equalize", 0.6)],
    [("equalize", 0.0), ("equalize", 0.8)],
    [("invert", 0.6), ("equalize", 1.0)],
    [("color", 0.6, 4), ("contrast", 1.0, 8)],
    [("rotate", 0.8, 8), ("color", 1.0, 2)],
    [("color", 0.8, 8), ("solarize", 0.8, 7)],
    [("sharpness", 0.4, 7), ("invert", 0.6)],
    [("shear_x", 0.6, 5), ("equalize", 1.0)],
    [("color", 0.4, 0), ("equalize", 0.6)],
    [("equalize", 0.4), ("solarize", 0.2, 4)],
    [("solarize", 0.6, 5), ("auto_contrast", 0.6)],
    [("invert", 0.6), ("equalize", 1.0)],
    [("color", 0.6, 4), ("contrast", 1.0, 8)],
    [("equalize", 0.8), ("equalize", 0.6)],
]
_DALIS = {
    "imagenet_v0": auto_augment.get_image_net_policy,
    "cifar10": auto_augment.get_reduced_cifar10_policy,
    "svhn": auto_augment.get_svhn_policy,
}


@cache
def _suite() -> dict[str, Any]:
    """DALI's augmentations, with AutoAugment's ranges, by name."""
    policies = [get(use_shape=True, max_translate_rel=MAX_TRANSLATE) for get in _DALIS.values()]
    return {aug.name: aug for policy in policies for aug in policy.augmentations.values()}


def _entry(operation: Operation, ranges: Ranges) -> OperationEntry:
    """Return the entry of an operation, its magnitude converted from bins or levels to the operation's own units."""
    name, _, magnitude = operation
    aug = _suite().get(name)
    if magnitude is None:
        return OperationEntry(name)
    ranges = ranges if isinstance(magnitude, int) else _LEVEL_RANGES
    low, high = ranges.get(name, _CUTOUT_RANGE if aug is None else aug.mag_range)
    if isinstance(magnitude, int):
        value = np.linspace(low, high, STEPS + 1, dtype=np.float32)[magnitude]
    else:
        value = np.float32(low + magnitude * (high - low))
    if name == "posterize" and name in ranges:
        value = np.floor(value)  # bits, like Fast AutoAugment's int(); DALI's range comes with DALI's rounding
    if name == CUTOUT:
        return OperationEntry(CUTOUT, value) if value > 0 else OperationEntry(IDENTITY)
    return OperationEntry.of(aug, value)


def _cutout_windows(shares: np.ndarray, centres: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the squares of Fast AutoAugment's cutout (augmentations.py), centred anywhere and clipped to the image.

    Their side is a share of the image's width plus one pixel, as Pillow draws both edges. Where they are clipped at the
    upper or left border, they keep that pixel.

    Args:
        shares: (N,), above 0.
        centres: (N, 2), y and x in [0, 1).

    Returns:
        Top, left, height, width in pixels, (N, 4).
    """
    side = (shares * size[1])[:, None]
    start = np.floor(np.maximum(centres * size - side / 2, 0))
    return np.concatenate([start, np.minimum(start + np.floor(side) + 1, size) - start], axis=1)


def _read(sub_policy: Any, place: int) -> tuple[Operation, ...]:
    if not isinstance(sub_policy, list | tuple) or not sub_policy:
        raise ValueError(
            f"sub-policy {place} must be a list of [operation, probability, magnitude], got {shown(sub_policy)}"
        )
    return tuple(_read_operation(given, _at(place, number)) for number, given in enumerate(sub_policy, start=1))


def _read_operation(given: Any, where: str) -> Operation:
    if not isinstance(given, list | tuple) or not 2 <= len(given) <= 3:
        raise ValueError(f"{where} must be [operation, probability, magnitude], got {shown(given)}")
    name, probability, magnitude = (*given, None)[:3]
    legal = {known.replace("_", ""): known for known in (*sorted(_suite()), CUTOUT)}
    known = legal.get(name.replace("_", "").lower()) if isinstance(name, str) else None
    if known is None:
        raise ValueError(f"{where}: the operation must be one of {', '.join(legal.values())}; got {shown(name)}")
    chance = finite(probability)
    if chance is None or not 0 <= chance <= 1:
        raise ValueError(f"{where}, {known}: the probability must be from 0 to 1, got {shown(probability)}")
    if known in _suite() and _suite()[known].mag_range is None:
        return Operation(known, float(chance), None)
    level = finite(magnitude)
    whole = isinstance(magnitude, Integral)
    if level is None or not 0 <= level <= (STEPS if whole else 1):
        raise ValueError(
            f"{where}, {known}: the magnitude must be a whole number from 0 to {STEPS}, or a level from 0.0 to 1.0; "
            f"got {shown(magnitude)}"
        )
    return Operation(known, float(chance), level)


def _at(place: int, number: int) -> str:
    return f"sub-policy {place}, operation {number}"
