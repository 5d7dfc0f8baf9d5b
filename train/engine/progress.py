"""The progress of an epoch or of a validation: a bar on a terminal, and elsewhere a line from time to time."""

import time
from types import TracebackType

from tqdm import tqdm

SECONDS = 30  # between the lines


class Progress:
    """A context that shows how far an epoch or a validation is, and on a terminal disappears at its end.

    On a terminal (stderr) there is a bar. Otherwise, where output goes to a file or a pipe, a line is printed about
    every `SECONDS`.

    Args:
        what: the name of the work, such as "epoch 1/15".
        batches: of the whole work.
        images: likewise.
        done: images that a resumed run has behind it.
        shown: whether this process shows anything.
    """

    def __init__(self, what: str, *, batches: int, images: int, done: int = 0, shown: bool = True) -> None:
        self._what, self._batches, self._images = what, batches, images
        self._before, self._done, self._loss = done, done, ""
        disable = None if shown else True  # None: unless stderr is a terminal
        self._bar = tqdm(
            total=images, initial=done, desc=what, unit=" images", leave=False, disable=disable, dynamic_ncols=True
        )
        self._prints = shown and bool(self._bar.disable)
        self._start = self._last = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()

    def show_loss(self, loss: float) -> None:
        """Show this loss from now on."""
        self._loss = f"{loss:.4f}"
        self._bar.set_postfix(loss=self._loss, refresh=False)

    @property
    def due(self) -> bool:
        """Whether the next `update` prints a line."""
        return self._prints and time.monotonic() - self._last >= SECONDS

    def update(self, images: int, batch: int) -> None:
        """Count the images of a batch, which was the `batch`-th from 1."""
        self._done += images
        self._bar.update(images)
        if self.due and batch < self._batches:
            self._last = time.monotonic()
            print(self._line(batch), flush=True)

    def _line(self, batch: int) -> str:
        speed = (self._done - self._before) / (time.monotonic() - self._start)
        left = tqdm.format_interval(max(0, self._images - self._done) / speed)
        loss = f"  loss {self._loss}" if self._loss else ""
        shown = f"{speed:.1f}" if speed < 10 else f"{speed:.0f}"
        return f"{self._what}  batch {batch}/{self._batches}{loss}  {shown} images/s  {left} left"
