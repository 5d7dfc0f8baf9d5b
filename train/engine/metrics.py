"""Running means that stay on the device until somebody reads them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from train.engine.distributed import ALONE, World


class Meter:
    """Sums of per-sample values, on the device: adding never waits for it, reading does.

    Args:
        names: of the values; each has one float64 sum.
        device: where the values are.
        world: the processes that each add their own samples.
    """

    def __init__(self, names: tuple[str, ...], device: torch.device, world: World = ALONE) -> None:
        self.names = names
        self._world = world
        self.sums = torch.zeros(len(names), dtype=torch.float64, device=device)
        self.counted = torch.zeros((), dtype=torch.float64, device=device)  # samples in the sums
        self.samples = 0

    def add(self, sums: list[Tensor], samples: int, finite: Tensor | bool = True) -> None:
        """Add one batch: 0-dim tensors on the device, in the order of the names, each summed over its samples.

        Args:
            samples: how many.
            finite: 0-dim, bool, on the device: where it is false the batch does not count in the means.
        """
        stacked = torch.stack([s.detach().double() for s in sums])
        if not isinstance(finite, bool):
            stacked = torch.where(finite, stacked, 0.0)
        self.sums += stacked
        self.counted += samples * finite
        self.samples += samples

    def means(self, *counts: str) -> dict[str, float]:
        """The means over all samples of all processes, but the sums of `counts`. Together; waits for the device."""
        return self.totals(*counts)[0]

    def totals(self, *counts: str) -> tuple[dict[str, float], int]:
        """The same, NaN where no sample counted, and the number of all samples."""
        samples = torch.full((1,), self.samples, dtype=torch.float64, device=self.sums.device)
        *totals, counted, count = self._world.sum(torch.cat([self.sums, self.counted[None], samples])).tolist()
        means = {
            name: round(total) if name in counts else total / counted if counted else math.nan
            for name, total in zip(self.names, totals, strict=True)
        }
        return means, int(count)

    def state_dict(self) -> dict[str, Tensor | int]:
        return {"sums": self.sums.cpu().clone(), "counted": self.counted.cpu().clone(), "samples": self.samples}

    def load_state_dict(self, state: dict) -> None:
        self.sums, self.counted = (state[name].clone().to(self.sums.device) for name in ("sums", "counted"))
        self.samples = state["samples"]


def top_k_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """How many labels are among the k largest logits: (B, K) and (B,) int64 -> 0-dim int64."""
    return (logits.topk(k, dim=1).indices == labels[:, None]).sum()


def validation_sums(logits: Tensor, labels: Tensor) -> list[Tensor]:
    """Cross-entropy, top-1 and top-5 hits, summed over the batch; top-5 only where there are more than 5 classes."""
    sums = [F.cross_entropy(logits, labels, reduction="sum"), top_k_hits(logits, labels, 1)]
    return [*sums, top_k_hits(logits, labels, 5)] if logits.shape[1] > 5 else sums
