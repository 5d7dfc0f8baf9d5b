"""Measure images per second of `pipelines.image_loader`, against torchvision's transforms in a DataLoader."""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from pipelines import DataError, find_dataset, image_loader
from train.benchmarks.measuring import medians_and_ranges, spread, summary
from train.benchmarks.references import FORMS, POLICIES, TorchvisionImages, torchvision_loader
from train.cli.parser import at_least
from train.data.shapes import embedded_data

HELP = "images/s of pipelines.image_loader against torchvision's transforms in a DataLoader"
SKIP = 5  # batches before the clock starts, at least: more than a DataLoader prefetches
QUICK = ("--policies", "randaugment", "--image-size", "32", "--batch-size", "16", "--repeats", "2",
         "--batches", "3", "--workers", "1")  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", metavar="DIR", help="image files on this machine, or CIFAR's pickles (default: the embedded data set)"
    )
    parser.add_argument(
        "--policies", nargs="+", choices=POLICIES, default=list(POLICIES), metavar="NAME",
        help="policies to apply; none: clean images alone, the others: clean and augmented ones (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--image-size", type=at_least(8, 16384), help="side in pixels (default: 224; CIFAR 32, the embedded data 48)"
    )
    parser.add_argument("--batch-size", type=at_least(1), default=64, help="images in a batch")
    parser.add_argument("--repeats", type=at_least(1), default=5, help="interleaved turns")
    parser.add_argument(
        "--workers", type=at_least(1, 1024), default=2, help="threads of DALI, processes of the DataLoader"
    )
    parser.add_argument("--batches", type=at_least(1), default=20, help="batches in a turn")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where DALI works")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    names = ("image_size", "batch_size", "repeats", "workers", "batches", "device")
    settings = {name: getattr(options, name) for name in names}
    policies = {
        policy: compare_loaders(options.data, policy=policy, **settings)
        for policy in tqdm(options.policies, desc="policies", leave=False, disable=None)
    }
    return {"settings": {"data": options.data or "embedded", **settings}, "policies": policies}


def compare_loaders(
    data: str | None,
    *,
    policy: str,
    image_size: int | None,
    batch_size: int,
    repeats: int,
    workers: int,
    batches: int,
    device: str,
) -> dict[str, Any]:
    """Compare `pipelines.image_loader` with torchvision in both of its `FORMS`, interleaved in this process.

    All do the same work: decode, random crop, mirroring, the policy, normalisation. All have `workers`: DALI as
    threads, a DataLoader as processes that last. The last, shorter batches are dropped, so that all batches are equal.
    The first turn warms up and is not counted.

    Returns:
        Under "dali" and each of `FORMS`, in images/s, and for the "ratio" of DALI to the faster of the two (by the
        median) in the same turn: "median", "min", "max" and "runs". Under "reference" the name of the faster one.
    """
    dataset = find_dataset(data or embedded_data())
    if dataset.reader.kind == "records" or any("://" in path for path in dataset.reader.files):
        raise DataError(
            f"--data must be files on this machine or CIFAR's pickles, which torchvision reads too; got {data}"
        )
    size = image_size or (48 if data is None else 32 if dataset.reader.kind == "pixels" else 224)
    ours = image_loader(
        dataset,
        policy=None if policy == "none" else policy,
        num_threads=workers,
        image_size=size,
        batch_size=batch_size,
        device=device,
    )
    loaders: dict[str, Any] = {"dali": DropLast(ours, batch_size)}
    for form in FORMS:
        images = TorchvisionImages(ours, size, policy, form)
        epoch = (max(SKIP, ours.ahead) + batches) * batch_size  # no end of an epoch within a run
        loaders[form] = torchvision_loader(images, batch_size=batch_size, workers=workers, epoch=epoch)
    runs: dict[str, list[float]] = {name: [] for name in loaders}
    for turn in range(repeats + 1):
        for name, loader in loaders.items():
            speed = images_per_second(endless(loader), batches, batch_size, skip=max(SKIP, ours.ahead))
            if turn:
                runs[name].append(speed)
    reference = max(FORMS, key=lambda form: statistics.median(runs[form]))
    runs["ratio"] = [a / b for a, b in zip(runs["dali"], runs[reference], strict=True)]
    return {**{name: summary(values) for name, values in runs.items()}, "reference": reference}


def endless(loader: Any) -> Iterator[Any]:
    """Yield the batches of a loader, epoch after epoch."""
    while True:
        yield from loader


def images_per_second(batches: Iterator[Any], count: int, batch_size: int, *, skip: int = SKIP) -> float:
    """Return the steady speed: the clock starts after `skip` batches, when no prefetched one is left."""
    for _ in itertools.islice(batches, skip):
        pass
    start = time.perf_counter()
    for _ in itertools.islice(batches, count):
        pass
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return count * batch_size / (time.perf_counter() - start)


class DropLast:
    """A loader without its last, shorter batch (`drop_last` of a DataLoader)."""

    def __init__(self, loader: Any, batch_size: int) -> None:
        if len(loader.dataset) < batch_size:
            raise DataError(
                f"{len(loader.dataset)} images do not fill a batch of {batch_size}: choose a smaller --batch-size"
            )
        self.loader, self.batch_size = loader, batch_size

    def __iter__(self) -> Iterator[Any]:
        return (batch for batch in self.loader if len(batch.labels) == self.batch_size)


def table(result: dict[str, Any]) -> str:
    lines = [f"{'images/s':<15} {'DALI':<22} {'Pillow':<22} {'tensors':<22} DALI over the faster, same turn"]
    for policy, row in result["policies"].items():
        speeds = " ".join(f"{spread(row[name]['runs'], 0):<22}" for name in ("dali", *FORMS))
        lines.append(f"{policy:<15} {speeds} {spread(row['ratio']['runs'], 2)}")
    return "\n".join(lines)


def plot(result: dict[str, Any], figure: Any) -> None:
    axes, policies = figure.subplots(), result["policies"]
    for shift, name in enumerate(("dali", *FORMS)):
        medians, ranges = medians_and_ranges([row[name]["runs"] for row in policies.values()])
        label = "DALI" if name == "dali" else f"torchvision, {name}"
        places = [place + 0.27 * (shift - 1) for place in range(len(policies))]
        axes.bar(places, medians, 0.25, yerr=ranges, capsize=2, label=label)
    axes.set_xticks(range(len(policies)), list(policies))
    axes.set_ylabel("images/s, median and range")
    axes.legend()
