"""Speed, measured: the loader beside torchvision's; what the stage, and the consistency loss, add to a step."""

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.data import Dataset as TorchDataset

from pipelines import DataError, ImageLoader, image_loader
from train.config import UserError
from train.methods import METHODS

POLICIES = ("none", "autoaugment", "randaugment", "trivialaugment", "augmix")  # those torchvision has too
SKIP = 5  # batches before the clock starts: more than either loader makes ahead


class TorchvisionImages(TorchDataset):
    """What `pipelines.image_loader` does, by Pillow and torchvision v2: (clean,) or (clean, augmented), and label.

    Args:
        loader: whose files, image size and normalisation are taken over.
        size: side of the crop in pixels.
        policy: one of `POLICIES`.
    """

    def __init__(self, loader: ImageLoader, size: int, policy: str) -> None:
        from torchvision.transforms import v2

        assert loader.dataset.paths is not None
        self.paths, self.labels = loader.dataset.paths, loader.dataset.labels.tolist()
        self.crop = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
        self.policy = {
            "none": None,
            "autoaugment": v2.AutoAugment(fill=128),
            "randaugment": v2.RandAugment(fill=128),
            "trivialaugment": v2.TrivialAugmentWide(fill=128),
            "augmix": v2.AugMix(all_ops=False, fill=128),
        }[policy]
        self.normalise = v2.Compose(
            [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(loader.mean, loader.std)]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        with Image.open(self.paths[index]) as image:
            view = self.crop(image.convert("RGB"))
        views = [view] if self.policy is None else [view, self.policy(view)]
        return [self.normalise(v) for v in views], self.labels[index]


def endless(loader: Any) -> Iterator[Any]:
    """Epoch after epoch of a loader."""
    while True:
        yield from loader


def images_per_second(batches: Iterator[Any], count: int, batch_size: int) -> float:
    """Steady speed: the clock starts after SKIP batches, when nothing that was made ahead is left."""
    for _ in itertools.islice(batches, SKIP):
        pass
    start = time.perf_counter()
    for _ in itertools.islice(batches, count):
        pass
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return count * batch_size / (time.perf_counter() - start)


def compare_loaders(
    data: str, *, image_size: int, batch_size: int, policy: str, repeats: int, workers: int, batches: int, device: str
) -> dict[str, Any]:
    """`pipelines.image_loader` against a torchvision DataLoader, turn and turn about in this process.

    Both have `workers`: DALI as threads, the DataLoader as processes, kept between runs. Batches are full, so that
    images are easily counted. The first turn of each warms up and is not counted.

    Returns:
        Under "dali" and "torchvision" and for their "ratio", from each pair of runs: "median", "min", "max" and
        "runs"; images/s for the first two.
    """
    options: dict[str, Any] = {"image_size": image_size, "batch_size": batch_size, "device": device}
    ours = image_loader(data, policy=None if policy == "none" else policy, num_threads=workers, **options)
    if ours.dataset.paths is None:
        raise DataError(f"{data}: the benchmark is for folders of image files")
    full = _Full(ours, batch_size)
    images = (SKIP + batches) * batch_size
    reference = DataLoader(
        TorchvisionImages(ours, image_size, policy),
        batch_size=batch_size,
        sampler=RandomSampler(range(len(ours.dataset)), num_samples=images),  # no end of an epoch within a run
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context="spawn",  # a fork copies locks that DALI's and torch's threads may hold at the moment
        prefetch_factor=2,
        pin_memory=torch.cuda.is_available(),
    )
    images_per_second(iter(reference), batches, batch_size)
    images_per_second(endless(full), batches, batch_size)

    runs: dict[str, list[float]] = {"dali": [], "torchvision": []}
    for _ in range(repeats):
        runs["dali"].append(images_per_second(endless(full), batches, batch_size))
        runs["torchvision"].append(images_per_second(iter(reference), batches, batch_size))
    runs["ratio"] = [a / b for a, b in zip(runs["dali"], runs["torchvision"], strict=True)]
    return {name: _summary(values) for name, values in runs.items()}


class _Full:
    """A loader without its last, shorter batches."""

    def __init__(self, loader: Any, batch_size: int) -> None:
        if len(loader.dataset) < batch_size:
            raise DataError(f"{len(loader.dataset)} images do not fill a batch: give a --batch-size that they fill")
        self.loader, self.batch_size = loader, batch_size

    def __iter__(self) -> Iterator[Any]:
        return (batch for batch in self.loader if len(batch.labels) == self.batch_size)


def _summary(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": values}


def environment() -> dict[str, str]:
    """Hardware and versions, to stand beside every number."""
    import nvidia.dali
    import PIL
    import torchvision

    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), cpu)
    return {
        "cpu": f"{cpu}, {len(os.sched_getaffinity(0))} usable cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "load": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "dali": nvidia.dali.__version__,
        "pillow": PIL.__version__,
    }


def _loader_command(options: argparse.Namespace) -> dict[str, Any]:
    names = ("image_size", "batch_size", "policy", "repeats", "workers", "batches", "device")
    settings = {name: getattr(options, name) for name in names}
    result = compare_loaders(options.data, **settings)
    for name, unit in (("dali", "images/s"), ("torchvision", "images/s"), ("ratio", "× (paired runs)")):
        digits, row = 2 if name == "ratio" else 0, result[name]
        low, high = (f"{row[end]:.{digits}f}" for end in ("min", "max"))
        print(f"{name:<12} median {row['median']:8.{digits}f}  ({low} to {high})  {unit}")
    return {"settings": {"data": options.data, **settings}, **result}


def _stage_command(options: argparse.Namespace) -> dict[str, Any]:
    from train.stage_benchmark import PUBLISHED, stage_costs

    names = ("image_size", "batch_size", "repeats", "device", "amp", "compiled", "methods")
    settings = {name: getattr(options, name) for name in names}
    result = stage_costs(options.model, **settings)
    step = _summary(result["step"])
    median, low, high = (f"{1e3 * step[key]:.1f}" for key in ("median", "min", "max"))
    print(f"\n{'':<20} {'median':>11}   {'of the step, each turn':<28} {'arithmetic':>10}   authors (ResNet-50, GPUs)")
    print(f"{'training step':<20} {median:>8} ms   ({low} to {high})")
    for name, values in result["parts"].items():
        part, share = _summary(values), _summary(result["shares"][name])
        low, high = (f"{100 * share[end]:.2f}" for end in ("min", "max"))
        spread = f"{100 * share['median']:6.2f} % ({low} to {high})"
        floor = f"{100 * result['arithmetic'][name]:.1f} %" if name in result["arithmetic"] else ""
        line = f"{name:<20} {1e3 * part['median']:8.1f} ms   {spread:<28} {floor:>10}   {PUBLISHED.get(name, '')}"
        print(line.rstrip())
    alone, together = (result["memory"][name] for name in ("step", "stage and step"))
    print(f"\npeak memory of a step {alone / 2**20:.0f} MiB; with the stage {100 * (together / alone - 1):+.1f} %")
    return {"settings": {"model": options.model, **settings}, **result}


def _consistency_command(options: argparse.Namespace) -> dict[str, Any]:
    from train.consistency_benchmark import PUBLISHED, consistency_costs

    names = ("image_size", "batch_size", "repeats", "device", "amp")
    settings = {name: getattr(options, name) for name in names}
    result = consistency_costs(options.model, **settings)
    print(f"\n{'':<35} {'median':>11}   {'times the plain step, each turn':<31}   {'peak memory':>11}")
    for name, values in result["steps"].items():
        step, times = _summary(values), _summary(result["times"][name])
        spread = f"{times['median']:6.2f} ({times['min']:.2f} to {times['max']:.2f})"
        memory = f"{result['memory'][name] / 2**20:.0f} MiB"
        print(f"{name:<35} {1e3 * step['median']:8.1f} ms   {spread:<31}   {memory:>11}")
    published = ", ".join(f"{name} {with_it / plain:.2f}" for name, (plain, with_it) in PUBLISHED.items())
    print(f"\nauthors, with the saliency loss, on a GPU, times their plain step: {published}")
    return {"settings": {"model": options.model, **settings}, **result}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train.benchmark", description=__doc__)
    commands = parser.add_subparsers(required=True)
    loader = commands.add_parser(
        "loader",
        help="images/s of pipelines.image_loader against a torchvision DataLoader",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    loader.set_defaults(command=_loader_command)
    loader.add_argument("--data", required=True, help="folder of the images")
    loader.add_argument("--image-size", type=int, default=224, help="side of the crop in pixels")
    loader.add_argument("--batch-size", type=int, default=64, help="images in a batch")
    loader.add_argument(
        "--policy", choices=POLICIES, default="none", help="image-level policy, beside the clean images"
    )
    loader.add_argument("--repeats", type=int, default=5, help="pairs of runs")
    loader.add_argument("--workers", type=int, default=2, help="threads of DALI, processes of the DataLoader")
    loader.add_argument("--batches", type=int, default=20, help="batches in a run")
    loader.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where DALI works")
    loader.add_argument("--json", type=Path, default=None, help="also write the numbers to this file")
    stage = commands.add_parser(
        "stage",
        help="what the saliency stage adds to a training step",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    stage.set_defaults(command=_stage_command)
    _add_step_options(stage, images="images in a step")
    stage.add_argument("--compiled", action="store_true", help="torch.compile for step and saliency pass")
    stage.add_argument(
        "--methods",
        nargs="*",
        choices=list(METHODS),
        # Of the methods with a policy, the stage sees no more than whether a square is kept.
        default=[name for name, entry in METHODS.items() if entry.kind != "policy" or name == "keep_randaugment"],
        metavar="NAME",
        help="whose draw and compositing to time, as for python -m train --method; the default is one of each kind",
    )
    consistency = commands.add_parser(
        "consistency",
        help="what the saliency-consistency loss adds to a training step on images and their copies",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    consistency.set_defaults(command=_consistency_command)
    _add_step_options(consistency, images="images in a step, beside as many copies")
    return parser


def _add_step_options(parser: argparse.ArgumentParser, *, images: str) -> None:
    parser.add_argument("--model", default="resnet50", help="as for python -m train")
    parser.add_argument("--image-size", type=int, default=224, help="in pixels")
    parser.add_argument("--batch-size", type=int, default=16, help=images)
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--json", type=Path, default=None, help="also write the numbers to this file")


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    surroundings = environment()
    print("\n".join(f"{name:<12} {value}" for name, value in surroundings.items()))
    try:
        result = options.command(options)
    except (DataError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(json.dumps({"environment": surroundings, **result}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
