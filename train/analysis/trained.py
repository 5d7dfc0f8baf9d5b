"""The best network of a finished run, and images for it."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipelines import Dataset, ImageLoader
from train.cli.checks import check
from train.config import Config, ResolvedConfig
from train.data.loaders import make_loader
from train.engine import checkpoint
from train.errors import UserError
from train.models.registry import build_model
from train.models.sizes import map_scale

OF_THE_METHOD = ("policy", "saliency", "saliency_scale", "saliency_target")  # the run's say nothing of another method
UNKNOWN = -1  # label of an image whose class the run does not know


class Trained(NamedTuple):
    """The best checkpoint of a run."""

    config: ResolvedConfig
    classes: list[str]
    model: nn.Module  # without an early head; on `device`
    mean: Tensor  # of the normalisation, (3, 1, 1), as is std; on `device`
    std: Tensor
    device: torch.device


def load_best(run: Path) -> Trained:
    """Return the best checkpoint of a run.

    Args:
        run: its folder, or its best.pt.

    Raises:
        UserError: there is no such file, or it is not a checkpoint of a run.
    """
    path = run / checkpoint.BEST if run.is_dir() else run
    state, config = checkpoint.load_run(path)
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    model = build_model(config.model, len(state["classes"]), config.image_size)
    checkpoint.load_weights(model, state["model"], path, f"--model {config.model}, {len(state['classes'])} classes")
    mean, std = (torch.tensor(state[name], device=device).view(3, 1, 1) for name in ("mean", "std"))
    return Trained(config, state["classes"], model.to(device), mean, std, device)


def check_classes(trained: Trained, dataset: Dataset, run: Path) -> None:
    """Raise UserError unless the images have the classes that the run was trained on, in the same order."""
    if dataset.classes != trained.classes:
        raise UserError(f"{dataset.root}: its classes are not those that the run in {run} was trained on")


def options_of(trained: Trained) -> dict[str, Any]:
    """Return the options of classification of a run, which may be of a task that has more."""
    return {name: getattr(trained.config, name) for name in Config.options()}


def configure(trained: Trained, chosen: dict[str, Any], dataset: Dataset) -> ResolvedConfig:
    """Return the run's configuration with other options in place, for training on nothing but the method's images.

    A method that is not the run's brings its own policy and map.

    Args:
        chosen: the other options.
        dataset: from `find_images`.

    Raises:
        UserError: an illegal value.
    """
    options = options_of(trained) | {
        "warmup_epochs": 0, "consistency": None, "consistency_scale": 1.0, "consistency_layers": None
    }  # fmt: skip
    if chosen.get("method", trained.config.method) != trained.config.method:
        options |= dict.fromkeys(OF_THE_METHOD)
    if "saliency_target" not in chosen and (dataset.class_indices == UNKNOWN).any():
        options["saliency_target"] = "max"
    config = Config(**options | chosen)
    check(config)
    side = trained.config.image_size
    resolved = config.resolved(side=side, embedded=config.data is None, cifar=dataset.reader.kind == "pixels")
    resolved.saliency_scale = map_scale(config, resolved)
    return resolved


def loader_of(trained: Trained, config: ResolvedConfig, dataset: Dataset, **changes: Any) -> ImageLoader:
    """Return a loader of the images as in validation, normalised for the model, with the policy of `config`."""
    mean, std = (tuple(values.flatten().tolist()) for values in (trained.mean, trained.std))
    options = {"policy": config.policy, "device": trained.device, "mean": mean, "std": std}
    return make_loader(config, train=False, dataset=dataset, **(options | changes))


def spread_evenly(count: int, limit: int) -> np.ndarray:
    """Return at most `limit` of the numbers 0 … count − 1, evenly spread, in order, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(limit, count)).round().astype(int))
