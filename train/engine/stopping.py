"""Stopping in good order: what a signal asks for, and how the program says that it has obeyed."""

import signal
import time
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from train.engine.distributed import ALONE, World

IMPATIENCE = 1.0  # seconds; a signal that comes so much later than the first is meant as a second one


class Interrupted(Exception):
    """The run was asked to stop and has left a checkpoint."""


class StopSignal:
    """While entered, the first SIGINT or SIGTERM sets `requested`; a second one stops the program at once.

    One key may send several at a time: the terminal to each process, and torchrun to each of its own.

    Args:
        world: the processes that stop together.
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
        if error is None or error is Interrupted:  # all processes come here; otherwise another may never vote
            self._outcome()

    def agreed(self) -> bool:
        """Together: whether one of the processes was asked to stop, the same answer for all.

        Of several it is that of the call before, so that no process waits for the slowest one's present step.
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
