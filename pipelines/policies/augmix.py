"""AugMix: a weighted sum of the image and of several chains of operations applied to it."""

from dataclasses import dataclass

import numpy as np

from ..arguments import whole
from .base import PolicyDraw
from .operations import IDENTITY, MAX_STAGES, WARP, along, geometry, pick

# Those of the authors' augmentations.py that are unlike any corruption of ImageNet-C, in their order.
_OPERATIONS = (
    "auto_contrast", "equalize", "posterize", "rotate", "solarize", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
_NAMES = (IDENTITY, "auto_contrast", "equalize", "posterize", "solarize", WARP)  # in the graph
_MAX_DEPTH = 3


@dataclass(frozen=True)
class AugMix:
    """AugMix (Hendrycks et al., 2020, arXiv:1912.02781, §3 and Algorithm 1; google-research/augmix).

    (1 − m) · image + m · Σ wᵢ · chainᵢ(image), with w ~ Dirichlet(1, …, 1), m ~ Beta(1, 1), and chains of one to three
    operations, each uniform over nine, of a magnitude uniform up to `severity`, of random sign where it has one. The
    chains' pixels are whole numbers; their sum is not rounded. As for all policies, pixels that
    geometry uncovers are grey (the authors': black), and the nearest pixel is taken unless the loader's `interpolation`
    is "linear" (the authors' kind). The sum of images moved in several ways has no single matrix, so `with_matrices` is
    refused.

    Args:
        severity: From 1 to 10.
        width: Number of chains, from 1 to 32.
        depth: Operations in each chain, from 1 to 32; by default drawn from 1, 2, 3 for each chain.

    Raises:
        ValueError: An argument is out of its range.
    """

    severity: int = 3
    width: int = 3
    depth: int | None = None

    def __post_init__(self) -> None:
        legal = f"None or an integer from 1 to {MAX_STAGES}"
        depth = None if self.depth is None else whole("depth", self.depth, 1, MAX_STAGES, legal)
        object.__setattr__(self, "severity", whole("severity", self.severity, 1, 10))
        object.__setattr__(self, "width", whole("width", self.width, 1, MAX_STAGES))
        object.__setattr__(self, "depth", depth)

    @property
    def chains(self) -> int:
        return self.width

    @property
    def stages(self) -> int:
        return self.depth or _MAX_DEPTH

    @property
    def uniforms(self) -> int:
        return 1 + 2 * self.width + 3 * self.width * self.stages

    def operations(self, size: tuple[int, int]) -> tuple[str, ...]:
        return _NAMES

    def draw(self, numbers: np.ndarray, size: tuple[int, int]) -> PolicyDraw:
        width = self.width
        mix, shares, depths = np.split(numbers[:, : 1 + 2 * width], [1, 1 + width], axis=1)
        chosen, levels, signs = np.split(numbers[:, 1 + 2 * width :], 3, axis=1)
        # Exponential variates over their sum are Dirichlet(1, …, 1).
        shares = -np.log1p(-shares)
        weights = np.concatenate([1 - mix, mix * shares / shares.sum(axis=1, keepdims=True)], axis=1)
        kinds = pick(chosen, len(_OPERATIONS))
        if self.depth is None:
            stage = np.tile(np.arange(_MAX_DEPTH), width)
            kinds[stage > pick(depths, _MAX_DEPTH).repeat(_MAX_DEPTH, axis=1)] = -1
        levels = 0.1 + levels * (self.severity - 0.1)
        drawn = PolicyDraw.nothing(*kinds.shape)
        for kind, name in enumerate(_OPERATIONS):
            here = kinds == kind
            drawn.operations[here] = _NAMES.index(name if name in _NAMES else WARP)
            amounts = _amounts(name, levels[here], size)
            if name in _NAMES:
                drawn.parameters[here, 0] = amounts
            else:
                drawn.matrices[here] = geometry(name, np.where(signs[here] < 0.5, amounts, -amounts), size)
        return drawn._replace(weights=weights.astype(np.float32))


def _amounts(name: str, levels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the authors' magnitudes of levels in [0.1, 10], in the units of the graph's operations."""
    if name == "posterize":  # bits to a mask
        return 256 - 2 ** (4 + np.floor(levels * 4 / 10))
    if name == "rotate":
        return np.floor(levels * 30 / 10)
    if name == "solarize":
        return 256 - np.floor(levels * 256 / 10)
    if name.startswith("shear"):
        return levels * 0.3 / 10
    if name.startswith("translate"):
        return np.floor(levels * along(name, size) / 3 / 10)
    return np.zeros_like(levels)  # the others have no magnitude
