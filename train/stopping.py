"""Stopping in good order: what a signal asks for, and how the program says that it has obeyed."""

import signal
from types import FrameType


class Interrupted(Exception):
    """The run was asked to stop and has left a checkpoint."""


class StopSignal:
    """While entered, the first SIGINT or SIGTERM sets `requested`; a second one stops the program at once."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopSignal":
        self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
