"""What feeds the pipeline: one batch after the other, ahead of the user."""

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..bad_files.probe import contiguous
from ..bad_files.substitutes import Substitutes
from ..order.schedule import Schedule
from .inputs import Inputs


class Made(NamedTuple):
    """A batch that the pipeline has taken: its (epoch, batch), and what `Substitutes.choose` took and returned."""

    place: tuple[int, int]
    positions: range
    indices: np.ndarray
    replaced: tuple[int, ...]


class Ahead(NamedTuple):
    """A batch whose images are being read before the pipeline takes it: its (epoch, batch), its samples in the order,
    and what returns their images."""

    place: tuple[int, int]
    indices: np.ndarray
    images: Callable[[], Any]


class Source:
    """Feeds the pipeline batch after batch, on into the next epoch, so that prefetching never stops.

    Threads read the images of one more batch meanwhile, as the pipeline's user waits while a batch is made.

    The pipeline runs ahead of the user. `made` holds the batches that it has taken and not yet returned. Nothing here
    refers to the loader or its pipeline, so that both are freed with the last reference to the loader.
    """

    def __init__(self, schedule: Schedule, inputs: Inputs, substitutes: Substitutes) -> None:
        self._schedule = schedule
        self._inputs = inputs
        self._substitutes = substitutes
        self.next = (0, 0)
        self.made: deque[Made] = deque()
        self._ahead: Ahead | None = None

    def __call__(self) -> tuple[Any, ...]:
        epoch, batch = self.next
        try:
            batches = self._schedule.batches(epoch)
        except Exception:
            if not self.made:
                raise
            # A sampler need not know the epoch after the last one. If the user asks for that epoch, `iter` raises
            # this; until then the last batch, made once more, keeps the pipeline busy.
            epoch, batch = self.made[-1].place
            batches = self._schedule.batches(epoch)
        positions = self._schedule.positions(epoch, batch)
        order = self._schedule.indices(epoch, positions)
        indices, replaced = self._substitutes.choose(epoch, positions, order)
        images = self._images((epoch, batch), indices)
        if batch + 1 < batches:  # a sampler is not asked for its next epoch before that is needed
            order = self._schedule.indices(epoch, self._schedule.positions(epoch, batch + 1))
            self._ahead = Ahead((epoch, batch + 1), order, self._inputs.begin(order))
        arrays = self._inputs(epoch, positions, indices, images)
        self.made.append(Made((epoch, batch), positions, indices, replaced))
        self.next = (epoch, batch + 1) if batch + 1 < batches else (epoch + 1, 0)
        return tuple(contiguous(arrays[name]) for name in self._inputs.recipe.inputs)

    def _images(self, place: tuple[int, int], indices: np.ndarray) -> Any:
        """Return the images of a batch: those read ahead, if it is that batch, but for replaced samples."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.place != place:
            return self._inputs.begin(indices)()
        images, others = ahead.images(), np.flatnonzero(indices != ahead.indices)
        for position, image in zip(others.tolist(), self._inputs.begin(indices[others])(), strict=True):
            images[position] = image
        return images


def weakly(source: Source) -> Callable[[], tuple[Any, ...]]:
    """Return a function that calls `source` without keeping it, as DALI keeps the function beyond the pipeline."""
    reference = weakref.ref(source)

    def call() -> tuple[Any, ...]:
        alive = reference()
        if alive is None:
            raise RuntimeError("the loader of this pipeline no longer exists")
        return alive()

    return call
