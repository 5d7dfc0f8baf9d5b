"""The interface of a policy, and what it draws."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

PARAMETERS = 9  # the longest parameter is sharpness's 3×3 kernel


class PolicyDraw(NamedTuple):
    """What a policy does to each image of a batch; `stages` counts those of all chains, one chain after the other.

    Attributes:
        operations: (B, stages) int32, indices into the policy's `operations(size)`.
        parameters: (B, stages, 9) float32, the parameters of each operation, from the first place on.
        matrices: (B, stages, 2, 3) float32, source to destination, in pixels (x, y) with centres at +0.5; the
            identity for operations that do not move anything.
        weights: (B, 1 + chains) float32, for a policy with several chains: of the original image and of each chain's
            result in the sum. None for a policy with one chain.
    """

    operations: np.ndarray
    parameters: np.ndarray
    matrices: np.ndarray
    weights: np.ndarray | None = None

    @classmethod
    def nothing(cls, count: int, stages: int) -> "PolicyDraw":
        """Return a draw of operation 0 throughout, which must be the identity; policies write into it."""
        return cls(
            np.zeros((count, stages), dtype=np.int32),
            np.zeros((count, stages, PARAMETERS), dtype=np.float32),
            np.tile(np.eye(2, 3, dtype=np.float32), (count, stages, 1, 1)),
        )


@runtime_checkable
class Policy(Protocol):
    """A distribution over sequences of operations. `repr` must distinguish two different policies.

    A `size` is the (height, width) of the images in pixels.
    """

    @property
    def chains(self) -> int:
        """Number of sequences, each applied to the original image; the results of several are summed by weights."""

    @property
    def stages(self) -> int:
        """Number of operations applied one after the other, in each chain."""

    @property
    def uniforms(self) -> int:
        """Random numbers needed per image."""

    def operations(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Return the names of the operations that may be drawn."""

    def draw(self, numbers: np.ndarray, size: tuple[int, int]) -> PolicyDraw:
        """Map (B, uniforms) numbers in [0, 1) to operations on images of `size`."""
