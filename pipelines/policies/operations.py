"""What policies draw: operations, their parameters and their geometry, as arrays.

The operations are those of DALI's `nvidia.dali.auto_aug`, cutout, crop and colour twist; `graph_operations.py`
applies what is drawn.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

IDENTITY, WARP, CUTOUT, CROP, COLOR_TWIST = "identity", "warp", "cutout", "crop", "color_twist"
PARAMETERS = 9  # the longest parameter is sharpness's 3×3 kernel
GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
# Of the side: 150 pixels of AutoAugment's 331; torchvision's maximum for AutoAugment and RandAugment.
MAX_TRANSLATE = 150 / 331


class PolicyDraw(NamedTuple):
    """What a policy does to each image of a batch; `stages` counts those of all chains, one chain after the other.

    Attributes:
        operations: (B, stages) int32, indices into the policy's `operations(size)`.
        parameters: (B, stages, 9) float32, what the operation takes, from the first place on.
        matrices: (B, stages, 2, 3) float32, source to destination, in pixels (x, y) with centres at +0.5; the
            identity for operations that move nothing.
        weights: (B, 1 + chains) float32, of a policy with several chains: of the image as it was and of each chain's
            in the sum. None of a policy with one.
    """

    operations: np.ndarray
    parameters: np.ndarray
    matrices: np.ndarray
    weights: np.ndarray | None = None

    @classmethod
    def nothing(cls, count: int, stages: int) -> "PolicyDraw":
        """Operation 0 throughout, which is to be the identity; to be written into."""
        return cls(
            np.zeros((count, stages), dtype=np.int32),
            np.zeros((count, stages, PARAMETERS), dtype=np.float32),
            np.tile(np.eye(2, 3, dtype=np.float32), (count, stages, 1, 1)),
        )


class Entry(NamedTuple):
    """An operation at one magnitude, in its own units; None where it takes none."""

    name: str
    magnitude: float | None = None
    to_parameter: Callable[[Any], Any] = float
    signed: bool = False  # the sign of the magnitude is random

    @classmethod
    def of(cls, augmentation: Any, magnitude: float | None) -> "Entry":
        """Of one of DALI's augmentations."""
        if augmentation.mag_range is None:
            return cls(augmentation.name)
        return cls(augmentation.name, magnitude, augmentation.mag_to_param, augmentation.randomly_negate)


class Table(NamedTuple):
    """Entries a policy chooses from; the sign of the magnitude is the second index."""

    names: tuple[str, ...]
    operations: np.ndarray  # (entries,)
    parameters: np.ndarray  # (entries, 2, 9)
    matrices: np.ndarray  # (entries, 2, 2, 3)

    def take(self, entries: np.ndarray, signs: np.ndarray) -> PolicyDraw:
        return PolicyDraw(self.operations[entries], self.parameters[entries, signs], self.matrices[entries, signs])


def tabulate(entries: list[Entry], size: int, relative: bool = True) -> Table:
    """Turns entries into arrays. `relative`: translations are shares of the side, not pixels."""
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
                scale = size if relative and entry.name.startswith("translate") else 1
                # Of DALI's pair (x, y) the one that is not 0.
                amount = parameter[int(entry.name.endswith("y"))] if parameter.size == 2 else parameter
                matrices[row, column] = geometry(entry.name, amount * scale, size)
            else:
                parameters[row, column, : parameter.size] = parameter.ravel()
    return Table(tuple(names), operations, parameters, matrices)


def geometry(name: str, amounts: np.ndarray, size: int) -> np.ndarray:
    """The matrices of shears, translations (pixels) or rotations (degrees): (…) -> (…, 2, 3) float32."""
    amounts = np.asarray(amounts)
    matrices = np.tile(np.eye(2, 3, dtype=np.float32), (*amounts.shape, 1, 1))
    if name == "rotate":
        # Counter-clockwise as seen; y points down.
        cos, sin = np.cos(np.radians(amounts)), np.sin(np.radians(amounts))
        centre = size / 2
        matrices[..., 0, 0], matrices[..., 0, 1], matrices[..., 0, 2] = cos, sin, centre * (1 - cos - sin)
        matrices[..., 1, 0], matrices[..., 1, 1], matrices[..., 1, 2] = -sin, cos, centre * (1 - cos + sin)
        return matrices
    row = int(name.endswith("y"))
    column = 1 - row if name.startswith("shear") else 2
    matrices[..., row, column] = amounts
    return matrices


def pick(numbers: np.ndarray, count: int) -> np.ndarray:
    """Numbers in [0, 1) to whole numbers below `count`."""
    return (numbers * count).astype(np.int64)


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
