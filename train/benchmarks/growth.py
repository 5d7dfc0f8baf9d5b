"""Measure how the cost of a step and of the stage grows with the batch and with the image."""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

from dali_salaug import METHODS, SaliencyStage
from train.benchmarks.measuring import as_in_training, interleaved, medians_and_ranges, peak_memory, place_of
from train.cli.parser import at_least
from train.models.registry import build_model

HELP = "time and memory of a step and of the stage against batch size and resolution"
CLASSES = 1000
WARM_UP = 1
PARTS = ("step", "stage")
QUICK = ("--model", "small", "--batch-sizes", "4", "8", "16", "--at-size", "16", "--image-sizes", "16", "32",
         "--at-batch", "4", "--repeats", "2")  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="resnet18", help="as for training")
    parser.add_argument(
        "--method", choices=list(METHODS), default="keep_cutout", metavar="NAME", help="method of the stage"
    )
    parser.add_argument(
        "--batch-sizes", type=at_least(1), nargs="+", default=[16, 32, 64, 128, 256, 512], help="images in a batch"
    )
    parser.add_argument("--at-size", type=at_least(8, 16384), default=32, help="side in pixels, while the batch grows")
    parser.add_argument(
        "--image-sizes",
        type=at_least(8, 16384),
        nargs="+",
        default=[32, 64, 96, 128, 160, 192, 224],
        help="sides in pixels",
    )
    parser.add_argument(
        "--at-batch", type=at_least(1), default=16, help="images in a batch, while the resolution grows"
    )
    parser.add_argument("--repeats", type=at_least(1), default=3, help="interleaved turns")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to measure")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the parts of `make_parts` at all points, interleaved: the machine's speed varies over time.

    Returns:
        Under "growth", for "batch size" and "resolution", a row for each point: "batch", "size", "pixels" of all images
        together, "seconds" of each of `PARTS` in every turn, and "memory", the peak of its tensors in bytes.
    """
    place = place_of(options.device)
    as_in_training(place)
    torch.manual_seed(0)
    points = {
        "batch size": [(batch, options.at_size) for batch in options.batch_sizes],
        "resolution": [(options.at_batch, size) for size in options.image_sizes],
    }
    model = build_model(options.model, CLASSES, options.at_size).to(place).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    entry = METHODS[options.method]
    stage = SaliencyStage(entry.build(CLASSES), saliency=entry.saliency, warmup_epochs=0)
    everything = {
        (point, part): function
        for point in {point: None for pairs in points.values() for point in pairs}
        for part, function in make_parts(model, optimizer, stage, *point, place).items()
    }
    seconds = interleaved(everything, options.repeats, place, WARM_UP)
    memory = {of: peak_memory(function, place) for of, function in everything.items()}
    rows = {
        name: [
            {
                "batch": batch,
                "size": size,
                "pixels": batch * size**2,
                "seconds": {part: seconds[(batch, size), part] for part in PARTS},
                "memory": {part: memory[(batch, size), part] for part in PARTS},
            }
            for batch, size in pairs
        ]
        for name, pairs in points.items()
    }
    names = ("model", "method", "at_size", "at_batch", "repeats", "device")
    return {"settings": {name: getattr(options, name) for name in names}, "growth": rows}


def make_parts(
    model: nn.Module, optimizer: Optimizer, stage: SaliencyStage, batch: int, size: int, device: torch.device
) -> dict[str, Callable[[], object]]:
    """Return a plain step (forward, backward, SGD with momentum) and the stage before it, on random images."""
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    augmented, labels = images.flip(3), torch.randint(CLASSES, (batch,), device=device)

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return {"step": step, "stage": lambda: stage(model, images, labels, augmented)}


def off_the_line(rows: list[dict[str, Any]], part: str, what: str) -> float:
    """Return the largest relative deviation of a cost from a straight line, fixed cost plus cost of a pixel.

    The line has the least squares of these deviations. A knee is far from it.
    """
    costs = np.array([np.median(row[what][part]) for row in rows], dtype=np.float64)
    pixels = np.array([row["pixels"] for row in rows], dtype=np.float64)
    line = np.polyval(np.polyfit(pixels, costs, 1, w=1 / costs), pixels)
    return float(np.abs(line / costs - 1).max())


def table(result: dict[str, Any]) -> str:
    lines = []
    for name, rows in result["growth"].items():
        lines.append(
            f"{name:<12} {'pixels':>10}  {'step, ms':>10} {'stage, ms':>10}  {'step, MiB':>10} {'stage, MiB':>10}"
        )
        for row in rows:
            times = " ".join(f"{1e3 * statistics.median(row['seconds'][part]):>10.1f}" for part in PARTS)
            memory = " ".join(f"{row['memory'][part] / 2**20:>10.1f}" for part in PARTS)
            lines.append(f"{row['batch']:>4} × {str(row['size']) + '²':<5} {row['pixels']:>10}  {times}  {memory}")
        off = "; ".join(
            f"{part} {100 * off_the_line(rows, part, 'seconds'):.1f} % in time, "
            f"{100 * off_the_line(rows, part, 'memory'):.1f} % in memory"
            for part in PARTS
        )
        lines.append(f"at most off a straight line (fixed cost and cost of a pixel): {off}")
        lines.append("")
    return "\n".join(lines).rstrip()


def plot(result: dict[str, Any], figure: Any) -> None:
    columns = result["growth"].items()
    grid = figure.subplots(2, len(columns), squeeze=False)
    for (name, rows), (above, below) in zip(columns, grid.T, strict=True):
        pixels = [row["pixels"] / 1e6 for row in rows]
        for part in PARTS:
            medians, ranges = medians_and_ranges([row["seconds"][part] for row in rows], 1e3)
            above.errorbar(pixels, medians, yerr=ranges, marker="o", markersize=3, capsize=2, label=part)
            below.plot(pixels, [row["memory"][part] / 2**20 for row in rows], marker="o", markersize=3, label=part)
        above.set_title(f"{name}: {rows[0]['batch']} × {rows[0]['size']}² to {rows[-1]['batch']} × {rows[-1]['size']}²")
        above.set_ylabel("ms, median and range")
        below.set_ylabel("peak memory, MiB")
        for axes in (above, below):
            axes.set_xlabel("million pixels in the batch")
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            axes.legend()
