"""Models by name: networks for small images, torchvision's classifiers, and timm's where timm is installed."""

import difflib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from train.errors import UserError
from train.models.cifar import CIFAR_MODELS
from train.models.small import small
from train.models.vit import vit_small

OWN: dict[str, Callable[..., nn.Module]] = {"small": small, "vit_small": vit_small, **CIFAR_MODELS}
FOR_A_SIZE = ("vit_small",)  # of OWN: built for the images' size, whatever it is
FIRST_BLOCK = {"small": "3"}  # ends of the first blocks that dali_salaug does not find by itself


def _torchvision_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _timm_names() -> list[str]:
    if importlib.util.find_spec("timm") is None:
        return []
    import timm

    return timm.list_models()


def _has_weights(name: str) -> bool:
    import timm

    return timm.is_model_pretrained(name)


def check_model(name: str) -> None:
    """Raise UserError, with the closest names, unless `build_model` knows the name."""
    names = [*OWN, *_torchvision_names()]
    if name in names:
        return
    timm_names = _timm_names()
    if name.startswith("timm/") and not timm_names:
        raise UserError(f"--model {name} needs timm: pip install timm")
    plain, _, tag = name.removeprefix("timm/").partition(".")
    if plain in timm_names and (not tag or _has_weights(f"{plain}.{tag}")):
        return
    close = difflib.get_close_matches(name.removeprefix("timm/"), {*names, *timm_names}, n=5, cutoff=0.5)
    nearest = f"; the closest names are {', '.join(close)}" if close else ""
    raise UserError(
        f"--model {name}: no such model{nearest}. Legal are {', '.join(OWN)}, torchvision's classification models"
        " (such as resnet50), and timm's, where timm is installed (timm/NAME)"
    )


class Origin(NamedTuple):
    """The constructor of a model.

    That is `torchvision.models.get_model(name, **options)`, `timm.create_model(name, **options)` or
    `OWN[name](**options)`, by the library.
    """

    library: str  # "torchvision", "timm" or "dali_salaug"
    name: str  # in that library
    options: dict[str, Any]


def origin(name: str, num_classes: int, image_size: int | None) -> Origin:
    """Return the constructor of the model that `build_model` builds from the same arguments.

    Args:
        image_size: None: the one that the library builds the model for.

    Raises:
        UserError: the name is unknown. The message has the closest ones.
    """
    check_model(name)
    options: dict[str, Any] = {"num_classes": num_classes}
    if name in OWN:
        return Origin("dali_salaug", name, options | ({"image_size": image_size} if name in FOR_A_SIZE else {}))
    if name not in _torchvision_names():
        return Origin("timm", name.removeprefix("timm/"), options)
    if name.startswith("vit_") and image_size is not None:
        options["image_size"] = image_size
    elif name in ("googlenet", "inception_v3"):  # their auxiliary heads return a tuple
        options |= {"aux_logits": False, "init_weights": True}
    return Origin("torchvision", name, options)


def build_model(name: str, num_classes: int, image_size: int | None) -> nn.Module:
    """Build an untrained classifier, from images (B, 3, H, W), floating point, to logits (B, num_classes).

    Args:
        name: "small", "vit_small", a name of CIFAR_MODELS, a torchvision classification model, or one of timm's
            ("timm/NAME", or NAME where torchvision has no model of that name), which may have the tag of its weights
            ("NAME.TAG").
        num_classes: number of logits.
        image_size: H = W in pixels, for vision transformers, "vit_small" and torchvision's; None: the one that they are
            made for. Others take any size, or have one of their own.

    Raises:
        UserError: the name is unknown. The message has the closest ones.
        ValueError: the model cannot be built for the size.
    """
    library, name, options = origin(name, num_classes, image_size)
    if library == "dali_salaug":
        return OWN[name](**options)
    if library == "torchvision":
        import torchvision

        return torchvision.models.get_model(name, weights=None, **options)
    import timm

    return timm.create_model(name, **options)
