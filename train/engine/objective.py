"""What a training step minimises: the losses of a batch, and the measures that a run logs beside them."""

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from pipelines import Batch


class BatchOutcome(NamedTuple):
    """What an objective makes of a batch."""

    losses: dict[str, Tensor]  # 0-dim, means over the images: "loss", with the graph, and its parts without weights
    measures: dict[str, Tensor]  # (B,), without a graph; empty where nothing was measured


class Objective(Protocol):
    """The losses of a run. A run calls it once for each batch, and never waits for the device in that call.

    Attributes:
        loss_names: keys of the losses, in their order; the first is "loss", which is minimised.
        measure_names: keys of the measures, in their order.
    """

    loss_names: tuple[str, ...]
    measure_names: tuple[str, ...]

    def set_epoch(self, epoch: int) -> None:
        """Announce the epoch, from 0, before its first batch."""

    def __call__(self, batch: Batch) -> BatchOutcome:
        """Compute the losses and measures of a batch, in the precision of the autocast around the call."""
        ...

    def summarised(self, means: dict[str, float]) -> dict[str, float]:
        """Return what the log says of an epoch, from the means of the measures over its images."""
        return means

    def exchange(self) -> None:
        """Give all processes what each of them has learned: after an epoch, and before the state is taken. Together."""

    def shared_state_dict(self) -> dict[str, Any]:
        """Return what the next batches depend on in all processes alike: tensors and plain types."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what they depend on in this process, besides that."""
        ...

    def apart(self, state: dict[str, Any], rank: int) -> dict[str, Any]:
        """Return the :meth:`state_dict` of another process for that of a rank, with other random numbers."""
        return state

    def load_state_dict(self, state: dict[str, Any], shared: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict` and a :meth:`shared_state_dict`."""
