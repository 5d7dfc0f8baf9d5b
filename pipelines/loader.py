"""Batches for training and validation, with the interface of a torch DataLoader."""

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from . import draws
from .arguments import refuse, require, shown, whole
from .bad_files.probe import Probe, contiguous
from .bad_files.substitutes import Substitutes
from .datasets import Dataset
from .forks import abandoned_in_children
from .geometry import Size, check_fits, image_size_of, in_short
from .graph.pipeline import Recipe, image_pipeline
from .inputs import Inputs
from .options import LoaderOptions
from .readers.base import DataError

_LAST_EPOCH = 2**61  # the generator's key holds 4 · epoch + 3
PREFETCH = 2  # batches made ahead
# What a state from before these options means.
_ADDED = {"drop_last": False, "horizontal_flip": 0.5, "vertical_flip": 0.0, "resize_interpolation": "bilinear"}


class Batch(NamedTuple):
    """One batch, on the loader's device. The image tensors may be DALI's memory: do not write into them.

    A named tuple, which frameworks such as Lightning move and cast like any collection.

    Attributes:
        images: (B, 3, H, W) float32 or float16, normalised, channels-last in memory: the clean images.
        augmented: The same crops and flips after the policy, like `images`; None without a policy.
        labels: (B,) int64.
        indices: (B,) int64, the samples' places in the data set.
        matrices: (B, 2, 3) float32, None unless requested: the geometry of the policy, from `images` to
            `augmented`, acting on (x, y, 1) in pixels with pixel centres at +0.5.
        replaced: The places in the data set of the samples that could not be decoded and were replaced
            (`on_bad_file="replace"`). All else describes the samples that replace them.
        views: (B, 2, 3) float32, None unless requested: crop and flips, from the whole image to `images`, acting on
            (x, y, 1). Both are in shares of their width and height: (0, 0) is the upper left corner, (1, 1) the lower
            right. What a crop shows beyond its image is padding.
    """

    images: torch.Tensor
    augmented: torch.Tensor | None
    labels: torch.Tensor
    indices: torch.Tensor
    matrices: torch.Tensor | None = None
    replaced: tuple[int, ...] = ()
    views: torch.Tensor | None = None


class _Made(NamedTuple):
    """A batch that the pipeline has taken: its (epoch, batch), and what `Substitutes.choose` took and returned."""

    place: tuple[int, int]
    start: int
    indices: np.ndarray
    replaced: tuple[int, ...]


class _Schedule:
    """Which samples are in which batch of this process."""

    def __init__(self, options: LoaderOptions, count: int) -> None:
        self._options = options
        self._count = count
        global_batch = options.world_size * options.batch_size
        if options.drop_last:
            self.batches = self.global_batches = count // global_batch
            self.samples = self.batches * options.batch_size
        else:
            self.global_batches = -(-count // global_batch)
            _, last = self.shard(self.global_batches - 1)
            self.batches = self.global_batches - (last == 0)
            self.samples = (self.global_batches - 1) * options.batch_size + last

    def shard(self, batch: int) -> tuple[int, int]:
        options = self._options
        return draws.shard(batch, self._count, options.batch_size, options.rank, options.world_size)

    def order(self, epoch: int, batch: int) -> tuple[int, np.ndarray]:
        """Return the first position in the epoch, and the samples that the order has from there on."""
        start, size = self.shard(batch)
        if not self._options.train:
            return start, np.arange(start, start + size)
        return start, draws.epoch_order(self._count, self._options.seed, epoch)[start : start + size]


class _Source:
    """Feeds the pipeline batch after batch, on into the next epoch, so that prefetching never stops.

    The pipeline runs ahead of the user. `made` holds the batches that it has taken and not yet returned. Nothing here
    refers to the loader or its pipeline, so that both are freed with the last reference to the loader.
    """

    def __init__(self, schedule: _Schedule, inputs: Inputs, substitutes: Substitutes) -> None:
        self._schedule = schedule
        self._inputs = inputs
        self._substitutes = substitutes
        self.next = (0, 0)
        self.made: deque[_Made] = deque()

    def __call__(self) -> tuple[Any, ...]:
        epoch, batch = self.next
        start, order = self._schedule.order(epoch, batch)
        indices, replaced = self._substitutes.choose(epoch, start, order)
        arrays = self._inputs(epoch, start, indices)
        self.made.append(_Made(self.next, start, indices, replaced))
        self.next = (epoch, batch + 1) if batch + 1 < self._schedule.batches else (epoch + 1, 0)
        return tuple(contiguous(arrays[name]) for name in self._inputs.recipe.inputs)


def _weakly(source: _Source) -> Callable[[], tuple[Any, ...]]:
    """Return a function that calls `source` without keeping it, as DALI keeps the function beyond the pipeline."""
    reference = weakref.ref(source)

    def call() -> tuple[Any, ...]:
        alive = reference()
        if alive is None:
            raise RuntimeError("the loader of this pipeline no longer exists")
        return alive()

    return call


def _decodes(probe: Probe, inputs: Inputs, epoch: int, position: int, index: int) -> bool:
    return probe(inputs(epoch, position, np.array([index])))


class ImageLoader:
    """Iterates over a data set in batches; see `image_loader`.

    Each `iter()` is one epoch: the first is epoch 0, then one more each time, also after a `break`, unless
    `set_epoch` or `load_state_dict` says otherwise. `len()` is the number of this rank's batches. It is the
    same on all ranks unless the last global batch has fewer samples than there are ranks; then the last ranks
    have one batch less. With `drop_last` it is the same on all ranks, and all batches have `batch_size` images.

    Attributes:
        dataset: The images and labels (`Dataset`).
        recipe: What the pipeline does to the pixels of the next batch.
        options: Which samples are in which batch.
        device: Where the batches are.
        mean, std: By which the images are normalised, in [0, 1] units.
        batch_size: Of this rank.
        bad_files: The reason, by the place in the data set, for each file found so far that cannot be decoded.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, options: LoaderOptions) -> None:
        self.dataset = dataset
        self.options = options
        self.device = options.device
        self.mean, self.std = recipe.mean, recipe.std
        self.batch_size = options.batch_size
        self._labels = torch.from_numpy(dataset.labels).to(options.device)
        if len(dataset) < options.world_size:  # raised on all ranks, so that none waits for the others
            raise DataError(
                f"'{dataset.root}' has {len(dataset)} {'training' if options.train else 'validation'} images for "
                f"{options.world_size} processes. Start at most as many as there are images."
            )
        schedule = _Schedule(options, len(dataset))
        if not schedule.batches:
            raise DataError(
                f"'{dataset.root}' has {len(dataset)} {'training' if options.train else 'validation'} images, less "
                f"than one global batch of {options.world_size} × {options.batch_size}, which drop_last drops. Lower "
                "the batch size, or keep the last batch."
            )
        self._length = schedule.batches
        self._global_batches = schedule.global_batches
        self._schedule = schedule
        self._substitutes = Substitutes(dataset, options, samples=schedule.samples, max_pixels=recipe.max_pixels)
        self._next_recipe = recipe  # of the next epoch
        self._use(recipe)
        self._epoch = self._batch = 0  # of the next batch to be returned
        self._restored = self._end_meant = False
        self._iteration = 0
        # Of the only process that can use the loader: the one that started its pipeline, or CUDA.
        self._process = os.getpid() if options.device.type == "cuda" else None

    def _use(self, recipe: Recipe) -> None:
        """Make all further batches by a recipe."""
        self._pipeline: Any = None
        self.recipe = recipe
        self._inputs = Inputs(self.dataset, recipe, self.options)
        self._substitutes.probe = partial(_decodes, Probe(recipe, self.device.index), self._inputs)
        self._source = _Source(self._schedule, self._inputs, self._substitutes)

    def __len__(self) -> int:
        return self._length

    @property
    def bad_files(self) -> dict[int, str]:
        return self._substitutes.known

    def __iter__(self) -> Iterator[Batch]:
        # Frameworks that count the batches stop after the last one and never ask for the end: the epoch is over then.
        over = self._batch >= self._length and not self._end_meant
        if self._batch and (over or not self._restored):
            self._go_to(self._epoch + 1)
        self._restored = self._end_meant = False
        self._iteration += 1
        return self._iterate(self._iteration)

    def _iterate(self, iteration: int) -> Iterator[Batch]:
        while True:
            if iteration != self._iteration:
                raise RuntimeError(
                    "this iteration is over: iter(), set_epoch() or load_state_dict() was called on its loader"
                )
            if self._batch >= self._length:
                break
            batch = self._take(self._epoch, self._batch)
            self._substitutes.count(len(batch.replaced))
            self._batch += 1
            yield batch
        self._go_to(self._epoch + 1)

    def _go_to(self, epoch: int) -> None:
        self._epoch = epoch
        self._batch = self._substitutes.replaced = 0
        self._resize()

    def _resize(self) -> None:
        if self.recipe != self._next_recipe:
            self._use(self._next_recipe)

    def _sized(self, size: Size) -> Recipe:
        check_fits(size, self.recipe.val_resize)
        policy = self.options.policy
        return replace(self.recipe, image_size=size, operations=policy.operations(size) if policy else ())

    @property
    def image_size(self) -> Size:
        """(height, width) of the next batch's images, in pixels."""
        return self.recipe.image_size

    def set_image_size(self, image_size: int | tuple[int, int]) -> None:
        """Let images have another size from the next epoch on, as in progressive resizing.

        An epoch has one size: one of which a batch has been returned is finished at the size that it has. Everything
        else stays: the order, the draws, the known bad files. Call it on all ranks.

        Args:
            image_size: As of `image_loader`.

        Raises:
            ValueError: `image_size` is no such size, or is larger than `val_resize`.
        """
        self._next_recipe = self._sized(image_size_of(image_size))
        if not self._batch:
            self._resize()

    def set_epoch(self, epoch: int) -> None:
        """Let the next `iter()` be this epoch, from its start.

        A loader that was just restored into this epoch continues from where it was restored. If that is the epoch's
        end, the iteration is empty.

        Args:
            epoch: From 0 to 2⁶¹.

        Raises:
            ValueError: `epoch` is no such integer.
        """
        epoch = whole("epoch", epoch, 0, _LAST_EPOCH, "an integer from 0 to 2**61")
        self._end_meant = self._restored and epoch == self._epoch
        if self._end_meant:
            return
        self._go_to(epoch)
        self._restored = False
        self._iteration += 1

    def state_dict(self) -> dict[str, Any]:
        """Return where the user is, and a description of the loader, in JSON types.

        "epoch" and "batch" are those of the next batch. Batches made ahead and not yet returned do not count.
        "image_size" is that of the next epoch.
        """
        return {
            "epoch": self._epoch,
            "batch": self._batch,
            "image_size": in_short(self._next_recipe.image_size),
            "bad_files": self._substitutes.state_dict(),
            "configuration": self._inputs.configuration(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next `iter()` resume where `state` was taken, with identical batches, of the size that they had.

        After an epoch's last batch that is the next epoch, unless `set_epoch` then names the one that is over.

        Args:
            state: From this rank or another: one rank's state may be saved for all. Only the count towards
                `max_bad_share` is then that rank's, until the epoch ends.

        Raises:
            ValueError: `state` is from a loader with another data set, seed, batch size or the like; or is no state.
        """
        self._check_form(state)
        given = _ADDED | state["configuration"]
        size = image_size_of(given.get("image_size", self.image_size), "image_size of the state's configuration")
        next_size = image_size_of(state.get("image_size", size), "image_size of the state")
        recipe, next_recipe = self._sized(size), self._sized(next_size)
        own = Inputs(self.dataset, recipe, self.options).configuration()
        differing = [
            f"{key}: {shown(given.get(key))} in the state, {shown(own.get(key))} here"
            for key in sorted(own.keys() | given.keys())
            if own.get(key) != given.get(key)
        ]
        if differing:
            raise ValueError("the state is of another loader. " + "; ".join(differing))
        epoch = whole("epoch of the state", state["epoch"], 0, _LAST_EPOCH, "an integer from 0 to 2**61")
        batch = whole("batch of the state", state["batch"], 0, self._global_batches)
        self._check_bad_files(state["bad_files"])
        self._next_recipe = recipe
        self._resize()
        self._next_recipe = next_recipe
        self._epoch, self._batch = epoch, batch
        self._substitutes.load_state_dict(state["bad_files"])
        self._restored, self._end_meant = True, False
        self._iteration += 1

    def _check_form(self, state: object) -> None:
        legal = "what state_dict() of a loader returned"
        if not isinstance(state, dict):
            refuse("state", state, legal)
        for key in ("epoch", "batch", "bad_files", "configuration"):
            require("state", state, f"{legal}, with '{key}'", key in state)
        configuration = state["configuration"]
        is_mapping = isinstance(configuration, dict) and all(isinstance(key, str) for key in configuration)
        require("configuration of the state", configuration, "a dictionary", is_mapping)

    def _check_bad_files(self, state: object) -> None:
        legal = "{'known': [[place, reason], …], 'replaced': count}"
        if not (isinstance(state, dict) and isinstance(state.get("known"), list)):
            refuse("bad_files of the state", state, legal)
        whole("replaced of the state's bad_files", state.get("replaced"), 0)
        for item in state["known"]:
            is_item = isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[1], str)
            require("bad_files of the state", item, legal, is_item)
            whole("place of a bad file of the state", item[0], 0, len(self.dataset) - 1)

    def _take(self, epoch: int, batch: int) -> Batch:
        """Run the pipeline until it returns the requested batch."""
        if self._process not in (None, os.getpid()):
            raise RuntimeError(
                "this loader was started in another process, and its threads do not exist in this forked one. Make the "
                "loader in the process that uses it, or start processes by multiprocessing's method 'spawn'."
            )
        source, wanted = self._source, (epoch, batch)
        if all(made.place != wanted for made in source.made):
            source.next = wanted
        while True:
            if self._pipeline is None:
                self._start(wanted)
            try:
                outputs = self._pipeline.run()
            except BaseException as error:
                self._pipeline = None  # dead after an error; what had been made ahead is made again
                if not isinstance(error, RuntimeError):
                    raise
                failure = error
            else:
                # After a break or a jump, what had been made ahead comes out first.
                made = source.made.popleft()
                if made.place == wanted:
                    return self._batch_of(outputs, made.replaced)
                continue
            try:
                if not source.made:
                    raise failure
                made = source.made[0]
                # The failure of a batch that nobody requests any more does not matter.
                if made.place == wanted and not self._substitutes.find(epoch, made.start, made.indices):
                    raise failure
            finally:
                del failure  # its traceback holds this frame, and so the loader: a circle

    def _start(self, place: tuple[int, int]) -> None:
        self._source.made.clear()
        self._source.next = place
        self._process = os.getpid()
        pipeline = image_pipeline(
            self.recipe,
            _weakly(self._source),
            batch_size=min(self.batch_size, len(self.dataset)),
            num_threads=self.options.num_threads,
            device_id=self.device.index,
            prefetch_queue_depth=PREFETCH,
        )
        self._pipeline = abandoned_in_children(pipeline)

    def _batch_of(self, outputs: tuple, replaced: tuple[int, ...]) -> Batch:
        with self.device:
            tensors = [torch.from_dlpack(output.as_tensor()) for output in outputs]
        images, indices, *others = tensors
        augmented = others.pop(0) if self.recipe.chains else None
        return Batch(
            images=images.permute(0, 3, 1, 2),
            augmented=None if augmented is None else augmented.permute(0, 3, 1, 2),
            labels=self._labels[indices],
            indices=indices,
            matrices=others.pop(0) if self.recipe.with_matrices else None,
            replaced=replaced,
            views=others.pop(0) if self.recipe.with_views else None,
        )
