"""Measure whether a network looks at the same pixels after an augmentation.

On validation images, with the best checkpoint of a run: the disagreement of each image's saliency map with that of its
augmented copy, as in the saliency-consistency loss. For comparison, the
disagreement with the copy of another image, which is that of unrelated maps; and the accuracy on images and copies.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dali_salaug.consistency.map_geometry import composed, map_distance, scaled, unwarp
from train.analysis.report import add_measuring_options, report
from train.analysis.trained import check_classes, configure, load_best, loader_of
from train.cli.checks import check_traceable, is_traceable
from train.cli.parser import SEED
from train.config import Config
from train.data.loaders import validation_images
from train.errors import UserError
from train.tasks.classification.objective import transform
from train.tasks.classification.stage import make_stage

BATCH = 64
ANY_POLICY = "randaugment"  # the method for any --policy: the network receives the policy's images
DEFAULT_POLICY = "flips_rotation"  # of runs whose own transformation has no map, as in the paper


class Measured(NamedTuple):
    """The measurements of a batch, one value for each image: (B,), floating point."""

    own: Tensor  # the disagreement of its map and its copy's
    unrelated: Tensor  # the disagreement of another image's map and its copy's
    clean_hit: Tensor  # 1 where the image is classified correctly, else 0
    transformed_hit: Tensor  # the same of the copy; where labels are mixed, for the class of the largest weight


def compare(
    model: nn.Module, images: Tensor, transformed: Tensor, labels: Tensor, targets: Tensor, how: dict[str, Any]
) -> Measured:
    """Compare the maps and the classes of images and of their copies, by the model in its present mode.

    Args:
        images, transformed: (B, 3, H, W).
        labels: (B,), int64, of the images.
        targets: of the copies, (B,), int64, or (B, K), floating point.
        how: what was done to the images, as arguments of `SaliencyConsistency`: matrices, or method and drawn.
    """
    pixels = torch.cat([images, transformed]).requires_grad_()
    logits = model(pixels)
    of_copies = targets if targets.ndim == 2 else F.one_hot(targets, logits.shape[1])
    weights = torch.cat([F.one_hot(labels, logits.shape[1]), of_copies]).to(logits)
    (gradient,) = torch.autograd.grad((weights * logits).sum(), pixels)
    own, other = gradient.abs().amax(1).chunk(2)
    view = torch.ones_like(own, dtype=torch.bool)
    size = (images.shape[-2], images.shape[-1])
    if "matrices" in how:
        other, view = unwarp(other, how["matrices"], size)
    else:
        own = composed(scaled(own, view), **how, image_size=size)

    def distances(own: Tensor) -> Tensor:
        one_by_one = zip(own.split(1), other.split(1), view.split(1), strict=True)
        return torch.stack([map_distance(*maps) for maps in one_by_one])

    clean_hit, transformed_hit = (logits.argmax(1) == weights.argmax(1)).double().chunk(2)
    return Measured(distances(own), distances(own.roll(1, 0)), clean_hit, transformed_hit)


def default_transformation(config: Config) -> dict[str, Any]:
    """Return "method" and "policy" for a run: its own method, where a map can follow what that does to an image.

    Otherwise, its policy alone, such as RandAugment for KeepRandAugment; else flips and rotations.
    """
    if is_traceable(config):
        return {}
    alone: dict[str, Any] = {"method": ANY_POLICY, "policy": config.policy}
    own = config.policy is not None and is_traceable(dataclasses.replace(config, **alone))
    return alone if own else {"method": ANY_POLICY, "policy": DEFAULT_POLICY}


def measure(run: Path, chosen: dict[str, Any], data: Path | None, limit: int, seed: int) -> dict[str, Any]:
    """Measure the agreement for the best checkpoint of a run.

    Args:
        chosen: "method" and "policy" in place of the run's; empty: see `default_transformation`.
        limit: images at most. They are drawn at random, and so are their transformations, the same for every run.

    Returns:
        "run", "method", "policy", "images"; and for each field of `Measured` the "mean" over the images and its
        standard "error".
    """
    trained = load_best(run)
    dataset = validation_images(trained.config, trained.classes, data)
    check_classes(trained, dataset, run)
    chosen = chosen or default_transformation(trained.config)
    config = configure(trained, {"interpolation": "linear"} | chosen, dataset)
    check_traceable(config, "the agreement")
    dataset = dataset.take(np.random.default_rng(seed).permutation(len(dataset))[:limit])
    with_matrices = config.policy is not None
    loader = loader_of(trained, config, dataset, with_matrices=with_matrices, batch_size=BATCH, seed=seed)
    stage = make_stage(config, len(trained.classes), seed, warmup_epochs=0)
    model, parts = trained.model.eval().requires_grad_(False), []
    for batch in loader:
        if len(batch.labels) > 1:  # a single image has no unrelated one to compare with
            trace, how = transform(stage, model, batch)
            parts.append(compare(model, batch.images, trace.inputs, batch.labels, trace.targets, how))
    if not parts:
        raise UserError(f"{dataset.root}: has one image; the agreement needs two, whose maps are unrelated")
    values = {name: torch.cat(part) for name, part in zip(Measured._fields, zip(*parts, strict=True), strict=True)}
    return {
        "run": str(run),
        "method": config.method,
        "policy": config.policy,
        "images": len(values["own"]),
        **{
            name: {"mean": part.mean().item(), "error": part.std().item() / math.sqrt(len(part))}
            for name, part in values.items()
        },
    }


def _print(result: dict[str, Any]) -> None:
    done = result["method"] if result["policy"] is None else result["policy"]
    print(f"{result['images']} images, transformed by {done}; mean ± standard error over images")
    for name, title, form, factor in (
        ("own", "disagreement of an image's map and its copy's", ".5f", 1),
        ("unrelated", "of another image's map and that copy's", ".5f", 1),
        ("clean_hit", "top-1 of the images, %", ".2f", 100),
        ("transformed_hit", "top-1 of the copies, %", ".2f", 100),
    ):
        mean, error = (f"{factor * result[name][key]:{form}}" for key in ("mean", "error"))
        print(f"  {title:<46} {mean:>8} ± {error}")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_measuring_options(parser, least=2)
    done = parser.add_mutually_exclusive_group()
    own = "the run's method; where maps cannot follow that, its policy, or flips_rotation"
    done.add_argument("--policy", help=f"transform by this policy, as for training (default: {own})")
    done.add_argument("--method", help="transform by this method, as for training (default: see --policy)")
    parser.add_argument("--seed", type=SEED, default=0, help="of the images and transformations (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Measure as the command line states. Returns the exit status, 0.

    Raises:
        UserError, DataError: the run, the images or an option cannot be used.
    """
    chosen = {} if options.method is None else {"method": options.method}
    if options.policy is not None:
        chosen = {"method": ANY_POLICY, "policy": options.policy}
    return report(options, lambda: measure(options.run, chosen, options.data, options.images, options.seed), _print)
