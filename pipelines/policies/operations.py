"""The operations that policies draw, as numbers: names, parameters and geometry in arrays.

They are those of DALI's `nvidia.dali.auto_aug`, and cutout, crop and colour twist. `graph/operations.py` has the DALI
operators that apply them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .base import PARAMETERS, PolicyDraw

IDENTITY, WARP, CUTOUT, CROP, COLOR_TWIST = "identity", "warp", "cutout", "crop", "color_twist"
GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
NUM_BINS = 31  # magnitudes of RandAugment and TrivialAugment are 0 … 30
MAX_STAGES = 32  # in a chain, and chains: the graph grows with each
# Of the side: 150 pixels of AutoAugment's 331; torchvision's maximum for AutoAugment and RandAugment.
MAX_TRANSLATE = 150 / 331


class OperationEntry(NamedTuple):
    """An operation at one magnitude, in its own units; None if it takes none."""

    name: str
    magnitude: float | None = None
    to_parameter: Callable[[Any], Any] = float
    signed: bool = False  # whether the sign of the magnitude is random

    @classmethod
    def of(cls, augmentation: Any, magnitude: float | None) -> "OperationEntry":
        """Return the entry of one of DALI's augmentations."""
        if augmentation.mag_range is None:
            return cls(augmentation.name)
        return cls(augmentation.name, magnitude, augmentation.mag_to_param, augmentation.randomly_negate)


class Table(NamedTuple):
    """Entries that a policy chooses from; the second index is the sign of the magnitude."""

    names: tuple[str, ...]
    operations: np.ndarray  # (entries,) int32, indices into `names`
    parameters: np.ndarray  # (entries, 2, 9) float32
    matrices: np.ndarray  # (entries, 2, 2, 3) float32

    def take(self, entries: np.ndarray, signs: np.ndarray) -> PolicyDraw:
        """Return the draw of `entries` with `signs` (0: positive, 1: negative), both (B, stages) integers."""
        return PolicyDraw(self.operations[entries], self.parameters[entries, signs], self.matrices[entries, signs])


def entries_of(suite: list[Any], bins: range) -> list[OperationEntry]:
    """Return the entries of a suite of DALI's augmentations, each at the magnitudes `bins` of 0 … 30."""
    entries = []
    for aug in suite:
        low, high = aug.mag_range or (0, 0)
        scale = np.linspace(low, high, NUM_BINS, dtype=np.float32)
        entries += [OperationEntry.of(aug, scale[place]) for place in bins]
    return entries


def tabulate(entries: list[OperationEntry], size: tuple[int, int], relative: bool = True) -> Table:
    """Return entries as arrays, for images of `size`, (height, width). Translations are shares of the side along which
    they go if `relative`, else pixels."""
    names = sorted({IDENTITY, *(WARP if entry.name in GEOMETRIC else entry.name for entry in entries)})
    operations = np.zeros(len(entries), dtype=np.int32)
    parameters = np.zeros((len(entries), 2, PARAMETERS), dtype=np.float32)
    matrices = np.tile(np.eye(2, 3, dtype=np.float32), (len(entries), 2, 1, 1))
    for row, entry in enumerate(entries):
        operations[row] = names.index(WARP if entry.name in GEOMETRIC else entry.name)
        if entry.magnitude is None:
            continue
        for column, sign in enumerate((1, -1)):
            parameter = np.asarray(entry.to_parameter(entry.magnitude * (sign if entry.signed else 1)))
            if entry.name in GEOMETRIC:
                scale = along(entry.name, size) if relative and entry.name.startswith("translate") else 1
                # Of DALI's pair (x, y) the one that is not 0.
                amount = parameter[int(entry.name.endswith("y"))] if parameter.size == 2 else parameter
                matrices[row, column] = geometry(entry.name, amount * scale, size)
            else:
                parameters[row, column, : parameter.size] = parameter.ravel()
    return Table(tuple(names), operations, parameters, matrices)


def along(name: str, size: tuple[int, int]) -> int:
    """Return the side of an image of `size`, (height, width), along which an operation such as "translate_x" goes."""
    return size[0] if name.endswith("y") else size[1]


def geometry(name: str, amounts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the matrices of shears, translations (pixels) or rotations (degrees, about the centre of an image of
    `size`, (height, width)): (…) -> (…, 2, 3) float32."""
    amounts = np.asarray(amounts)
    matrices = np.tile(np.eye(2, 3, dtype=np.float32), (*amounts.shape, 1, 1))
    if name == "rotate":
        # Counter-clockwise as seen; y points down.
        cos, sin = np.cos(np.radians(amounts)), np.sin(np.radians(amounts))
        y, x = size[0] / 2, size[1] / 2
        wider = (x - y) * (1 - cos)  # added last: nothing in a square, whose numbers a seed fixes to the last bit
        matrices[..., 0, 0], matrices[..., 0, 1], matrices[..., 0, 2] = cos, sin, y * (1 - cos - sin) + wider
        matrices[..., 1, 0], matrices[..., 1, 1], matrices[..., 1, 2] = -sin, cos, x * (1 - cos + sin) - wider
        return matrices
    row = int(name.endswith("y"))
    column = 1 - row if name.startswith("shear") else 2
    matrices[..., row, column] = amounts
    return matrices


def pick(numbers: np.ndarray, count: int) -> np.ndarray:
    """Map numbers in [0, 1) to whole numbers below `count`."""
    return (numbers * count).astype(np.int64)


def compose(matrices: np.ndarray) -> np.ndarray:
    """Return the single matrix of all stages, first applied first: (B, stages, 2, 3) -> (B, 2, 3)."""
    total = matrices[:, 0]
    for stage in range(1, matrices.shape[1]):
        linear = matrices[:, stage, :, :2]
        total = linear @ total
        total[:, :, 2] += matrices[:, stage, :, 2]
    return total


def mirrored(matrices: np.ndarray, flips: np.ndarray, width: int) -> np.ndarray:
    """Return the same maps as seen in a mirror (x -> width − x) where `flips` is 1: (B, stages, 2, 3) both ways."""
    seen = matrices * np.array([[1, -1, -1], [-1, 1, 1]], dtype=np.float32)
    seen[..., 0, 2] += width * (1 - matrices[..., 0, 0])
    seen[..., 1, 2] += width * matrices[..., 1, 0]
    return np.where(flips[:, None, None, None] == 1, seen, matrices)
