"""Lightning: a callback that puts the stage in front of ``training_step``, and a data module over any loader.

The user's LightningModule stays as it is: its ``training_step`` receives the network's inputs and targets.
"""

from collections.abc import Callable, Iterator
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from ..stage import SaliencyStage
from .common import Batch, Loader, check_loader, check_stage, gather_states, load_own_state, seed_for_rank


class SaliencyAugmentation(Callback):
    """Replaces each training batch by the stage's inputs and targets, just before ``training_step``.

    The batch is a list ``[images, labels]`` or ``[images, labels, augmented]``, as :class:`ImageDataModule` and torch's
    ``DataLoader`` make it. It becomes ``[inputs, targets]`` in place: that is the only way in which a callback can
    change the batch without a change to the module. The saliency pass has the trainer's precision. A checkpoint holds
    the state of the stage of every process, so that a resumed run has the same draws.

    Args:
        stage: what to do to the batches. The process of rank r > 0 gets another seed, derived from that of the stage.
        model: the name of the submodule that takes images (B, C, H, W) to logits (B, K), such as "network"; None: the
            LightningModule itself, by its ``forward``.

    Raises:
        ValueError: ``stage`` is none. In training: the module has neither ``forward`` nor such a submodule; a batch is
            no such list; or a checkpoint is of another number of processes.

    Example:
        >>> trainer = lightning.Trainer(callbacks=[SaliencyAugmentation(SaliencyStage(KeepCutMix(num_classes=1000)))])
    """

    def __init__(self, stage: SaliencyStage, model: str | None = None) -> None:
        check_stage(stage)
        self.stage = stage
        self.model = model
        self._seed = stage.seed
        self._states: list[dict[str, Any]] | None = None  # restored, before it is known whether the trainer trains

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._network(pl_module)
            self.stage.seed = seed_for_rank(self._seed, trainer.global_rank)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._states is not None:
            load_own_state(self.stage, self._states, trainer.global_rank, trainer.world_size)
            self._states = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not isinstance(batch, list) or len(batch) not in (2, 3) or not all(isinstance(b, Tensor) for b in batch):
            raise ValueError(
                "a training batch must be a list [images, labels] or [images, labels, augmented] of tensors, as of an"
                f" ImageDataModule or a torch DataLoader; got {_described(batch)}"
            )
        self.stage.set_epoch(trainer.current_epoch)  # not in on_train_epoch_start, which a resumed epoch does not call
        with trainer.precision_plugin.train_step_context():
            batch[:] = self.stage(self._network(pl_module), *batch)

    def state_dict(self) -> dict[str, Any]:
        return {"stages": gather_states(self.stage)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._states = state_dict["stages"]

    def _network(self, pl_module: LightningModule) -> nn.Module:
        if self.model is None:
            if not is_overridden("forward", pl_module):
                raise ValueError(
                    f"{type(pl_module).__name__} must have a forward(images) that returns logits; or name the submodule"
                    ' that does: SaliencyAugmentation(stage, model="network")'
                )
            return pl_module
        try:
            return pl_module.get_submodule(self.model)
        except AttributeError:
            names = ", ".join(name for name, _ in pl_module.named_children())
            raise ValueError(
                f"model must be None or a submodule of {type(pl_module).__name__}, such as {names}; got {self.model!r}"
            ) from None


def _described(batch: object) -> str:
    if isinstance(batch, list | tuple):
        return f"a {type(batch).__name__} of {', '.join(type(part).__name__ for part in batch)}"
    return f"a {type(batch).__name__}"


class _Lists:
    """A loader's batches as lists, for the epoch in which the trainer is."""

    def __init__(self, loader: Loader, trainer: Trainer) -> None:
        self._loader = loader
        self._trainer = trainer

    def __len__(self) -> int:
        return len(self._loader)

    @property
    def dataset(self) -> Any:
        return self._loader.dataset

    # A generator: Lightning makes iterators that it does not use, and those must not move the loader.
    def __iter__(self) -> Iterator[list[Tensor]]:
        self._loader.set_epoch(self._trainer.current_epoch)
        for batch in self._loader:
            yield as_list(batch)

    # Lightning saves and restores these too; without them it warns that the loader cannot resume.
    def state_dict(self) -> dict[str, Any]:
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loader.load_state_dict(state)


def as_list(batch: Batch) -> list[Tensor]:
    """Return ``[images, labels]``; with an augmented copy ``[images, labels, augmented]``."""
    return [batch.images, batch.labels] + ([] if batch.augmented is None else [batch.augmented])


class ImageDataModule(LightningDataModule):
    """Loaders such as ``pipelines.image_loader`` as a data module, whose checkpoints resume in mid-epoch.

    Each argument makes a loader when it is called with ``rank`` and ``world_size``, those of the trainer's processes. A
    batch is a list ``[images, labels]`` on the loader's device. A loader with a policy adds the augmented images, which
    :class:`SaliencyAugmentation` takes out again. The position in the data is in every checkpoint, and a resumed epoch
    continues with the same pixels, also if ``configure_optimizers`` uses ``trainer.estimated_stepping_batches``.

    Args:
        train, val, test: callables that return a loader; None: the trainer has no such data.

    Raises:
        ValueError: an argument is neither None nor callable, or returns something else than a loader; or a checkpoint
            is of a loader with other data, another seed, batch size or number of processes.

    Example:
        >>> data = ImageDataModule(
        ...     train=partial(image_loader, "/data/imagenet", batch_size=256),
        ...     val=partial(image_loader, "/data/imagenet", batch_size=256, train=False),
        ... )
        >>> trainer.fit(module, datamodule=data)
    """

    def __init__(
        self,
        train: Callable[..., Loader] | None = None,
        val: Callable[..., Loader] | None = None,
        test: Callable[..., Loader] | None = None,
    ) -> None:
        super().__init__()
        self._makers = {"train": train, "val": val, "test": test}
        for name, make in self._makers.items():
            if make is not None and not callable(make):
                raise ValueError(
                    f"{name} must be a callable that takes rank and world_size, such as functools.partial(image_loader,"
                    f' "/data", batch_size=256); got {make!r}'
                )
        self._train: Loader | None = None
        self._state: dict[str, Any] | None = None  # restored, for a loader that does not exist yet

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self._train = self._state = None

    def train_dataloader(self) -> Any:
        self._train = self._make("train")
        if self._train is None:
            return super().train_dataloader()  # Lightning's error
        if self._state is not None:
            self._train.load_state_dict(self._state)
            self._state = None
        return _Lists(self._train, self._running)

    def val_dataloader(self) -> Any:
        loader = self._make("val")
        return [] if loader is None else _Lists(loader, self._running)

    def test_dataloader(self) -> Any:
        loader = self._make("test")
        return super().test_dataloader() if loader is None else _Lists(loader, self._running)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._train is None else {"train": self._train.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._running.state.fn != TrainerFn.FITTING:
            return
        if self._train is None:
            self._state = state_dict["train"]
        else:
            self._train.load_state_dict(state_dict["train"])

    @property
    def _running(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError(
                "an ImageDataModule makes its loaders for a trainer: trainer.fit(module, datamodule=...)"
            )
        return self.trainer

    def _make(self, name: str) -> Loader | None:
        make = self._makers[name]
        if make is None:
            return None
        loader = make(rank=self._running.global_rank, world_size=self._running.world_size)
        check_loader(f"what {name} returns", loader)
        return loader
