"""Detection: torchvision's detectors on the backbone of a run of classification."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pipelines import Batch, ImageLoader
from train.distributed import ALONE, World
from train.engine.ema import AveragedWeights
from train.engine.network import Network
from train.engine.objective import BatchOutcome, Objective
from train.engine.schedule import make_optimizer, parameter_groups
from train.engine.start import load_start, read_weights
from train.engine.task import Task, Validation
from train.errors import UserError
from train.models.published import Source
from train.models.registry import build_model
from train.tasks.detection import pictures
from train.tasks.detection.config import DetectionConfig, ResolvedDetectionConfig
from train.tasks.detection.detectors import LOSSES, Detector, DetectorOptions, targets_of
from train.tasks.detection.loaders import (
    data_folder,
    empty_batch,
    make_loader,
    objects_of,
    training_images,
    validation_images,
)
from train.tasks.detection.metrics import Found, evaluate, in_whole_images

_TYPES = {"off": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Detection(Task):
    """See :class:`Task`.

    Args:
        config: resolved for its data.
        world: the processes that train together.
    """

    train_loader: ImageLoader
    val_loader: ImageLoader
    metric = "val_map"

    def __init__(self, config: ResolvedDetectionConfig, world: World = ALONE) -> None:
        self.config = config
        self.world = world
        training = training_images(config)
        self.classes = training.classes
        validation = validation_images(config, self.classes)
        self.train_loader = make_loader(config, training, train=True, world=world)
        self.val_loader = make_loader(config, validation, train=False, world=world)
        self.datasets = {"training": training, "validation": validation}

    def epoch_images(self) -> int:
        return self.config.samples(len(self.datasets["training"]))

    @classmethod
    def prepare(cls, config: DetectionConfig) -> None:
        data_folder(config)

    @classmethod
    def read_source(cls, config: DetectionConfig, stated: Collection[str], world: World = ALONE) -> Source | None:
        if config.backbone is None:
            return None
        source = read_weights(Path(config.backbone), "--backbone")
        if source.model is not None and "model" not in stated:
            config.model = source.model
        return source

    @classmethod
    def resolve(
        cls, config: DetectionConfig, source: Source | None = None, world: World = ALONE
    ) -> ResolvedDetectionConfig:
        resolved = config.resolved(*((None, None) if source is None else (source.facts.mean, source.facts.std)))
        if resolved.iterations is not None and resolved.iterations % resolved.epochs:
            raise UserError(
                f"--iterations must be a multiple of --epochs, {resolved.epochs} by default; got {resolved.iterations}"
            )
        return resolved

    def make_network(self) -> "DetectionNetwork":
        torch.backends.cudnn.benchmark = False  # it would try all algorithms for each new size of a batch
        return DetectionNetwork(self.config, len(self.classes), self.train_loader.device, self.world)

    def make_objective(self, network: Network, steps: int) -> "DetectionObjective":
        return DetectionObjective(network, self.config.detector)

    def make_optimizer(self, network: Network) -> Optimizer:
        groups = parameter_groups(list(network.module.parameters()), self.config.weight_decay)
        return make_optimizer(self.config, groups)

    def check(self, network: Network) -> list[str]:
        warnings = []
        if self.config.backbone is None:
            warnings.append("the backbone starts from random weights: --backbone RUN takes those of a run")
        if self.datasets["training"].shares_files(self.datasets["validation"]):
            warnings.append("some validation images are training images too: the precision is too high")
        return warnings

    def empty_batch(self) -> Batch:
        return empty_batch(self.train_loader.device)

    def start_validation(self, network: Network) -> "Precision":
        return Precision(network, self.val_loader, self.world)

    def facts(self) -> dict[str, Any]:
        return {"mean": self.train_loader.mean, "std": self.train_loader.std}

    def describe(self, network: Network, objective: Objective) -> list[str]:
        parameters = list(network.model.parameters())
        total, trained = (sum(p.numel() for p in each) / 1e6 for each in (parameters, _trained(parameters)))
        config, objects = self.config, objects_of(self.datasets["training"])
        return [
            f"{config.detector} on {config.model}, {total:.2f} M parameters, {trained:.2f} M of them trained,"
            f" BatchNorm {config.batch_norm}",
            f"{len(objects)} training images with {int(objects.counts(with_crowds=False).sum())} objects and"
            f" {len(self.val_loader.dataset)} validation images of {len(self.classes)} classes, shorter side"
            f" {', '.join(map(str, config.short_sides))}",
        ]

    def draw(self, network: Network, objective: Objective, path: Path) -> None:
        batch = next(iter(make_loader(self.config, self.datasets["training"], train=True, **self._quiet(1))))
        pictures.write_batch(batch, self.classes, path, mean=self.train_loader.mean, std=self.train_loader.std)
        loader = make_loader(self.config, self.datasets["validation"], train=False, **self._quiet(0))
        found = found_in(network, next(iter(loader)), loader)
        pictures.write_detections(self.datasets["validation"], found, self.classes, path.with_name("detections.png"))

    def _quiet(self, more: int) -> dict[str, Any]:
        """Return the arguments of a loader for a picture, whose draws are not those of the run."""
        return {"batch_size": pictures.IMAGES, "seed": self.config.seed + more, "sampler": None}


def _trained(parameters: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]


class DetectionNetwork(Network):
    """A detector with everything that a run wraps around it.

    Args:
        config: of the run.
        num_classes: K.
        device: of the weights.
        world: the processes that train together.
    """

    def __init__(
        self, config: ResolvedDetectionConfig, num_classes: int, device: torch.device, world: World = ALONE
    ) -> None:
        self._classifier = build_model(config.model, num_classes, None)
        trainable = config.trainable_layers
        options = DetectorOptions(
            config.detector,
            side=config.short_sides[-1],
            channels=config.pyramid_channels,
            proposals=config.proposals,
            trainable=trainable,
            frozen_norm=config.batch_norm == "frozen",
            amp=_TYPES[config.amp],
        )
        detector = Detector(self._classifier, num_classes, options, config.model)
        self.model = detector.to(device).to(memory_format=torch.channels_last)
        self.num_classes = num_classes
        self.name = config.model
        self.frozen_trunk = False
        self.averaged = AveragedWeights(self.model, config.ema) if config.ema else None
        self.with_head = None
        self._wrap(world, compiled=False)

    def start_from(self, source: Source, classes: list[str]) -> str:
        """Load the weights of the backbone, before the first step; a classifier's head is left out."""
        load_start(self._classifier, classes, source, self.name)
        if self.averaged is not None:
            self.averaged.model.load_state_dict(self.model.state_dict())
        return f"the backbone has the weights of {source.name}; the detector on top of it starts anew"


class DetectionObjective(Objective):
    """The losses of torchvision's detectors, and their sum.

    Args:
        network: whose model is a :class:`Detector`.
        kind: of the detector.
    """

    measure_names = ()

    def __init__(self, network: Network, kind: str) -> None:
        self.network = network
        retina = kind == "retinanet"
        self.loss_names = ("loss", *(name for key, name in LOSSES.items() if key.startswith("loss_") != retina))

    def set_epoch(self, epoch: int) -> None:
        pass

    def __call__(self, batch: Batch) -> BatchOutcome:
        found: dict[str, Tensor] = self.network.trained(batch.images, batch.sizes, targets_of(batch))
        losses = {LOSSES[name]: loss for name, loss in found.items()}
        total = torch.stack(list(losses.values())).sum()
        losses = {"loss": total} | {name: loss.detach() for name, loss in losses.items()}
        return BatchOutcome({name: losses[name] for name in self.loss_names}, {})

    def exchange(self) -> None:
        pass

    def shared_state_dict(self) -> dict[str, Any]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any], shared: dict[str, Any]) -> None:
        pass


class Precision(Validation):
    """Validation by the precision of the detections, see `evaluate`.

    And "val_replaced", the number of images that were replaced by others.
    """

    def __init__(self, network: Network, loader: ImageLoader, world: World) -> None:
        self._network, self._loader, self._world = network, loader, world
        self._found: dict[int, Found] = {}
        self._replaced = 0

    def add(self, batch: Batch) -> None:
        self._found |= found_in(self._network, batch, self._loader)
        self._replaced += len(batch.replaced)

    def values(self) -> dict[str, float]:
        values = evaluate(objects_of(self._loader.dataset), self._found, self._world)
        return values | {"val_replaced": sum(self._world.gather(self._replaced))}


@torch.no_grad()
def found_in(network: Network, batch: Batch, loader: ImageLoader) -> dict[int, Found]:
    """Return what the network finds in the images of a batch, by their places. Waits for the device."""
    training = network.validated.training
    detections = network.validated.eval()(batch.images, batch.sizes)
    network.validated.train(training)
    places = batch.indices.tolist()
    whole = objects_of(loader.dataset).sizes[places]
    return dict(zip(places, in_whole_images(detections, batch.sizes, whole), strict=True))
