"""Running means that stay on the device until they are read, and the metrics of validation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from train.distributed import ALONE, World


class Meter:
    """Sums of per-sample values on the device: adding never waits for the device, reading does.

    Args:
        names: of the values, each of which has one float64 sum.
        device: of the values.
        world: the processes, each of which adds its own samples.

    Attributes:
        samples: number of samples added in this process.
    """

    def __init__(self, names: tuple[str, ...], device: torch.device, world: World = ALONE) -> None:
        self.names = names
        self._world = world
        self.sums = torch.zeros(len(names), dtype=torch.float64, device=device)
        self.counted = torch.zeros((), dtype=torch.float64, device=device)  # samples in the sums
        self.samples = 0

    def add(self, sums: list[Tensor], samples: int, finite: Tensor | bool = True) -> None:
        """Add one batch.

        Args:
            sums: 0-dim tensors on the device, in the order of the names, each a sum over the batch's samples.
            samples: number of samples in the batch.
            finite: 0-dim, bool, on the device; a batch for which it is false does not count in the means.
        """
        stacked = torch.stack([s.detach().double() for s in sums])
        if not isinstance(finite, bool):
            stacked = torch.where(finite, stacked, 0.0)
        self.sums += stacked
        self.counted += samples * finite
        self.samples += samples

    def means(self, *counts: str) -> dict[str, float]:
        """Return the means over the samples of all processes, and of `counts` the sums.

        Together; waits for the device.
        """
        return self.totals(*counts)[0]

    def totals(self, *counts: str) -> tuple[dict[str, float], int]:
        """Return the values of :meth:`means`, NaN where no sample counts, and the number of all samples.

        Together; waits for the device.
        """
        samples = torch.full((1,), self.samples, dtype=torch.float64, device=self.sums.device)
        *totals, counted, count = self._world.sum(torch.cat([self.sums, self.counted[None], samples])).tolist()
        means = {
            name: round(total) if name in counts else total / counted if counted else math.nan
            for name, total in zip(self.names, totals, strict=True)
        }
        return means, int(count)

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return a copy of the sums and counts of this process, on the CPU."""
        return {"sums": self.sums.cpu().clone(), "counted": self.counted.cpu().clone(), "samples": self.samples}

    def load_state_dict(self, state: dict) -> None:
        """Restore a :meth:`state_dict`."""
        self.sums, self.counted = (state[name].clone().to(self.sums.device) for name in ("sums", "counted"))
        self.samples = state["samples"]


def top_k_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Count the labels that are among the k largest logits.

    Args:
        logits: (B, K), floating point.
        labels: (B,), int64.
        k: in [1, K].

    Returns:
        The count, 0-dim, int64.
    """
    return (logits.topk(k, dim=1).indices == labels[:, None]).sum()


def validation_sums(logits: Tensor, labels: Tensor) -> list[Tensor]:
    """Return cross-entropy, top-1 hits and, where there are more than 5 classes, top-5 hits, summed over the batch."""
    sums = [F.cross_entropy(logits, labels, reduction="sum"), top_k_hits(logits, labels, 1)]
    return [*sums, top_k_hits(logits, labels, 5)] if logits.shape[1] > 5 else sums
