"""The time for which training steps wait for the loader."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


class LoaderWait:
    """The sum of the times in which the device is idle because the next batch is not ready.

    On the CPU that is the time spent in the loader's `next()`. On a GPU the host runs ahead, and its wait in `next()`
    costs nothing while there is work in the queue. One event is recorded before `next()` and one after it. The GPU has
    no other work between the two, so the time between them on its own clock is its wait, for the host or for DALI's
    stream. `read` collects the events after the device has passed them.

    Args:
        device: of training.

    Attributes:
        seconds: the sum in the epoch, up to the last reading; the state for a checkpoint.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.seconds = 0.0

    def measure(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches, and measure the wait for each."""
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
        """Return the seconds so far; call it just after something else has waited for the device."""
        passed = [pair for pair in self._events if pair[1].query()]
        self._events = self._events[len(passed) :]
        self.seconds += sum(before.elapsed_time(after) for before, after in passed) / 1000  # from milliseconds
        return self.seconds
