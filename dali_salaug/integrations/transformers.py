"""Hugging Face's ``Trainer``: the stage in its loss, and loaders in place of its data sets and collator."""

import inspect
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.data_loader import DataLoaderStateMixin
from accelerate.state import GradientState
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from ..saliency.observer import unwrap
from ..stage import SaliencyStage
from .common import Loader, check_share, check_stage, seed_for_rank

Place = tuple[int, int]  # of a batch: its epoch, and its number in the epoch


class SaliencyTrainerMixin:
    """Gives a ``Trainer`` the stage, and lets ``train_dataset`` and ``eval_dataset`` be loaders.

    In training, the stage makes the network's inputs and targets in ``compute_loss``, where the loss is the
    cross-entropy with ``label_smoothing_factor``, or that of ``compute_loss_func(outputs, targets, ...)``. Evaluation
    is the Trainer's own. Each may be used without the other: the stage takes the ``pixel_values`` and ``labels`` of any
    data set, and a loader needs no stage.

    A loader such as that of ``pipelines.image_loader`` gives whole batches, each a dictionary of ``pixel_values``,
    ``labels`` and, with a policy, ``augmented``; so the Trainer's collator has no effect. Its batch size is that of the
    Trainer, its share of the data that of this process, and all shares have the same sizes (``drop_last=True``).

    Each checkpoint gets a file ``dali_salaug_RANK.pt`` with the states of stage and loader. A run that resumes from it,
    in mid-epoch too, has the same pixels and draws, and decodes no batch that it skips.

    Args:
        args, kwargs: of the ``Trainer``.
        stage: what to do to the batches; None: nothing. The process of rank r > 0 gets another seed, derived from that
            of the stage.

    Raises:
        ValueError: ``stage`` is none; a loader has another batch size or is not that of this process; the batches of
            the processes differ in size; or a checkpoint to resume from has no such file, or that of another loader.

    Example:
        >>> trainer = SaliencyTrainer(
        ...     model, TrainingArguments("runs/mine"), train_dataset=loader, stage=SaliencyStage(KeepCutMix(1000))
        ... )
        >>> trainer.train(resume_from_checkpoint=True)
    """

    # What the mix-in uses of the Trainer.
    args: Any
    model_accepts_loss_kwargs: bool
    state: Any
    train_dataset: Any
    eval_dataset: Any
    compute_loss_func: Any

    def __init__(self, *args: Any, stage: SaliencyStage | None = None, **kwargs: Any) -> None:
        if stage is not None:
            check_stage(stage)
        super().__init__(*args, **kwargs)
        self.stage = stage
        for name, size in (("train", self.args.train_batch_size), ("eval", self.args.eval_batch_size)):
            given = getattr(self, f"{name}_dataset")
            for loader in given.values() if isinstance(given, dict) else (given,):
                if isinstance(loader, Loader):
                    _check_batches(name, loader, size, self.args.process_index, self.args.world_size)
        if stage is not None:
            stage.seed = seed_for_rank(stage.seed, self.args.process_index)
            # The loss is a mean over a batch, which the Trainer then divides by the number of accumulated batches.
            self.model_accepts_loss_kwargs = False

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        folder: Any = resume_from_checkpoint
        if folder is True:
            folder = get_last_checkpoint(self.args.output_dir)
        if folder:
            self._load_states(Path(folder))
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = dict(inputs)
        augmented = inputs.pop("augmented", None)
        if self.stage is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        self.stage.set_epoch(int(self.state.epoch or 0))
        images, targets = self.stage(_Logits(unwrap(model)), inputs["pixel_values"], inputs.pop("labels"), augmented)
        outputs = model(**inputs | {"pixel_values": images})
        if self.compute_loss_func is not None:
            loss = self.compute_loss_func(outputs, targets, num_items_in_batch=num_items_in_batch)
        else:
            smoothing = self.args.label_smoothing_factor
            loss = F.cross_entropy(_logits_of(outputs), targets, label_smoothing=smoothing)
        return (loss, outputs) if return_outputs else loss

    def get_train_dataloader(self) -> DataLoader:
        if isinstance(self.train_dataset, Loader):
            return _BatchLoader(self.train_dataset)
        return super().get_train_dataloader()  # type: ignore[misc]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        dataset = self.eval_dataset[dataset] if isinstance(dataset, str) else dataset
        if isinstance(dataset, Loader):
            return _EvaluationLoader(dataset, self.args.eval_batch_size * self.args.world_size)
        return super().get_eval_dataloader(eval_dataset)  # type: ignore[misc]

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        if isinstance(test_dataset, Loader):
            return self.get_eval_dataloader(test_dataset)
        return super().get_test_dataloader(test_dataset)  # type: ignore[misc]

    # The Trainer calls it for each process and each complete checkpoint, in every kind of run, before it uploads the
    # folder. The callbacks' on_save does not know the folder of a hyper-parameter search, and comes after the upload.
    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)  # type: ignore[misc]
        torch.save({name: part.state_dict() for name, part in self._parts().items()}, self._file(Path(output_dir)))

    def _load_states(self, folder: Path) -> None:
        parts, file = self._parts(), self._file(folder)
        try:
            states = torch.load(file, map_location="cpu", weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(states[name])
        except (OSError, EOFError, LookupError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{file}: cannot be resumed from: {error}. Resume from a checkpoint that this trainer wrote, with the"
                " same loader, stage and number of processes"
            ) from error

    def _parts(self) -> dict[str, Any]:
        """Return what has a state of its own."""
        parts = {"stage": self.stage, "loader": self.train_dataset if isinstance(self.train_dataset, Loader) else None}
        return {name: part for name, part in parts.items() if part is not None}

    def _file(self, folder: Path) -> Path:
        return folder / f"dali_salaug_{self.args.process_index}.pt"


class SaliencyTrainer(SaliencyTrainerMixin, Trainer):
    """A ``Trainer`` with the stage and loaders, see :class:`SaliencyTrainerMixin`."""


def _check_batches(name: str, loader: Any, batch_size: int, rank: int, world_size: int) -> None:
    """Raise ValueError unless the Trainer knows the batch size, and all processes have batches of the same sizes."""
    own = getattr(loader, "batch_size", batch_size)
    if own != batch_size:
        raise ValueError(f"per_device_{name}_batch_size must be that of {name}_dataset, {own}; got {batch_size}")
    name = f"{name}_dataset"
    check_share(name, loader, rank, world_size)
    drops = getattr(getattr(loader, "options", None), "drop_last", True)
    if world_size > 1 and not drops and len(loader.dataset) % (batch_size * world_size):
        raise ValueError(
            f"{name} must give all {world_size} processes batches of the same sizes, as they are averaged and gathered;"
            f" its {len(loader.dataset)} images are no multiple of {world_size} × {batch_size}. Use image_loader(...,"
            " drop_last=True), or another batch size"
        )


def _logits_of(outputs: Any) -> Tensor:
    return outputs["logits"] if isinstance(outputs, dict) else outputs[0]


class _Logits(nn.Module):
    """A model of transformers as a network from images to logits, at any size that it can interpolate to."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # Of the class: accelerate replaces the instance's forward where precision is mixed.
        accepted = inspect.signature(type(model).forward).parameters
        self.options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepted else {}
        self.side = getattr(getattr(model, "config", None), "image_size", None)

    def forward(self, images: Tensor) -> Tensor:
        options = {} if images.shape[-1] == self.side else self.options
        return _logits_of(self.model(pixel_values=images, **options))


class _Places:
    """Names the batches of an epoch, so that the Trainer can skip some without reading them: a batch sampler."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._epoch: int = loader.state_dict()["epoch"]

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Place]:
        epoch = self._epoch
        for number in range(len(self)):
            yield epoch, number

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch


class _Batches(Dataset):
    """The batches of a loader by their places; in order, each follows from the one before."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._next: Place | None = None
        self._batches: Iterator[Any] = iter(())

    def __len__(self) -> int:
        return len(self._loader.dataset)

    def __getitems__(self, place: Place) -> dict[str, Tensor]:
        if place != self._next:
            self._go_to(*place)
        batch = next(self._batches)
        self._next = (place[0], place[1] + 1)
        inputs = {"pixel_values": batch.images, "labels": batch.labels}
        return inputs if batch.augmented is None else inputs | {"augmented": batch.augmented}

    def _go_to(self, epoch: int, number: int) -> None:
        if number:
            self._loader.load_state_dict(self._loader.state_dict() | {"epoch": epoch, "batch": number})
        else:
            self._loader.set_epoch(epoch + 1)  # leaves a position of this epoch that was restored
            self._loader.set_epoch(epoch)
        self._batches = iter(self._loader)


class _BatchLoader(DataLoader):
    """A loader as a torch ``DataLoader``, which the Trainer takes apart to skip batches."""

    def __init__(self, loader: Loader) -> None:
        super().__init__(_Batches(loader), batch_sampler=_Places(loader), collate_fn=_unchanged)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class _EvaluationLoader(DataLoaderStateMixin, _BatchLoader):
    """As accelerate's loaders, it states the size of its last batch, by which the Trainer weights that batch's loss."""

    def __init__(self, loader: Loader, total_batch_size: int) -> None:
        super().__init__(loader)
        self.gradient_state = GradientState()
        self.total_batch_size = total_batch_size  # of all processes
        self._drop_last = False

    def __iter__(self) -> Any:
        self.begin()
        for number, batch in enumerate(super().__iter__(), 1):
            self.end_of_dataloader = number == len(self)
            yield batch
        self.end()


def _unchanged(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch
