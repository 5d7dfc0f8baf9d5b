"""Measure whether saliency maps of reduced precision choose the same regions as those of float32.

With the best checkpoint of a run and its validation images: the regions that KeepCutout and KeepPaste draw on maps that
are computed in reduced precision, compared with those that they draw on the float32 map by the same random numbers.
"""

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.stats import binomtest
from torch import Tensor

from dali_salaug import saliency_map
from dali_salaug.regions import admitted, are_candidates, candidate_axis, draw_candidates, region_scores
from pipelines import ImageLoader
from train.analysis.report import add_measuring_options, report
from train.analysis.trained import check_classes, load_best, spread_evenly
from train.cli.parser import SEED
from train.data.loaders import make_loader, validation_images

BATCH = 64


class Precision(NamedTuple):
    """The types of a saliency pass in reduced precision."""

    weights: torch.dtype  # of the model and of its images
    autocast: torch.dtype | None


class Rule(NamedTuple):
    """The regions that a method admits, in the terms of :mod:`dali_salaug.regions`."""

    border: str
    keep: str


PRECISIONS = {
    # Of float16 autocast too, under which the saliency pass computes in bfloat16.
    "bfloat16 autocast": Precision(torch.float32, torch.bfloat16),
    "bfloat16 weights": Precision(torch.bfloat16, None),
    "float16 weights": Precision(torch.float16, None),
}
RULES = {"KeepCutout": Rule("clip", "low"), "KeepPaste": Rule("inside", "high")}


class Agreement(NamedTuple):
    """The region drawn on another map against the one drawn on the reference, for each image."""

    same: Tensor  # (B,), bool: it is the same region
    allowed: Tensor  # (B,), bool: the reference admits it too
    # (B,), float64: else, how far it is beyond the reference's threshold, as a share of all candidates
    beyond: Tensor


def agreement(
    reference: Tensor,
    other: Tensor,
    uniforms: Tensor,
    *,
    image_size: tuple[int, int],
    length: int,
    tau: float,
    rule: Rule,
) -> Agreement:
    """Draw a square for each image on two maps by the same random numbers, and compare.

    Args:
        reference, other: maps (B, h, w).
        uniforms: (B,), float64 in [0, 1): the draw.
        image_size: (H, W) in pixels.
        length: the square's side in pixels.
        tau: the quantile.
        rule: where the square may be, and on which side of the quantile.
    """
    side = torch.full((1,), length, device=reference.device)
    rows = candidate_axis(reference.shape[1], image_size[0], side, rule.border)
    columns = candidate_axis(reference.shape[2], image_size[1], side, rule.border)
    valid = are_candidates(rows, columns)
    scores, other_scores = (region_scores(m, rows, columns).flatten(1) for m in (reference, other))
    expected = draw_candidates(scores, valid, uniforms, tau=tau, keep=rule.keep)
    drawn = draw_candidates(other_scores, valid, uniforms, tau=tau, keep=rule.keep)

    allowed = admitted(scores, valid, tau=tau, keep=rule.keep)
    score = scores.gather(1, drawn[:, None])
    # Nearer to the threshold, from the side that is not allowed.
    nearer = scores <= score if rule.keep == "low" else scores >= score
    beyond = (valid & ~allowed & nearer).sum(1) / valid.sum(1).double()
    return Agreement(drawn == expected, allowed.gather(1, drawn[:, None]).squeeze(1), beyond)


def images_of(loader: ImageLoader, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images (B, 3, H, W) and labels (B,): at most `limit`, spread evenly over those of the loader."""
    chosen, first = spread_evenly(len(loader.dataset), limit), 0
    for batch in loader:
        last = first + len(batch.labels)
        here = torch.from_numpy(chosen[(first <= chosen) & (chosen < last)] - first).to(batch.labels.device)
        if len(here):
            yield batch.images[here], batch.labels[here]
        first = last


def measure(run: Path, data: Path | None, limit: int, seed: int) -> dict[str, Any]:
    """Measure the agreement for the best checkpoint of a run, with the run's region size, τ and saliency map.

    Returns:
        "run", "images", "size" (pixels), "scale", "tau", and under "precisions", by the names of PRECISIONS and RULES:
        "same" and "allowed" as shares of the images, "allowed_ci95", and for the regions that are not allowed
        "beyond_median" and "beyond_most" as shares of all candidates, None where there is no such region.
        "allowed_ci95" is Wilson's interval, which also holds at shares of 0 and 1.
    """
    trained = load_best(run)
    config, dataset = trained.config, validation_images(trained.config, trained.classes, data)
    loader = make_loader(config, train=False, dataset=dataset, batch_size=BATCH, device=trained.device)
    check_classes(trained, loader.dataset, run)
    models = {dtype: copy.deepcopy(trained.model).to(dtype) for dtype in {p.weights for p in PRECISIONS.values()}}

    def saliency(precision: Precision, images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=precision.autocast, enabled=precision.autocast is not None):
            return saliency_map(
                models[precision.weights],
                images.to(precision.weights),
                labels,
                method=config.live_saliency,
                target=config.saliency_target,
                scale=config.saliency_scale,
                generator=torch.Generator(images.device).manual_seed(seed),  # smoothgrad's noise, the same for all
            )

    generator = torch.Generator(trained.device).manual_seed(seed)
    image_size = (config.image_size, config.image_size)
    how: dict[str, Any] = {"image_size": image_size, "length": config.region_size, "tau": config.tau}
    count = 0
    found: dict[tuple[str, str], list[Agreement]] = {(name, rule): [] for name in PRECISIONS for rule in RULES}
    for images, labels in images_of(loader, limit):
        count += len(images)
        uniforms = torch.rand((len(RULES), len(images)), generator=generator, dtype=torch.float64, device=images.device)
        reference = saliency(Precision(torch.float32, None), images, labels)
        for name, precision in PRECISIONS.items():
            other = saliency(precision, images, labels)
            for (rule_name, rule), draw in zip(RULES.items(), uniforms, strict=True):
                found[name, rule_name].append(agreement(reference, other, draw, rule=rule, **how))
    return {
        "run": str(run),
        "images": count,
        "size": config.region_size,
        "scale": config.saliency_scale,
        "tau": config.tau,
        "precisions": {name: {rule: summarise(found[name, rule]) for rule in RULES} for name in PRECISIONS},
    }


def summarise(parts: list[Agreement]) -> dict[str, Any]:
    """Return the shares and the interval of `measure`, of one precision and one rule."""
    same, allowed, beyond = (torch.cat(values).cpu() for values in zip(*parts, strict=True))
    offending = beyond[~allowed]
    return {
        "same": same.double().mean().item(),
        "allowed": allowed.double().mean().item(),
        "allowed_ci95": binomtest(int(allowed.sum()), len(allowed)).proportion_ci(method="wilson"),
        "beyond_median": offending.median().item() if len(offending) else None,
        "beyond_most": offending.max().item() if len(offending) else None,
    }


def _print(result: dict[str, Any]) -> None:
    print(
        f"{result['images']} images, squares of {result['size']} pixels, map at scale {result['scale']:g},"
        f" tau {result['tau']:g}; against the float32 map, per cent"
    )
    print(f"{'':<18} {'':<11} {'same':>6} {'allowed':>8} {'95 % interval':>16}   beyond the threshold: median, most")
    for name, rules in result["precisions"].items():
        for rule, row in rules.items():
            low, high = (100 * end for end in row["allowed_ci95"])
            shares = f"{100 * row['same']:6.1f} {100 * row['allowed']:8.2f}   [{low:5.2f}, {high:6.2f}]"
            beyond = [row[key] for key in ("beyond_median", "beyond_most") if row[key] is not None]
            ranks = "".join(f"{100 * rank:8.2f}" for rank in beyond)
            print(f"{name:<18} {rule:<11} {shares}   {ranks}")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_measuring_options(parser)
    parser.add_argument("--seed", type=SEED, default=0, help="of the draws (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Measure as the command line states. Returns the exit status, 0.

    Raises:
        UserError, DataError: the run or the images cannot be used.
    """
    return report(options, lambda: measure(options.run, options.data, options.images, options.seed), _print)
