"""Measure how much of the object the methods remove or keep.

On validation images whose object has a known box, with the best checkpoint of a run: the share of the box that Cutout
and KeepCutout remove, and the share that a random clean square and KeepPaste's keep.
"""

import argparse
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dali_salaug import Cutout, KeepCutout, KeepPaste, SaliencyStage
from dali_salaug.methods.base import Method
from train.analysis.boxes import with_boxes, with_objects
from train.analysis.intervals import half_normal_interval
from train.analysis.report import add_measuring_options, report
from train.analysis.trained import Trained, check_classes, load_best, spread_evenly
from train.cli.parser import add_boxes, at_least
from train.data.loaders import validation_images


class Share(NamedTuple):
    """A mean over images, in [0, 1], and its standard error."""

    mean: float
    error: float


def box_shares(regions: Tensor, objects: Tensor) -> Tensor:
    """Return the share of each object's box that is in the region: (B,) float64 in [0, 1].

    Args:
        regions: (B, 4), top, left, bottom, right in pixels, half-open.
        objects: (B, 4), likewise; whole pixels or not, of positive area.
    """
    objects = objects.double()
    low = torch.maximum(regions[:, :2].double(), objects[:, :2])
    high = torch.minimum(regions[:, 2:].double(), objects[:, 2:])
    areas = (objects[:, 2:] - objects[:, :2]).prod(1)
    return (high - low).clamp(min=0).prod(1) / areas


def measure(
    trained: Trained, run: Path, boxes: Path | None, data: Path | None, limit: int, repeats: int
) -> dict[str, Any]:
    """Measure the shares for the best checkpoint of a run.

    Args:
        trained: that checkpoint, with the map's options to measure.
        boxes: the table of `read_boxes`; None: boxes.tsv in the data folder.
        limit: images at most.
        repeats: draws for each image.

    Returns:
        "images", "repeats"; and for "cut" (share removed) and "paste" (share kept) "random" and "salient", each with
        the mean over images and its standard error, and "difference" (salient − random, paired by image), which has the
        normal 95 % interval "ci95" too.
    """
    config, model, device = trained.config, trained.model, trained.device
    dataset = validation_images(config, trained.classes, data)
    check_classes(trained, dataset, run)
    table = boxes or Path(dataset.root) / "boxes.tsv"
    known = with_boxes(dataset, table)
    chosen = known[spread_evenly(len(known), limit)]

    methods: dict[tuple[str, str], Method] = {
        ("cut", "random"): Cutout(config.region_size),
        ("cut", "salient"): KeepCutout(config.region_size, tau=config.tau),
        ("paste", "random"): KeepPaste(config.region_size, tau=0.0),  # every square qualifies
        ("paste", "salient"): KeepPaste(config.region_size, tau=config.tau),
    }
    how: dict[str, Any] = {
        "saliency": config.live_saliency,
        "scale": config.saliency_scale,
        "target": config.saliency_target,
    }
    stages = {key: SaliencyStage(method, **how) for key, method in methods.items()}
    shares: dict[tuple[str, str], list[Tensor]] = {key: [] for key in methods}
    for _, images, labels, objects in with_objects(trained, dataset, table, chosen):
        for key, stage in stages.items():
            drawn = [stage.trace(model, images, labels, images).boxes for _ in range(repeats)]
            found = [box_shares(b, objects.to(device)) for b in drawn if b is not None]
            shares[key].append(torch.stack(found).mean(0).cpu())
    per_image = {key: torch.cat(parts) for key, parts in shares.items()}

    result: dict = {"run": str(run), "images": len(per_image["cut", "random"]), "repeats": repeats}
    for what in ("cut", "paste"):
        random, salient = per_image[what, "random"], per_image[what, "salient"]
        difference = _share(salient - random)
        half = half_normal_interval(difference.error)
        interval = [difference.mean - half, difference.mean + half]
        result[what] = {
            "random": _share(random)._asdict(),
            "salient": _share(salient)._asdict(),
            "difference": difference._asdict() | {"ci95": interval},
        }
    return result


def _share(values: Tensor) -> Share:
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else float("nan")
    return Share(values.mean().item(), error)


def _print(result: dict) -> None:
    print(f"{result['images']} images, {result['repeats']} draws each; share of the object's box, per cent")
    for what, title, names in (
        ("cut", "removed by", ("Cutout", "KeepCutout")),
        ("paste", "kept clean by", ("random square", "KeepPaste")),
    ):
        for key, name in zip(("random", "salient"), names, strict=True):
            share = result[what][key]
            print(f"  {title:<14} {name:<14} {100 * share['mean']:6.2f} ± {100 * share['error']:.2f} (standard error)")
        d = result[what]["difference"]
        low, high = (100 * v for v in d["ci95"])
        print(
            f"  {'':<14} {'difference':<14} {100 * d['mean']:+6.2f}, 95 % in [{low:+.2f}, {high:+.2f}], paired by image"
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    add_measuring_options(parser)
    add_boxes(parser, "boxes.tsv in the data folder")
    parser.add_argument("--repeats", type=at_least(1), default=8, help="draws for each image (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Measure as the command line states. Returns the exit status, 0.

    Raises:
        UserError, DataError: the run, the images or an option cannot be used.
    """
    rest = options.run, options.boxes, options.data, options.images, options.repeats
    return report(options, lambda: measure(load_best(options.run), *rest), _print)
