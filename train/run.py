"""Everything that a run is made of, built from its configuration, and its state for a checkpoint."""

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from dali_salaug import SaliencyStage, WithEarlyHead
from pipelines import Batch, Dataset, ImageLoader, find_dataset, image_loader
from train import checkpoint
from train.config import Config, UserError
from train.consistency import check_layers, losses_of, make_consistency, names_of_losses
from train.methods import METHODS
from train.metrics import Meter
from train.models import FIRST_BLOCK, build_model
from train.shapes import embedded_data

# May be given anew with --resume: the result does not depend on them (that the data is the same, wherever it lies, the
# loader checks), but for the number of epochs, with which the cosine is drawn out or shortened from here on.
FREE_OPTIONS = ("out", "data", "workers", "checkpoint_every", "epochs")


def data_folder(config: Config) -> Path:
    """The folder of the images; generates the embedded data on its first use."""
    return Path(config.data) if config.data else embedded_data()


def resolve_for_data(config: Config, dataset: Dataset | None = None) -> Config:
    """The configuration with all defaults that depend on the data filled in; `dataset` is that, where already found."""
    dataset = dataset or find_dataset(data_folder(config))
    return config.resolved(side=_first_side(dataset), embedded=config.data is None, cifar=dataset.paths is None)


def shares_images(train: Dataset, validation: Dataset) -> bool:
    """Whether some files are in both: `find_dataset` gives a folder without train/ and val/ for both."""
    return not set(train.paths or ()).isdisjoint(validation.paths or ())


def _first_side(dataset: Dataset) -> int:
    from PIL import Image

    if dataset.paths is None:
        return min(dataset.images.shape[1:3])  # type: ignore[union-attr]
    try:
        with Image.open(dataset.paths[0]) as image:
            return min(image.size)
    except OSError as error:
        raise UserError(f"{dataset.paths[0]}: cannot be read ({error}); remove it, or give --image-size") from error


def make_loader(config: Config, *, train: bool, dataset: Dataset | None = None, **changes: Any) -> ImageLoader:
    """The loader of a resolved configuration; `changes` go to `pipelines.image_loader` in place of its values."""
    root = data_folder(config) if dataset is None else dataset
    options: dict[str, Any] = {
        "batch_size": config.batch_size,
        "image_size": config.image_size,
        "policy": config.policy if train else None,
        "device": config.device,
        "seed": config.seed,
        "num_threads": config.workers,
        "interpolation": config.interpolation,
        "crop": config.crop,
        "crop_scale": config.crop_scale,
        "color_jitter": config.color_jitter,
    }
    if train:
        options["images"] = config.train_images
        options["with_matrices"] = config.consistency is not None and config.policy is not None
    return image_loader(root, train=train, **(options | changes))


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


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights with decay; biases and the scales and shifts of normalisation layers without."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def steps_with_warmup(step: int, *, warmup: int, drops: list[int]) -> float:
    """Factor on the learning rate at a step: linear up to 1 over `warmup`, divided by 10 from each of `drops` on."""
    return min(1.0, (step + 1) / (warmup + 1)) * 0.1 ** sum(step >= drop for drop in drops)


def cosine_with_warmup(step: int, *, warmup: int, total: int) -> float:
    """Factor on the learning rate at a step: linear up to 1 over `warmup` steps, then a half cosine down to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


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
        meter: the training loss and its parts, in the epoch under way.
        best: the best top-1 so far, per cent.
    """

    def __init__(self, config: Config) -> None:
        assert config.epochs is not None
        assert config.image_size is not None
        assert config.lr is not None
        assert config.weight_decay is not None
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
        groups = parameter_groups(self.with_head or self.model, config.weight_decay)
        self.optimizer = SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
        steps = len(self.train_loader)
        warmup, total = round(config.lr_warmup_epochs * steps), config.epochs * steps
        factor = functools.partial(cosine_with_warmup, warmup=warmup, total=total)
        if config.lr_steps is not None:
            factor = functools.partial(
                steps_with_warmup, warmup=warmup, drops=[epoch * steps for epoch in config.lr_steps]
            )
        self.scheduler = LambdaLR(self.optimizer, factor)
        self.stage = self.make_stage(config.seed)
        self.consistency = make_consistency(config)
        check_layers(self.consistency, self.model, config.image_size)

        self.epoch = 0
        self.step = 0
        self.seconds = 0.0
        self.meter = Meter(names_of_losses(self.consistency), self.device)
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


class Trained(NamedTuple):
    """The best checkpoint of a run, to be measured."""

    config: Config  # resolved
    classes: list[str]
    model: nn.Module  # without an early head; on `device`
    mean: Tensor  # of the normalisation, (3, 1, 1), as is std; on `device`
    std: Tensor
    device: torch.device


def load_best(run: Path) -> Trained:
    """best.pt of a run, given the folder or the file.

    Raises:
        UserError: there is none, or it is not of this program.
    """
    path = run / "best.pt" if run.is_dir() else run
    state = checkpoint.load(path)
    if not {"config", "classes", "model", "mean", "std"} <= set(state):
        raise UserError(f"{path}: not a checkpoint of a run; give the run's folder, or its best.pt")
    config = Config.from_dict(state["config"])
    assert config.image_size is not None
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    model = build_model(config.model, len(state["classes"]), config.image_size)
    model.load_state_dict(state["model"])
    mean, std = (torch.tensor(state[name], device=device).view(3, 1, 1) for name in ("mean", "std"))
    return Trained(config, state["classes"], model.to(device), mean, std, device)


def loader_of(trained: Trained, config: Config, dataset: Dataset, **changes: Any) -> ImageLoader:
    """The images as in validation, normalised for the model, with the policy of `config`; see `make_loader`."""
    mean, std = (tuple(values.flatten().tolist()) for values in (trained.mean, trained.std))
    options = {"policy": config.policy, "device": trained.device, "mean": mean, "std": std}
    return make_loader(config, train=False, dataset=dataset, **(options | changes))


def spread_evenly(count: int, limit: int) -> np.ndarray:
    """At most `limit` of the numbers 0 … count − 1, in order, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(limit, count)).round().astype(int))


def config_to_resume(stored: Config, given: dict[str, Any]) -> Config:
    """The configuration of the checkpoint, with what may change taken from the command line.

    Raises:
        UserError: the command line asks for something else than the run was begun with; the message says what.
    """
    for name, value in given.items():
        if name in FREE_OPTIONS:
            setattr(stored, name, value)
    differs = [
        f"--{name.replace('_', '-')} is {getattr(stored, name)} in the checkpoint, {value} on the command line"
        for name, value in given.items()
        if getattr(stored, name) != value
    ]
    if differs:
        raise UserError(
            f"cannot resume: {'; '.join(differs)}. Leave the option out, or begin a new run in another --out"
        )
    return stored
