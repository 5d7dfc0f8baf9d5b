"""The network that a run has left, and images for it: what the programs that measure and draw begin with."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipelines import Dataset, ImageLoader
from train.config import ResolvedConfig
from train.data.loaders import make_loader
from train.engine import checkpoint
from train.errors import UserError
from train.models.registry import build_model


class Trained(NamedTuple):
    """The best checkpoint of a run, to be measured."""

    config: ResolvedConfig  # resolved
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
    path = run / checkpoint.BEST if run.is_dir() else run
    state, config = checkpoint.load_run(path)
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    model = build_model(config.model, len(state["classes"]), config.image_size)
    checkpoint.load_weights(model, state["model"], path, f"--model {config.model}, {len(state['classes'])} classes")
    mean, std = (torch.tensor(state[name], device=device).view(3, 1, 1) for name in ("mean", "std"))
    return Trained(config, state["classes"], model.to(device), mean, std, device)


def check_classes(trained: Trained, dataset: Dataset, run: Path) -> None:
    """Raise UserError unless the images are of the classes, in their order, that the run was trained on."""
    if dataset.classes != trained.classes:
        raise UserError(f"{dataset.root}: its classes are not those that the run in {run} was trained on")


def loader_of(trained: Trained, config: ResolvedConfig, dataset: Dataset, **changes: Any) -> ImageLoader:
    """The images as in validation, normalised for the model, with the policy of `config`; see `make_loader`."""
    mean, std = (tuple(values.flatten().tolist()) for values in (trained.mean, trained.std))
    options = {"policy": config.policy, "device": trained.device, "mean": mean, "std": std}
    return make_loader(config, train=False, dataset=dataset, **(options | changes))


def spread_evenly(count: int, limit: int) -> np.ndarray:
    """At most `limit` of the numbers 0 … count − 1, in order, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(limit, count)).round().astype(int))
