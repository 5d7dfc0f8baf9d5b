"""Classification, the task of a run without another: its loaders, network, objective, validation and picture."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from dali_salaug import METHODS
from pipelines import Batch, ImageLoader
from train.config import Config, ResolvedConfig
from train.data.loaders import (
    data_folder,
    empty_batch,
    make_loader,
    resolve_for_data,
    shares_images,
    validation_images,
)
from train.distributed import ALONE, World
from train.engine.bad_files import count_replaced
from train.engine.metrics import Meter, validation_sums
from train.engine.network import Network
from train.engine.schedule import layer_groups, make_optimizer
from train.engine.start import source_of
from train.engine.task import Task, Validation
from train.models.published import UNKNOWN, Source
from train.tasks.classification.objective import StageObjective, make_objective
from train.tasks.classification.pictures import write_figure
from train.tasks.classification.probe import check_network
from train.tasks.classification.stage import check_cuda_graph


class Classification(Task):
    """See :class:`Task`.

    Args:
        config: resolved for its data.
        world: the processes that train together.

    Attributes:
        labelled: the images with labels.
        labels_known: whether the labels of `train_loader` are those of its images.
    """

    train_loader: ImageLoader
    val_loader: ImageLoader
    metric = "val_top1"

    def __init__(self, config: ResolvedConfig, world: World = ALONE) -> None:
        self.config = config
        self.world = world
        self.train_loader = self._training_loader()
        device = self.train_loader.device
        check_cuda_graph(config, device)
        self.classes = self.train_loader.dataset.classes
        validation = validation_images(config, self.classes)
        self.val_loader = make_loader(config, train=False, dataset=validation, world=world)
        self.datasets = {"training": self.train_loader.dataset, "validation": self.val_loader.dataset}
        if self.labelled is not self.train_loader.dataset:
            self.datasets["labelled"] = self.labelled

    def _training_loader(self) -> ImageLoader:
        self.labels_known = True
        loader = make_loader(self.config, train=True, world=self.world)
        self.labelled = loader.dataset
        return loader

    @classmethod
    def prepare(cls, config: Config) -> None:
        data_folder(config)

    @classmethod
    def read_source(cls, config: Config, stated: Collection[str], world: World = ALONE) -> Source | None:
        return source_of(config, stated, world)

    @classmethod
    def resolve(cls, config: Config, source: Source | None = None, world: World = ALONE) -> ResolvedConfig:
        resolved = resolve_for_data(config, facts=UNKNOWN if source is None else source.facts)
        if world.is_main and resolved.saliency_scale != (config.saliency_scale or METHODS[config.method].scale):
            print(f"{resolved.model} takes no smaller images: its maps have full resolution (--saliency-scale 1)")
        return resolved

    def make_network(self) -> Network:
        return Network(self.config, len(self.classes), self.train_loader.device, self.world)

    def make_objective(self, network: Network, steps: int) -> StageObjective:
        seed, images = self.config.seed + self.world.rank, len(self.train_loader.dataset)
        return make_objective(self.config, network, len(self.classes), seed, samples=images)

    def make_optimizer(self, network: Network) -> Optimizer:
        return make_optimizer(self.config, layer_groups(self.config, network))

    def check(self, network: Network) -> list[str]:
        images = len(self.train_loader.dataset)
        warnings = check_network(self.config, network, len(self.classes), images, self.world)
        if self.config.data and self.config.held_out is None and shares_images(self.labelled, self.val_loader.dataset):
            own = self.config.val_data is None
            cause = f"{self.config.data} has no train/ and val/" if own else "--val-data has training images"
            warnings.append(f"{cause}: accuracies are on the training images")
        return warnings

    def empty_batch(self) -> Batch:
        return empty_batch(self.train_loader)

    def start_validation(self, network: Network) -> "TopK":
        return TopK(network, len(self.classes), self.world)

    def facts(self) -> dict[str, Any]:
        return {
            "mean": self.train_loader.mean,  # of the normalisation, as is std
            "std": self.train_loader.std,
            "resize_to": min(self.val_loader.recipe.resize_to or self.val_loader.image_size),  # the shorter side
        }

    def describe(self, network: Network, objective: StageObjective) -> list[str]:
        parameters = sum(p.numel() for p in network.model.parameters()) / 1e6
        return [
            f"{self.config.model}, {parameters:.2f} M parameters, {objective}",
            f"{self._images()} and {len(self.val_loader.dataset)} validation images of {len(self.classes)} classes at"
            f" {self.config.image_size}×{self.config.image_size}",
        ]

    def _images(self) -> str:
        return f"{len(self.train_loader.dataset)} training"

    def draw(self, network: Network, objective: StageObjective, path: Path) -> None:
        memory, known = objective.stage.memory, self.labels_known
        write_figure(self.train_loader, self.config, network, memory, path, labels_known=known)


class TopK(Validation):
    """Validation by cross-entropy and accuracy: "val_loss"; "val_top1" and, over 5 classes, "val_top5", per cent.

    And "val_replaced", the number of images that were replaced by others.
    """

    def __init__(self, network: Network, num_classes: int, world: World) -> None:
        names = ("val_loss", "val_top1", "val_top5") if num_classes > 5 else ("val_loss", "val_top1")
        self._model = network.validated
        self._meter = Meter((*names, "val_replaced"), next(self._model.parameters()).device, world)

    def add(self, batch: Batch) -> None:
        sums = validation_sums(self._model(batch.images).float(), batch.labels)
        self._meter.add([*sums, count_replaced(batch)], len(batch.labels))

    def values(self) -> dict[str, float]:
        means = self._meter.means("val_replaced")
        return {name: 100 * mean if "top" in name else mean for name, mean in means.items()}
