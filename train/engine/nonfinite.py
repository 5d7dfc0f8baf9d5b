"""Losses and gradients that are not finite: detected and suppressed on the device, reported when the loss is read."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from dali_salaug.saliency.observer import copy_together
from train.distributed import ALONE, World
from train.engine.checkpoint import LAST
from train.engine.files import require_file
from train.errors import UserError

FILE = "nonfinite.jsonl"  # in the run folder
SKIPPED_IN_A_ROW = 50  # steps, after which skipping ends the run


class _Row(NamedTuple):
    """A batch since the last reading."""

    epoch: int
    step: int
    loss: Tensor  # 0-dim, on the device, as is norm
    indices: Tensor  # (B,)
    norm: Tensor | None  # of the gradients of the step that the batch belongs to; None until it is known


class NonFiniteGuard:
    """A guard that keeps a run from continuing with numbers that are not finite.

    A step calls `begin`, the forward pass, `guarded` around the loss, the backward pass, and `update` in place of the
    optimizer's step. None of these waits for the device. `read` reports what happened since the last reading. It is
    called where the loss is read anyway, and before a checkpoint is written.

    Where the loss of a batch is not finite, all its gradients become NaN. The processes that share the gradients
    therefore all see it, and act alike. With "stop" the next reading raises; the checkpoints are from before. With
    "skip" the step changes neither the weights nor the optimizer's state (by `found_inf`, as with a `GradScaler`, for
    which the optimizer becomes a fused one), and the network's buffers, BatchNorm's statistics, are restored.

    Args:
        action: "stop" or "skip".
        network: all that is trained.
        optimizer: of the network's parameters, with its restored state where there is one.
        scaled: the loss is scaled (`GradScaler`). Its gradients may overflow, and the scaler then skips the update on
            the device. The guard checks the loss alone.
        world: the processes that share gradients.

    Attributes:
        skipped: number of skipped steps in the epoch, up to the last reading.
    """

    def __init__(
        self, action: str, network: nn.Module, optimizer: Optimizer, *, scaled: bool = False, world: World = ALONE
    ) -> None:
        self.action, self.optimizer, self.scaled, self._world = action, optimizer, scaled, world
        self.skipped = 0
        self._in_a_row = 0
        self._rows: list[_Row] = []
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._buffers = list(network.buffers()) if action == "skip" else []
        self._saved = [buffer.clone() for buffer in self._buffers]
        if action == "skip":
            make_fused(optimizer)

    def begin(self) -> None:
        """Start a step, before its forward passes."""
        if self._buffers:
            copy_together(self._saved, self._buffers)

    def guarded(self, loss: Tensor, indices: Tensor, *, epoch: int, step: int) -> Tensor:
        """Return the loss to differentiate: `loss`, whose gradients are NaN where it is not finite.

        Args:
            loss: 0-dim.
            indices: (B,), int64, of the batch's samples.
            epoch, step: from 1, for the report.
        """
        self._rows.append(_Row(epoch, step, loss.detach(), indices, None))
        return loss * torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)

    def update(self, norm: Tensor | None = None, scaler: Any = None) -> Tensor:
        """Take the optimizer's step; with "skip" leave it out where something was not finite.

        Args:
            norm: of all gradients, 0-dim, if already computed.
            scaler: a `torch.amp.GradScaler`, which then takes the step.

        Returns:
            Whether all was finite in this step, 0-dim, bool, on the device.
        """
        fresh = [row for row in self._rows if row.norm is None]
        if norm is None:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        self._rows[-len(fresh) :] = [row._replace(norm=norm) for row in fresh]
        finite = torch.isfinite(torch.stack([row.loss for row in fresh])).all()
        if not self.scaled:
            finite = finite & torch.isfinite(norm)
        if scaler is not None:
            scaler.step(self.optimizer)
        elif self.action == "skip":
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        else:
            self.optimizer.step()
        for buffer, saved in zip(self._buffers, self._saved, strict=True):
            torch.where(finite, buffer, saved, out=buffer)
        return finite

    def read(self, folder: Path, files: Sequence[str] | None) -> list[str]:
        """Report what was not finite since the last reading. Together; waits for the device.

        Appends the samples of these steps to FILE in the folder.

        Args:
            folder: of the run.
            files: of the samples, by their indices; None where they have no files of their own.

        Returns:
            A sentence for each skipped step.

        Raises:
            UserError: something was not finite, and the action is "stop"; or too many steps were skipped in a row.
        """
        rows = [(row, row.norm) for row in self._rows if row.norm is not None]
        self._rows = self._rows[len(rows) :]  # of an incomplete step
        if not rows:
            return []
        numbers = torch.stack([torch.stack([row.loss for row, _ in rows]), torch.stack([norm for _, norm in rows])], 1)
        # The norms are the same in all processes, so either all of them gather their entries or none does.
        suspects = [
            (row, loss, norm)
            for (row, _), (loss, norm) in zip(rows, numbers.tolist(), strict=True)
            if not (math.isfinite(loss) and math.isfinite(norm))
        ]
        entries = self._entries(suspects, files) if suspects else []
        bad = sorted({(entry["epoch"], entry["step"]) for entry in entries})
        for step in dict.fromkeys((row.epoch, row.step) for row, _ in rows):
            self._in_a_row = self._in_a_row + 1 if step in bad else 0
            if self._in_a_row >= SKIPPED_IN_A_ROW:
                break
        if not entries:
            return []
        if self._world.is_main:
            require_file(folder / FILE)
            with open(folder / FILE, "a") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in entries)
        first = {(entry["epoch"], entry["step"]): entry for entry in reversed(entries)}
        sentences = [
            f"step {step} of epoch {epoch}: the loss is {first[epoch, step]['loss']}, the gradient's norm"
            f" {first[epoch, step]['gradient_norm']}; its samples are in {folder / FILE}"
            for epoch, step in bad
        ]
        if self.action == "stop":
            before = (
                "The last checkpoint is from before it" if (folder / LAST).exists() else "There is no checkpoint yet"
            )
            raise UserError(
                f"{sentences[0]}. {before}. Look at the samples, start a new run with a lower --lr, or skip such steps:"
                " --on-nonfinite skip, with --resume too"
            )
        self.skipped += len(bad)
        if self._in_a_row >= SKIPPED_IN_A_ROW:
            raise UserError(
                f"{sentences[-1]}. The last {SKIPPED_IN_A_ROW} steps were all skipped, so the network no longer learns."
                " Start a new run with a lower --lr"
            )
        return [f"skipped {sentence}" for sentence in sentences]

    def _entries(self, suspects: list[tuple[_Row, float, float]], files: Sequence[str] | None) -> list[dict[str, Any]]:
        """Return the lines of FILE. Together.

        Of each step they are those of the processes whose loss was not finite, or of all processes if every loss was.
        """
        own = []
        for row, loss, norm in suspects:
            entry: dict[str, Any] = {"epoch": row.epoch, "step": row.step, "rank": self._world.rank}
            entry |= {"loss": str(loss), "gradient_norm": str(norm), "indices": row.indices.tolist()}
            if files is not None:
                entry["files"] = [files[index] for index in entry["indices"]]
            own.append(entry)
        shared = self._world.gather(own)
        entries = sorted((e for part in shared for e in part), key=lambda e: (e["epoch"], e["step"], e["rank"]))
        with_loss = {(e["epoch"], e["step"]) for e in entries if not math.isfinite(float(e["loss"]))}
        return [
            entry
            for entry in entries
            if not math.isfinite(float(entry["loss"]))
            or (not self.scaled and (entry["epoch"], entry["step"]) not in with_loss)
        ]


def make_fused(optimizer: Optimizer) -> None:
    """Make the optimizer's step one kernel, which has no effect where the optimizer's `found_inf` is 1.

    Raises:
        UserError: the optimizer has no such form.
    """
    for group in optimizer.param_groups:
        if "fused" not in group:
            raise UserError(f"--on-nonfinite skip needs an optimizer with a fused form; got {type(optimizer).__name__}")
        group["fused"], group["foreach"] = True, False
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if isinstance(optimizer, SGD) and group["momentum"] and state.get("momentum_buffer") is None:
                # Otherwise a skipped first step leaves it uninitialised.
                state["momentum_buffer"] = torch.zeros_like(parameter)
            if "step" in state:  # of Adam, whose other forms keep it on the host
                state["step"] = state["step"].to(parameter.device)
