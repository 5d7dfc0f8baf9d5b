"""Re-identification: batches of identities, a network with a neck, and validation by retrieval."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from dali_salaug import METHODS
from pipelines import Batch, ImageLoader
from train.data.loaders import empty_batch, make_loader
from train.distributed import ALONE, World
from train.engine.bad_files import count_replaced
from train.engine.schedule import layer_groups, make_optimizer
from train.engine.start import source_of
from train.engine.task import Task, Validation
from train.errors import UserError
from train.models.published import Source
from train.models.sizes import map_scale
from train.tasks.classification.pictures import write_figure
from train.tasks.classification.probe import check_network
from train.tasks.classification.stage import check_cuda_graph, training_stage
from train.tasks.reid.config import ReidConfig, ResolvedReidConfig
from train.tasks.reid.data import find_reid
from train.tasks.reid.evaluation import Gallery, comparable, ranking, sums_of, values_of
from train.tasks.reid.figures import embedded_figures
from train.tasks.reid.network import ReidNetwork
from train.tasks.reid.objective import ReidObjective
from train.tasks.reid.pictures import PICTURE, write_retrievals
from train.tasks.reid.sampler import IdentityBatches


def reid_folder(config: ReidConfig) -> Path:
    """Return the folder of the images; the first use of the embedded figures generates them."""
    return Path(config.data) if config.data else embedded_figures()


class Reidentification(Task):
    """See :class:`Task`.

    Args:
        config: resolved for its data.
        world: the processes that train together.

    Attributes:
        data: the images.
        sampler: of the training images.
    """

    train_loader: ImageLoader
    val_loader: ImageLoader
    metric = "val_map"

    def __init__(self, config: ResolvedReidConfig, world: World = ALONE) -> None:
        self.config, self.world = config, world
        self.data = data = find_reid(reid_folder(config))
        self.classes = data.train.classes
        if config.batch_identities > len(self.classes):
            raise UserError(
                f"--batch-identities must be at most {len(self.classes)}, the training identities of {data.train.root};"
                f" got {config.batch_identities}"
            )
        _check_share(config, world)
        labels, seed = data.train.class_indices, config.seed
        self.sampler = IdentityBatches(labels, config.batch_identities, config.batch_images, seed)
        own = {"images": None, "sampler": self.sampler}
        self.train_loader = make_loader(config, train=True, dataset=data.train, world=world, **own)
        self.val_loader = make_loader(config, train=False, dataset=data.test, world=world)
        check_cuda_graph(config, self.train_loader.device)
        self.datasets = {"training": data.train, "test": data.test}
        self._last: Gallery | None = None  # of the last validation

    @classmethod
    def read_source(cls, config: ReidConfig, stated: Collection[str], world: World = ALONE) -> Source | None:
        return source_of(config, stated, world)

    @classmethod
    def prepare(cls, config: ReidConfig) -> None:
        reid_folder(config)

    @classmethod
    def resolve(cls, config: ReidConfig, source: Source | None = None, world: World = ALONE) -> ResolvedReidConfig:
        _check_share(config, world)
        resolved = config.resolved_for(embedded=config.data is None)
        resolved.saliency_scale = map_scale(config, resolved)
        if source is not None:
            resolved.mean, resolved.std = config.mean or source.facts.mean, config.std or source.facts.std
        if world.is_main and resolved.saliency_scale != (config.saliency_scale or METHODS[config.method].scale):
            print(f"{resolved.model} takes no smaller images: its maps have full resolution (--saliency-scale 1)")
        return resolved

    def epoch_images(self) -> int:
        return len(self.sampler)

    def make_network(self) -> ReidNetwork:
        return ReidNetwork(self.config, len(self.classes), self.train_loader.device, self.world)

    def make_objective(self, network: ReidNetwork, steps: int) -> ReidObjective:  # type: ignore[override]
        config, seed = self.config, self.config.seed + self.world.rank
        stage = training_stage(config, network, len(self.classes), seed, samples=len(self.data.train))
        return ReidObjective(stage, network, config, self.world)

    def make_optimizer(self, network: ReidNetwork) -> Optimizer:  # type: ignore[override]
        return make_optimizer(self.config, layer_groups(self.config, network))

    def check(self, network: ReidNetwork) -> list[str]:  # type: ignore[override]
        warnings = check_network(self.config, network, len(self.classes), self.epoch_images(), self.world)
        if self.data.shared:
            some = ", ".join(self.data.shared[:3])
            warnings.append(
                f"{len(self.data.shared)} identities of the queries are trained on ({some}): the retrieval of others"
                " will be worse than the log states"
            )
        return warnings

    def empty_batch(self) -> Batch:
        return empty_batch(self.train_loader)

    def start_validation(self, network: ReidNetwork) -> "Retrieval":  # type: ignore[override]
        return Retrieval(self, network)

    def facts(self) -> dict[str, Any]:
        return {"mean": self.train_loader.mean, "std": self.train_loader.std}  # of the normalisation

    def describe(self, network: ReidNetwork, objective: ReidObjective) -> list[str]:
        config, data = self.config, self.data
        parameters = sum(p.numel() for p in network.model.parameters()) / 1e6
        return [
            f"{config.model}, {parameters:.2f} M parameters, {objective}",
            f"{len(data.train)} training images of {len(self.classes)} identities, {config.batch_identities} ×"
            f" {config.batch_images} in a step; {len(data.queries)} queries, {len(data.gallery)} gallery images;"
            f" {config.size[0]}×{config.size[1]}",
        ]

    def draw(self, network: ReidNetwork, objective: ReidObjective, path: Path) -> None:
        write_figure(self.train_loader, self.config, network, objective.stage.memory, path)
        if self._last is not None:
            write_retrievals(self.config, self.data.test, self._last, path.with_name(PICTURE))

    def keep(self, images: Gallery) -> None:
        """Keep the images of a validation, to be drawn."""
        self._last = images


def _check_share(config: ReidConfig, world: World) -> None:
    """Raise UserError where the processes and parts cannot share the identities of a step evenly."""
    parts = world.size * config.accumulate
    if config.batch_identities % parts or config.batch_identities == parts:
        raise UserError(
            "--batch-identities must be a multiple of the processes times --accumulate, and at least twice that,"
            f" {world.size} × {config.accumulate}, so that each part has several identities with all their images; got"
            f" {config.batch_identities}"
        )


class Retrieval(Validation):
    """Validation by Market-1501's protocol: "val_map", "val_rank1", 5 and 10, per cent, and "val_replaced".

    A test image that was replaced by another does not count; the others do once.
    """

    def __init__(self, task: Reidentification, network: ReidNetwork) -> None:
        self._task, self._model = task, network.validated
        device, count = task.train_loader.device, len(task.data.test)
        self._features = torch.zeros(count, network.model.features, device=device)
        self._seen = torch.zeros(count, dtype=torch.float32, device=device)
        self._replaced = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, batch: Batch) -> None:
        features = self._model.embed(batch.images).float()  # type: ignore[operator]
        self._features.index_add_(0, batch.indices, features)
        self._seen.index_add_(0, batch.indices, torch.ones_like(features[:, 0]))
        self._replaced += count_replaced(batch)

    def values(self) -> dict[str, float]:
        task, world, data = self._task, self._task.world, self._task.data
        device = self._seen.device
        features, seen = world.sum(self._features), world.sum(self._seen)
        features /= seen.clamp(min=1)[:, None]  # an image that replaced others was added for each of them
        identities, cameras, queries, gallery = (
            torch.from_numpy(each).to(device) for each in (data.identities, data.cameras, data.queries, data.gallery)
        )
        queries, gallery = (places[seen[places] > 0] for places in (queries, gallery))
        images = Gallery(comparable(features, task.config.distance), identities, cameras, queries, gallery)
        task.keep(images)
        sums = sums_of(*ranking(images, queries[world.rank :: world.size]))
        sums = world.sum(torch.cat([sums, self._replaced[None]]))
        return values_of(sums[:-1]) | {"val_replaced": round(sums[-1].item())}
