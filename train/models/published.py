"""Published weights: torchvision's and timm's, which their own code downloads once, and keeps."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from pipelines.build import IMAGENET_MEAN
from train.errors import UserError, first_line
from train.models.registry import origin

Channels = tuple[float, float, float]


class Facts(NamedTuple):
    """What is known of the images that weights were trained on; None: unknown."""

    image_size: int | None = None
    mean: Channels | None = None  # of the normalisation, as is std
    std: Channels | None = None


UNKNOWN = Facts()


class Source(NamedTuple):
    """Weights to start from."""

    weights: dict[str, Tensor]  # on the CPU
    name: str  # of the file, or what else they are
    facts: Facts
    model: str | None = None  # their --model; None: unknown
    classes: list[str] | None = None  # in the order of the logits; None: unknown


def check_published(name: str) -> None:
    """Raise UserError unless weights are published for a model that `build_model` knows."""
    library, own_name, _ = origin(name, 1, None)
    if library == "timm":
        import timm

        published = timm.is_model_pretrained(own_name)
    else:
        published = library == "torchvision"
    if not published:
        raise UserError(
            f"--pretrained: no weights are published for --model {name}; leave it out, or start from those of a run or"
            " a file with --weights"
        )


def published(name: str) -> Source:
    """Return the published weights of a model: torchvision's default ones, or timm's.

    Raises:
        UserError: there are none, or they cannot be fetched or loaded.
    """
    check_published(name)
    library, own_name, _ = origin(name, 1, None)
    fetch = _of_torchvision if library == "torchvision" else _of_timm
    try:
        with _without_code():
            return fetch(own_name)._replace(model=name)
    except Exception as error:  # of urllib, of Hugging Face's client, or of a damaged file
        raise UserError(
            f"--pretrained: the weights of --model {name} cannot be loaded: {first_line(error)}. Without a network,"
            f" {_by_hand(library, own_name)}"
        ) from error


def _of_torchvision(name: str) -> Source:
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    # Torchvision's own function knows the older names of some weights.
    model = torchvision.models.get_model(name, weights=weights)
    images = weights.transforms()
    mean, std = tuple(images.mean), tuple(images.std)
    if getattr(model, "transform_input", False):  # it expects ImageNet's, and turns them into these
        mean = std = (0.5, 0.5, 0.5)
    return Source(model.state_dict(), f"torchvision's {weights}", Facts(_only_side(model), mean, std))


def _of_timm(name: str) -> Source:
    import timm

    model = timm.create_model(name, pretrained=True)
    config: dict[str, Any] = model.pretrained_cfg
    facts = Facts(_only_side(model), tuple(config["mean"]), tuple(config["std"]))
    return Source(model.state_dict(), f"timm's {config['architecture']}.{config['tag']}".rstrip("."), facts)


def _only_side(model: nn.Module) -> int | None:
    """Return the side of the images of a torchvision ViT, which is built for it; other models know their size."""
    return getattr(model, "image_size", None)


def _by_hand(library: str, name: str) -> str:
    """Return how to start from the same weights in a file."""
    if library == "torchvision":
        import torchvision

        weights = torchvision.models.get_model_weights(name).DEFAULT
        address, images = weights.url, weights.transforms()
        mean, std = images.mean, images.std
    else:
        import timm

        config: Any = timm.get_pretrained_cfg(name)
        address = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
        mean, std = config.mean, config.std
    options = ""
    if tuple(mean) != IMAGENET_MEAN:
        options = f" --mean {' '.join(map(str, mean))} --std {' '.join(map(str, std))}"
    return f"fetch {address} elsewhere, and pass the file with --weights FILE{options} in place of --pretrained"


@contextmanager
def _without_code() -> Iterator[None]:
    """Keep torch.load from running code of a file, whoever calls it: the folder of downloads may hold any file."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
