"""Batches for training and validation, with the interface of a torch DataLoader."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ..arguments import require, shown, whole
from ..bad_files.probe import Probe
from ..bad_files.substitutes import Substitutes
from ..datasets import Dataset
from ..forks import abandoned_in_children, check_process
from ..graph.crops import Size, check_fits, image_size_of, in_short
from ..graph.pipeline import image_pipeline
from ..graph.recipe import Recipe
from ..graph.trial import explained, place
from ..labels import LabelTable
from ..labels.objects import Objects, ObjectTable
from ..options import LoaderOptions
from ..order.schedule import Schedule
from .batch import Batch, Views, batches_of
from .feed import Made, Source, batches_together, weakly
from .inputs import Inputs
from .states import check_form, check_same_loader

_LAST_EPOCH = 2**61  # the generator's key holds 4 · epoch + 3
PREFETCH = 2  # runs of the pipeline made ahead, of a batch each or of several small ones


def _decodes(probe: Probe, inputs: Inputs, epoch: int, position: int, index: int) -> bool:
    indices = np.array([index])
    return probe(inputs(epoch, range(position, position + 1), indices, inputs.begin(indices)()))


def _table(dataset: Dataset, options: LoaderOptions) -> LabelTable | ObjectTable:
    if isinstance(dataset.labels, Objects):
        return ObjectTable(dataset.labels, with_crowds=not options.train, device=options.device)
    return LabelTable(dataset.labels, options.device)


class ImageLoader:
    """Iterates over a data set in batches; see `image_loader`.

    Each `iter()` is one epoch: the first is epoch 0, then one more each time, also after a `break`, unless
    `set_epoch` or `load_state_dict` says otherwise. `len()` is the number of this rank's batches in the current epoch,
    which matters if those of a `sampler` differ in length. It is the same on all ranks unless the last global batch has
    fewer samples than there are ranks; then the last ranks have one batch less. With `drop_last` it is the same on all
    ranks, and all batches have `batch_size` images.

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
        self._labels = _table(dataset, options)
        mean, std = (255 * torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (self.mean, self.std))
        # On the device already, so that `normalize` does not wait for a copy.
        self._mean, self._scale = (values.to(options.device, torch.float32) for values in (mean, 1 / std))
        self._schedule = Schedule(
            options.order,
            batch_size=options.batch_size,
            rank=options.rank,
            world_size=options.world_size,
            drop_last=options.drop_last,
            root=dataset.root,
            kind="training" if options.train else "validation",
        )
        self._schedule.batches(0)  # raises if there are too few samples
        self._substitutes = Substitutes(dataset, options, self._schedule.spares, max_pixels=recipe.max_pixels)
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
        self._ready: deque[tuple[Made, Batch]] = deque()  # that came out of the pipeline with an earlier one
        self.recipe = recipe
        self._inputs = Inputs(self.dataset, recipe, self.options)
        self._substitutes.probe = partial(_decodes, Probe(recipe, self.device.index), self._inputs)
        self._together = batches_together(recipe, self.batch_size)
        self._source = Source(self._schedule, self._inputs, self._substitutes, self._together)

    def __len__(self) -> int:
        return self._schedule.batches(self._epoch)

    def pairs(self) -> "Pairs":
        """Return this loader as pairs, for loops such as `for inputs, labels in loader.pairs()`."""
        return Pairs(self)

    @property
    def ahead(self) -> int:
        """The most batches that may be made before they are asked for: a benchmark starts its clock after them."""
        return (PREFETCH + 1) * self._together

    @property
    def bad_files(self) -> dict[int, str]:
        return self._substitutes.known

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Return what `dtype="float32"` would have returned for images of `dtype="uint8"`.

        The two differ by float32's rounding, 1e-5 with the default `mean` and `std`; AugMix's, whose sum is rounded in
        uint8, by half a pixel value more. Nothing waits for the device, while torchvision's Normalize copies mean and
        standard deviation to it in each call.

        Args:
            images: (B, 3, H, W) uint8, on the loader's device; any, not only the loader's own.

        Returns:
            (B, 3, H, W) float32, (pixel / 255 − mean) / std, in the memory format of `images`.

        Raises:
            ValueError: `images` is no such tensor.
        """
        legal = f"a uint8 tensor (B, 3, H, W) on {self.device}"
        is_tensor = isinstance(images, torch.Tensor) and images.dtype == torch.uint8
        require("images", images, legal, is_tensor and images.ndim == 4 and images.shape[1] == 3)
        if images.device != self.device:
            raise ValueError(f"images must be {legal}, got one on {images.device}")
        return torch.sub(images, self._mean).mul_(self._scale)

    def __iter__(self) -> Iterator[Batch]:
        # Frameworks that count the batches stop after the last one and never ask for the end: the epoch is over then.
        if self._batch and not (self._restored and (self._end_meant or self._batch < len(self))):
            self._go_to(self._epoch + 1)
        len(self)  # raises if a sampler does
        self._restored = self._end_meant = False
        self._iteration += 1
        return self._iterate(self._iteration)

    def _iterate(self, iteration: int) -> Iterator[Batch]:
        while True:
            if iteration != self._iteration:
                raise RuntimeError(
                    "this iteration is over: iter(), set_epoch() or load_state_dict() was called on its loader"
                )
            if self._batch >= len(self):
                break
            batch = self._take(self._epoch, self._batch)
            self._substitutes.count(len(batch.replaced), self._schedule.samples(self._epoch))
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

    def _tried(self, recipe: Recipe) -> Recipe:
        """Return a recipe whose transforms were tried at its size. They may use other arrays there."""
        if recipe.image_size == self.recipe.image_size:
            return replace(recipe, before_policy=self.recipe.before_policy, after_policy=self.recipe.after_policy)
        options: dict[str, Any] = {
            "image_size": recipe.image_size, "device": recipe.device, "device_id": self.device.index,
        }  # fmt: skip
        return replace(
            recipe,
            before_policy=place("before_policy", [each.transform for each in recipe.before_policy], **options),
            after_policy=place("after_policy", [each.transform for each in recipe.after_policy], **options),
        )

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
            ValueError: `image_size` is no such size, or is larger than `val_resize`; or a transform fails at this size;
                or the images have sizes of their own, as those of `detection_loader`.
        """
        if self.recipe.fit is not None:
            raise ValueError("the images of detection_loader have sizes of their own: short_side and long_side")
        self._next_recipe = self._tried(self._sized(image_size_of(image_size)))
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
        "image_size" is that of the next epoch. "indices" is a hash of what a `sampler` returns for the epoch, None
        without one.
        """
        return {
            "epoch": self._epoch,
            "batch": self._batch,
            "image_size": in_short(self._next_recipe.image_size),
            "indices": self._schedule.digest(self._epoch),
            "bad_files": self._substitutes.state_dict(),
            "configuration": self._inputs.configuration(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next `iter()` resume where `state` was taken, with identical batches, of the size that they had.

        After an epoch's last batch that is the next epoch, unless `set_epoch` then names the one that is over.

        Args:
            state: From this rank or another, also of more or fewer ranks with the same global batch
                (`world_size * batch_size`): one rank's state may be saved for all. Only the count towards
                `max_bad_share` is then that rank's, until the epoch ends.

        Raises:
            ValueError: `state` is from a loader with another data set, seed, batch size or the like, or with a sampler
                that returned other indices for this epoch; or is no state.
        """
        check_form(state)
        given = state["configuration"]
        size = image_size_of(given["image_size"], "image_size of the state's configuration")
        next_size = image_size_of(state["image_size"], "image_size of the state")
        recipe, next_recipe = self._sized(size), self._sized(next_size)
        own = Inputs(self.dataset, recipe, self.options).configuration()
        check_same_loader(given, own)
        epoch = whole("epoch of the state", state["epoch"], 0, _LAST_EPOCH, "an integer from 0 to 2**61")
        batch = whole("batch of the state", state["batch"], 0)
        if batch:
            whole("batch of the state", batch, 0, self._schedule.global_batches(epoch))
        indices = self._schedule.digest(epoch)
        if state["indices"] not in (None, indices):
            raise ValueError(
                f"the state is of another sampler: {shown(state['indices'])} in epoch {epoch} of the state, "
                f"{shown(indices)} here"
            )
        self._substitutes.check_state(state["bad_files"])
        recipe, next_recipe = self._tried(recipe), self._tried(next_recipe)
        self._next_recipe = recipe
        self._resize()
        self._next_recipe = next_recipe
        self._epoch, self._batch = epoch, batch
        self._substitutes.load_state_dict(state["bad_files"])
        self._restored, self._end_meant = True, False
        self._iteration += 1

    def _take(self, epoch: int, batch: int) -> Batch:
        """Run the pipeline until it returns the requested batch."""
        if self._process not in (None, os.getpid()):
            raise RuntimeError(
                "this loader was started in another process, and its threads do not exist in this forked one. Make the "
                "loader in the process that uses it, or start processes by multiprocessing's method 'spawn'."
            )
        source, wanted = self._source, (epoch, batch)
        if (ready := self._from_ready(wanted)) is not None:
            return ready
        if all(made.place != wanted for run in source.made for made in run):
            source.next = wanted
        while True:
            if self._pipeline is None:
                self._start(wanted)
            try:
                outputs = self._run()
            except BaseException as error:
                self._pipeline = None  # dead after an error; what had been made ahead is made again
                if not isinstance(error, RuntimeError):
                    raise
                failure = error
            else:
                # After a break or a jump, what had been made ahead comes out first.
                run = source.made.popleft()
                if all(made.place != wanted for made in run):
                    continue
                batches = batches_of(outputs, self.recipe, self.dataset, self._labels, run, self.device)
                self._ready.extend(zip(run, batches, strict=True))
                return self._from_ready(wanted)
            try:
                if not source.made:
                    raise explained(failure, self.recipe.transforms)
                if source.split(source.made[0]):
                    continue
                made = source.made[0][0]
                # The failure of a batch that nobody requests any more does not matter.
                if made.place == wanted and not self._substitutes.find(epoch, made.positions, made.indices):
                    raise explained(failure, self.recipe.transforms)
            finally:
                del failure  # its traceback holds this frame, and so the loader: a circle

    def _from_ready(self, wanted: tuple[int, int]) -> Any:
        """Return the requested batch if it is ready, else None; forget those before it."""
        while self._ready:
            made, ready = self._ready.popleft()
            if made.place == wanted:
                return ready
        return None

    def _run(self) -> tuple[Any, ...]:
        if self.device.type == "cpu":
            return self._pipeline.run()
        with torch.cuda.device(self.device):  # whose default stream DALI takes for torch's
            return self._pipeline.run(torch.cuda.current_stream())  # which waits for DALI's; the host does not

    def _start(self, place: tuple[int, int]) -> None:
        check_process()
        self._source.made.clear()
        self._source.next = place
        self._process = os.getpid()
        most = self._together * self.batch_size
        if self._together == 1 and not self.options.order.is_given:  # an epoch of a sampler has any number of samples
            most = min(most, len(self.dataset))
        pipeline = image_pipeline(
            self.recipe,
            weakly(self._source),
            batch_size=most,
            num_threads=self.options.num_threads,
            device_id=self.device.index,
            prefetch_queue_depth=PREFETCH,
        )
        self._pipeline = abandoned_in_children(pipeline)


class Pairs:
    """A loader whose batches are pairs: (inputs, labels).

    The inputs are `Batch.augmented` where there is a policy, else `Batch.images`. It iterates over its loader, so
    epochs, breaks and states are those of the loader, and only one of the two iterates at a time.

    Attributes:
        loader: The loader.
    """

    def __init__(self, loader: ImageLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[torch.Tensor | Views, torch.Tensor]]:
        return ((batch.images if batch.augmented is None else batch.augmented, batch.labels) for batch in self.loader)

    def set_epoch(self, epoch: int) -> None:
        """See `ImageLoader.set_epoch`."""
        self.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """See `ImageLoader.state_dict`."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `ImageLoader.load_state_dict`."""
        self.loader.load_state_dict(state)
