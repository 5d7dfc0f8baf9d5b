"""The runs of the comparison on one data set with one model: its sizes, the search for a learning rate, the table."""

import itertools
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dali_salaug import METHODS
from pipelines import Dataset, find_dataset
from train.analysis.evaluation.corrupting import LEAST
from train.cli.checks import check
from train.config import Config, ResolvedConfig
from train.data.loaders import absolute, data_folder, resolve_for_data, shares_images
from train.engine.network import Network
from train.errors import UserError, did_you_mean
from train.experiments.comparison import Condition
from train.experiments.tasks import Task
from train.models.sizes import only_side

EMBEDDED = "embedded"  # in place of a folder: the embedded data
MEMORY = "-memory"  # after a method's name: with the remembered map
DOZEN = (
    "none", "cutout", "keep_cutout", "keep_cutout-memory", "randaugment", "keep_randaugment", "cutmix", "keep_cutmix",
    "saliencymix", "salfmix", "hybridmix_v3", "puzzlemix",
)  # fmt: skip

# For two CPU cores. Each data set has the same budget of pixels: that of 30 epochs of 5,000 images of 32×32.
TRAIN_IMAGES, LARGEST_SIDE, BATCH_SIZE, SEEDS = 5_000, 64, 64, 3
BUDGET, EPOCHS = 30 * 5_000 * 32**2, (10, 40)
DURATION = "an hour on two CPU cores for the embedded data (an estimate; 40 minutes with --amp bfloat16)"

# The search: on training images that are held out, with a seed that the table does not have, for the plain network and
# for one that is strongly regularised. All methods get the rate that is best for the mean of both: so that they differ
# in nothing else, and in a seventh of the time that a search for each method would take.
SEARCHED, SEARCH_SEED, HELD_OUT = ("none", "cutmix"), 1_000, 1_000
RATES = {"sgd": (0.3, 1.0, 3.0), "adamw": (1.0, 3.0, 10.0)}  # times the default of training; that of AdamW is for large
OPTIMIZERS = {"vit_small": "adamw"}  # of the models that SGD trains badly


def condition_of(name: str, measured: tuple[str, ...]) -> Condition:
    """Return the row of a name of `--methods`: that of a method, or with "-memory" after it.

    Args:
        measured: the command that measures a run.

    Raises:
        UserError: there is no such method, or it uses no map of each image.
    """
    method = name.removesuffix(MEMORY)
    if method not in METHODS:
        hint = did_you_mean(name, (*METHODS, *DOZEN))
        legal = f"{', '.join(METHODS)}, and NAME-memory; or all, alone"
        raise UserError(f"--methods {name}: no such method; legal are {legal}{hint}")
    options: dict[str, Any] = {"method": method}
    if method != name:
        if not METHODS[method].build(2).uses_saliency:
            raise UserError(f"--methods {name}: {method} uses no map of each image, which could be remembered")
        options["saliency"] = "memory"
    return Condition(name, options, None if name == "none" else "none", measured=measured)


def plain_form(name: str) -> str | None:
    """Return the method that a row is without saliency; None where there is none."""
    return METHODS[name.removesuffix(MEMORY)].plain


@dataclass(frozen=True)
class Setting:
    """One data set with one model.

    Attributes:
        data: the folder, or EMBEDDED.
        model: its name.
        folder: of the runs.
        dataset: the training images.
        shared: the options of all runs but for method, seed and learning rate.
        count: of the images of a run of the table.
        resolved: a plain run of the table.
        rates: the learning rates to try.
    """

    data: str
    model: str
    folder: Path
    dataset: Dataset
    shared: dict[str, Any]
    count: int
    resolved: ResolvedConfig
    rates: tuple[float, ...]

    @property
    def name(self) -> str:
        """The data's name alone: its place says nothing to others."""
        return data_name(self.data)

    def __str__(self) -> str:
        return f"{self.name}, {self.model}"

    @property
    def held_out(self) -> int:
        """Number of the training images that the search validates on."""
        return min(HELD_OUT, max(len(self.dataset.classes), len(self.dataset) // 5))

    def search(self) -> list[Task]:
        """Return the runs of the search; none for a single rate."""
        if len(self.rates) == 1:
            return []
        trained = min(self.count, len(self.dataset) - self.held_out)
        own = {"held_out": self.held_out, "train_images": trained, "seed": SEARCH_SEED}
        return [
            self._task(Condition(f"{method}-{rate:g}", own | {"method": method, "lr": rate}), "search")
            for rate, method in itertools.product(self.rates, SEARCHED)
        ]

    def table(self, conditions: list[Condition], rate: float, seeds: int) -> list[Task]:
        """Return the runs of the table, seed by seed, so that a table of one seed is complete early."""
        return [
            self._task(condition._replace(options=condition.options | {"lr": rate, "seed": seed}), "runs")
            for seed, condition in itertools.product(range(seeds), conditions)
        ]

    def _task(self, condition: Condition, stage: str) -> Task:
        stated = self.shared | condition.options
        config = Config(**stated)
        check(config)
        place = self.folder / stage / condition.name / f"seed{config.seed}"
        return Task(condition, config.seed, place, stated, resolve_for_data(config, self.dataset))

    def corruptible(self) -> bool:
        """Return whether the images are large enough for the corruptions."""
        return self.resolved.image_size >= LEAST


def data_name(data: str) -> str:
    """Return the name of a data set, that of its folder."""
    return data if data == EMBEDDED else Path(data).resolve().name


def setting_of(
    data: str, model: str, out: Path, *, epochs: int | None, train_images: int | None, image_size: int | None,
    batch_size: int, optimizer: str | None, amp: str, rates: list[float] | None,
) -> Setting:  # fmt: skip
    """Return a data set with a model, with the sizes that are not stated.

    Args:
        train_images: 0: all; None: at most TRAIN_IMAGES.
        epochs: None: as many as BUDGET allows, within EPOCHS.
        image_size: None: that of training, at most LARGEST_SIDE where the model takes it.
        optimizer: None: what suits the model.
        rates: the factors of training's default; None: RATES.

    Raises:
        UserError, DataError: the data or an option cannot be used.
    """
    shared: dict[str, Any] = {"model": model, "batch_size": batch_size, "amp": amp}
    shared["optimizer"] = optimizer or OPTIMIZERS.get(model, "sgd")
    if data != EMBEDDED:
        shared["data"] = absolute(data)
    check(Config(**shared, method="none"))
    folder = data_folder(Config(data=shared.get("data")))
    dataset = find_dataset(folder)
    if shares_images(dataset, find_dataset(folder, train=False)):
        raise UserError(f"{data} has no train/ and val/: a table needs images that were not trained on")
    count = len(dataset) if train_images == 0 else min(len(dataset), train_images or TRAIN_IMAGES)
    if count < len(dataset):
        shared["train_images"] = count
    side = image_size or resolve_for_data(Config(**shared, method="none"), dataset).image_size
    if image_size is None and side > LARGEST_SIDE and only_side(model) is None:
        side = LARGEST_SIDE
    shared["image_size"] = side
    least, most = EPOCHS
    shared["epochs"] = epochs or min(most, max(least, round(BUDGET / (count * side**2))))
    shared["validate_every"] = shared["epochs"]
    resolved = resolve_for_data(Config(**shared, method="none"), dataset)
    Network(resolved, len(dataset.classes), torch.device("cpu"))  # can it be built for the size?
    factors = RATES.get(resolved.optimizer, RATES["sgd"]) if rates is None else sorted(set(rates))
    tried = tuple(float(f"{resolved.lr * factor:.3g}") for factor in factors)
    place = out / data_name(data) / model.replace("/", "-")
    return Setting(data, model, place, dataset, shared, count, resolved, tried)


def accuracies(tasks: list[Task]) -> dict[float, dict[str, float]]:
    """Return the top-1 of the finished runs of a search, by rate and method, per cent."""
    found: dict[float, dict[str, float]] = {}
    for task in tasks:
        outcome = task.outcome()
        if outcome is not None:
            found.setdefault(task.options["lr"], {})[task.options["method"]] = outcome.value
    return found


def best_rate(found: Mapping[float, Mapping[str, float]]) -> float:
    """Return the rate with the greatest mean over the methods; of equal ones the lowest."""
    return max(sorted(found), key=lambda rate: statistics.fmean(found[rate].values()))
