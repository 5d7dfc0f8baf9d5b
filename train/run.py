"""Everything that a run is made of, built from its configuration, and its state for a checkpoint."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dali_salaug import SaliencyStage, WithEarlyHead
from pipelines import Batch
from train import checkpoint
from train.config import Config, UserError
from train.consistency import check_layers, losses_of, make_consistency, names_of_losses
from train.data import make_loader
from train.methods import METHODS
from train.metrics import Meter
from train.models import FIRST_BLOCK, build_model
from train.schedule import make_optimizer, make_scheduler


def make_stage(config: Config, classes: int, seed: int, **options: Any) -> SaliencyStage:
    """The stage of a resolved configuration; `options` as of :class:`SaliencyStage`."""
    return SaliencyStage(
        METHODS[config.method].build(config, classes),
        saliency=config.saliency or "gradient",
        scale=config.scale or 0.5,
        target=config.target or "label",
        seed=seed,
        **options,
    )


class Run:
    """A training run: loaders, model, optimizer, schedule, stage, and how far it has come.

    Args:
        config: resolved for its data.

    Attributes:
        model: the network, free of the early head.
        with_head: the same with its early head, always in training mode; None without one.
        epoch: whole epochs done (validated and logged).
        step: steps done in the epoch under way.
        seconds: spent in the epoch under way.
        consistency: the saliency-consistency loss; None where the loss is the network's on the stage's inputs.
        meter: the training loss and its parts, and the number of images replaced, in the epoch under way.
        best: the best top-1 so far, per cent.
    """

    def __init__(self, config: Config) -> None:
        assert config.image_size is not None
        if config.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: there is no usable CUDA device; legal are auto and cpu")
        self.config = config
        self.train_loader = make_loader(config, train=True)
        self.val_loader = make_loader(config, train=False)
        self.classes = self.train_loader.dataset.classes
        self.device = self.train_loader.device
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all steps have the same two image sizes

        torch.manual_seed(config.seed)
        model = build_model(config.model, len(self.classes), config.image_size)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.with_head = None if config.early_head == "off" else self._with_early_head()
        self.optimizer = make_optimizer(config, self.with_head or self.model)
        self.scheduler = make_scheduler(config, self.optimizer, len(self.train_loader))
        self.stage = self.make_stage(config.seed)
        self.consistency = make_consistency(config)
        check_layers(self.consistency, self.model, config.image_size)

        self.epoch = 0
        self.step = 0
        self.seconds = 0.0
        self.meter = Meter((*names_of_losses(self.consistency), "replaced"), self.device)
        self.best = -1.0

    def make_stage(self, seed: int) -> SaliencyStage:
        head = None if self.with_head is None else self.with_head.early
        return make_stage(self.config, len(self.classes), seed, warmup_epochs=self.config.warmup_epochs, head=head)

    def _with_early_head(self) -> WithEarlyHead:
        name = self.config.early_head
        after = FIRST_BLOCK.get(self.config.model) if name == "auto" else name
        try:
            return WithEarlyHead(self.model, len(self.classes), after)
        except ValueError as error:
            raise UserError(f"--early-head {name}: {error}") from error

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of a training step by the meter's names: "loss", with the graph, and its parts where it has some."""
        if self.consistency is not None:
            return losses_of(self.consistency, self.stage, self.model, batch)
        inputs, targets = self.stage(self.model, batch.images, batch.labels, batch.augmented)
        return {"loss": self._loss(inputs, targets)}

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The network's loss, and the weighted one of the early head where there is one."""
        cross_entropy = functools.partial(F.cross_entropy, label_smoothing=self.config.label_smoothing)
        if self.with_head is None:
            return cross_entropy(self.model(inputs), targets)
        logits, early = self.with_head(inputs)
        return cross_entropy(logits, targets) + self.config.early_weight * cross_entropy(early, targets)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on: tensors and plain types."""
        return {
            "config": self.config.to_dict(),
            "classes": self.classes,
            "mean": self.train_loader.mean,  # of the normalisation, as is std
            "std": self.train_loader.std,
            "resize_to": self.val_loader.recipe.resize_to or self.config.image_size,  # in validation, before the crop
            "model": self.model.state_dict(),
            "early_head": None if self.with_head is None else self.with_head.classifier.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "stage": self.stage.state_dict(),
            "loader": self.train_loader.state_dict(),
            "random": checkpoint.random_state(),
            "meter": self.meter.state_dict(),
            "progress": {"epoch": self.epoch, "step": self.step, "seconds": self.seconds, "best": self.best},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            UserError: the images have changed since.
        """
        try:
            self.train_loader.load_state_dict(state["loader"])
        except ValueError as error:
            raise UserError(f"cannot resume: {error}") from error
        self.model.load_state_dict(state["model"])
        if self.with_head is not None:
            self.with_head.classifier.load_state_dict(state["early_head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.stage.load_state_dict(state["stage"])
        self.meter.load_state_dict(state["meter"])
        self.epoch, self.step, self.seconds, self.best = (
            state["progress"][name] for name in ("epoch", "step", "seconds", "best")
        )
        checkpoint.set_random_state(state["random"])
