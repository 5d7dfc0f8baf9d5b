"""What feeds the pipeline: one batch after the other, or several small ones at once, ahead of the user."""

import math
import weakref
from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from ..bad_files.probe import contiguous
from ..bad_files.substitutes import Substitutes
from ..graph.recipe import Recipe
from ..order.schedule import Schedule
from .inputs import Inputs

# Of the batches that go through the pipeline in one run, together. DALI's operators cost about as much for a batch as
# for 100 images of 32×32 pixels, most of all those of a policy: each is a branch, with a few images in it.
_IMAGES, _PIXELS = 512, 2**20


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


def batches_together(recipe: Recipe, batch_size: int) -> int:
    """Return how many batches go through the pipeline in one run: several where images are small, and at hand."""
    # Contents come perhaps from far away: the first batch would wait for the others. Of "fit", the images of a run are
    # padded to one size.
    if recipe.reads == "contents" or recipe.fit is not None:
        return 1
    return max(1, min(_IMAGES, _PIXELS // math.prod(recipe.image_size)) // batch_size)


class Source:
    """Feeds the pipeline batch after batch, on into the next epoch, so that prefetching never stops.

    A run of the pipeline takes up to `together` batches of one epoch.

    Threads read the images of one more batch meanwhile, as the pipeline's user waits while a batch is made.

    The pipeline runs ahead of the user. `made` holds the batches of each run that has begun and not yet returned.
    Nothing here refers to the loader or its pipeline, so that both are freed with the last reference to the loader.
    """

    def __init__(self, schedule: Schedule, inputs: Inputs, substitutes: Substitutes, together: int) -> None:
        self._schedule = schedule
        self._inputs = inputs
        self._substitutes = substitutes
        self._together = together
        self._alone_to = (-1, 0)  # the place up to which each batch has a run of its own
        self.next = (0, 0)
        self.made: deque[tuple[Made, ...]] = deque()
        self._ahead: Ahead | None = None

    def split(self, run: tuple[Made, ...]) -> bool:
        """Give each batch of a run that failed a run of its own. Returns whether there were several."""
        if len(run) > 1:
            self._alone_to = run[-1].place
        return len(run) > 1

    def __call__(self) -> tuple[Any, ...]:
        run = [self._make()]
        while len(run) < self._together and run[0][0].place[0] == self.next[0] and self.next > self._alone_to:
            try:
                run.append(self._make())
            except Exception:  # it comes again, where this batch is the first of its run
                break
        self.made.append(tuple(made for made, _ in run))
        return tuple(_joined([arrays[name] for _, arrays in run]) for name in self._inputs.recipe.inputs)

    def _make(self) -> tuple[Made, dict[str, Any]]:
        """Return the next batch, with what the pipeline takes of it."""
        epoch, batch = self.next
        try:
            batches = self._schedule.batches(epoch)
        except Exception:
            if not self.made:
                raise
            # A sampler need not know the epoch after the last one. If the user asks for that epoch, `iter` raises
            # this; until then the last batch, made once more, keeps the pipeline busy.
            epoch, batch = self.made[-1][-1].place
            batches = self._schedule.batches(epoch)
        positions = self._schedule.positions(epoch, batch)
        order = self._schedule.indices(epoch, positions)
        indices, replaced = self._substitutes.choose(epoch, positions, order)
        images = self._images((epoch, batch), indices)
        if batch + 1 < batches:  # a sampler is not asked for its next epoch before that is needed
            order = self._schedule.indices(epoch, self._schedule.positions(epoch, batch + 1))
            self._ahead = Ahead((epoch, batch + 1), order, self._inputs.begin(order))
        arrays = self._inputs(epoch, positions, indices, images)
        self.next = (epoch, batch + 1) if batch + 1 < batches else (epoch + 1, 0)
        return Made((epoch, batch), positions, indices, replaced), arrays

    def _images(self, place: tuple[int, int], indices: np.ndarray) -> Any:
        """Return the images of a batch: those read ahead, if it is that batch, but for replaced samples."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.place != place:
            return self._inputs.begin(indices)()
        images, others = ahead.images(), np.flatnonzero(indices != ahead.indices)
        for position, image in zip(others.tolist(), self._inputs.begin(indices[others])(), strict=True):
            images[position] = image
        return images


def _joined(arrays: list[Any]) -> Any:
    """Return an input of several batches as one."""
    if len(arrays) == 1:
        return contiguous(arrays[0])
    return list(chain.from_iterable(arrays)) if isinstance(arrays[0], list) else np.concatenate(arrays)


def weakly(source: Source) -> Callable[[], tuple[Any, ...]]:
    """Return a function that calls `source` without keeping it, as DALI keeps the function beyond the pipeline."""
    reference = weakref.ref(source)

    def call() -> tuple[Any, ...]:
        alive = reference()
        if alive is None:
            raise RuntimeError("the loader of this pipeline no longer exists")
        return alive()

    return call
