"""An orderly stop on SIGINT and SIGTERM: the signal handler, and the exception that ends a run."""

import signal
import time
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from train.distributed import ALONE, World

IMPATIENCE = 1.0  # seconds; a later signal counts as a second one


class Interrupted(Exception):
    """The run was asked to stop and has left a checkpoint."""


class StopSignal:
    """A context in which the first SIGINT or SIGTERM sets `requested`, and a second one stops the program at once.

    One key press may send several signals: the terminal sends one to each process, and torchrun one to each of its own.

    Args:
        world: the processes that stop together.

    Attributes:
        requested: whether this process received a signal.
    """

    def __init__(self, world: World = ALONE) -> None:
        self.requested = False
        self._world = world
        self._at = 0.0
        self._vote: tuple[Tensor, dist.Work] | None = None

    def __enter__(self) -> "StopSignal":
        self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if error is None or error is Interrupted:  # all processes reach this; otherwise one may never vote
            self._outcome()

    def agreed(self) -> bool:
        """Return whether any process received a signal, the same answer in all of them. Together.

        Several processes get the answer of the previous call, so that none waits for the slowest one's current step.
        """
        if self._world.host is None:
            return self.requested
        before = self._outcome()
        vote = torch.tensor(float(self.requested))
        work = dist.all_reduce(vote, dist.ReduceOp.MAX, self._world.host, async_op=True)
        self._vote = vote, work
        return before

    def _outcome(self) -> bool:
        if self._vote is None:
            return False
        (vote, work), self._vote = self._vote, None
        work.wait()
        return bool(vote)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and time.monotonic() - self._at > IMPATIENCE:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self._at = True, time.monotonic()
