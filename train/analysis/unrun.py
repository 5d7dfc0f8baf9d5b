"""A model without a run, untrained or with torchvision's weights, for images of any classes."""

from pathlib import Path

import torch
import torchvision
from torch import nn

from pipelines import Dataset
from pipelines.build import IMAGENET_MEAN, IMAGENET_STD
from train.analysis.trained import Trained
from train.config import Config
from train.data.loaders import resolve_for_data
from train.engine import checkpoint
from train.errors import UserError
from train.models.registry import build_model, check_model, origin


def torchvision_weights(name: str) -> torchvision.models.WeightsEnum:
    """Return the default weights of a torchvision model, whose file is in torch's cache.

    Raises:
        UserError: the model is not torchvision's, or the file is not there: this program downloads nothing.
    """
    check_model(name)
    if origin(name, 1000, 224).library != "torchvision":
        raise UserError(f"--pretrained is for torchvision's models; got --model {name}")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not file.is_file():
        raise UserError(f"--pretrained: {file} is not there; download {weights.url} into that folder")
    return weights


def load_unrun(
    name: str, dataset: Dataset, *, weights: torchvision.models.WeightsEnum | None, image_size: int | None, seed: int
) -> Trained:
    """Return a model that no run has trained, in the form of a run's.

    Args:
        name: as `--model`.
        dataset: of the images.
        weights: of torchvision; None: untrained.
        image_size: side of the network's input in pixels; None: as for training.
        seed: of the weights of an untrained model.

    Raises:
        UserError: the model cannot be built, or the first image cannot be read.
    """
    stated = Config(data=dataset.root, model=name, image_size=image_size)
    config = resolve_for_data(stated, dataset)
    checkpoint.seed_random_state(seed)
    model = _build(name, len(dataset.classes), config.image_size, weights)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    trained = Trained(config, dataset.classes, model.to(device), mean, std, device)
    _try(trained)
    return trained


def _build(name: str, classes: int, side: int, weights: torchvision.models.WeightsEnum | None) -> nn.Module:
    if weights is not None:
        return torchvision.models.get_model(name, weights=weights)
    try:
        return build_model(name, classes, side)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"--model {name} cannot be built for --image-size {side}: {error}") from error


def _try(trained: Trained) -> None:
    side = trained.config.image_size
    try:
        with torch.no_grad():
            trained.model.eval()(torch.zeros(1, 3, side, side, device=trained.device))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"--model {trained.config.model} takes no images of --image-size {side}: {error}") from error
