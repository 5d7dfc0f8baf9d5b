"""How long the training steps wait for the loader."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


class LoaderWait:
    """Adds up the time in which the device had nothing to do because the next batch was not there.

    On the CPU that is the time spent in the loader's `next()`. On a GPU the host runs ahead, and its wait in `next()`
    costs nothing while there is work in the queue. There an event is recorded before `next()` and one after it: between
    the two the GPU has no other work, so the time from the one to the other on its own clock is what it waited, be it
    for the host or for DALI's stream. The events are read by `read`, when the device has come past them anyway.

    Attributes:
        seconds: of the epoch, as far as is read; the state to be kept.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.seconds = 0.0

    def timed(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches, with the waits for them measured."""
        iterator = iter(batches)
        while True:
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2 * self._on_gpu)]
            start = time.perf_counter()
            for event in events[:1]:
                event.record()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            for event in events[1:]:
                event.record()
            if events:
                self._events.append((events[0], events[1]))
            else:
                self.seconds += time.perf_counter() - start
            yield batch

    def read(self) -> float:
        """The seconds so far; to be called after the device was waited for."""
        passed = [pair for pair in self._events if pair[1].query()]
        self._events = self._events[len(passed) :]
        self.seconds += sum(before.elapsed_time(after) for before, after in passed) / 1000  # from milliseconds
        return self.seconds
