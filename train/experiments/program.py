"""Does it help? Runs every condition of an experiment over several seeds, and writes the table."""

import argparse
import fnmatch
import itertools
import os
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from pipelines import DataError, Dataset, find_dataset
from train.benchmarks.measuring import environment
from train.cli.checks import check
from train.cli.parser import at_least
from train.config import Config
from train.data.loaders import absolute, resolve_for_data, shares_images
from train.engine.files import write_json
from train.errors import UserError
from train.experiments.comparison import Condition, Outcome, differences, sentences, table
from train.experiments.tasks import Task, run_all


class Experiment(NamedTuple):
    """A table as data. The sizes are defaults, chosen so that all of it takes about `duration`."""

    description: str
    conditions: tuple[Condition, ...]
    epochs: int
    train_images: int
    seeds: int
    duration: str
    published: str  # what the published figures were measured on


def _keepaugment() -> tuple[Condition, ...]:
    prices: dict[str, dict[str, Any]] = {
        "full": {"saliency_scale": 1.0},
        "low": {"saliency_scale": 0.5},
        "early": {"saliency_scale": 1.0, "early_head": "auto"},
        "both": {"saliency_scale": 0.5, "early_head": "auto"},
    }
    # KeepAugment, tables 1 and 2: ResNet-18. Their cheaper maps were tried at length 16 only.
    published = {"full-16": 96.1, "low-16": 96.2, "early-16": 96.0, "full-20": 96.0}
    conditions = [Condition("none", {"method": "none"})]
    for size, figure in ((16, 95.6), (20, 95.5)):
        cutout = f"cutout-{size}"
        conditions.append(Condition(cutout, {"method": "cutout", "region_size": size}, "none", figure))
        for price, options in prices.items():
            options = {"method": "keep_cutout", "region_size": size, **options}
            name = f"{price}-{size}"
            conditions.append(Condition(f"keep_cutout-{name}", options, cutout, published.get(name)))
    control = {"method": "cutout", "region_size": 16, "early_head": "auto"}  # what the head's loss does, its map unused
    conditions.append(Condition("cutout-16-early-head", control, "cutout-16"))
    conditions.append(Condition("randaugment", {"method": "randaugment"}, "none"))
    for size in (16, 20):
        paste = {"method": "keep_randaugment", "region_size": size, "saliency_scale": 0.5}
        conditions.append(Condition(f"keep_randaugment-low-{size}", paste, "randaugment"))
    return tuple(conditions)


def _salfmix() -> tuple[Condition, ...]:
    # Each with saliency beside the same without, each combination beside the method that it is built on. SalfMix,
    # table 4: 100 less the top-1 error of PreActResNet-18.
    rows = [
        ("none", None, 94.83),
        ("cutout", "none", 95.70),
        ("salfmix_random", "none", None),
        ("salfmix", "salfmix_random", 95.86),
        ("mixup", "none", 95.90),
        ("saliencymix", "none", 96.20),
        ("cutmix", "none", 96.04),
        ("hybridmix_v1", "mixup", 96.15),
        ("hybridmix_v2", "saliencymix", 96.26),
        ("hybridmix_v3", "cutmix", 96.62),
    ]
    return tuple(Condition(name, {"method": name}, baseline, published) for name, baseline, published in rows)


def _consistency() -> tuple[Condition, ...]:
    # Each transformation with the class loss of images and copies alone, and with the saliency loss.
    transformations: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {
        "flips_rotation": (
            ("policy", "flips_rotation"),
            {"method": "randaugment", "policy": "flips_rotation", "interpolation": "linear"},
        ),
        "cutout": (("method", "cutout"), {"method": "cutout"}),
    }
    conditions = []
    for name, (agreement, options) in transformations.items():
        reference = f"{name}-class"
        for loss, weights, baseline in (("class", (1, 0, 0), None), ("saliency", (1, 0, 1), reference)):
            options = options | {"consistency": weights}
            conditions.append(Condition(f"{name}-{loss}", options, baseline, agreement=agreement))
    return tuple(conditions)


# What fits into an hour on two cores. It is too little training for the plain net to overfit (its losses on training
# images and on others are alike at the end), so that augmentation can hardly raise accuracy; methods may be compared.
SMALL_RUNS: dict[str, Any] = {"epochs": 30, "train_images": 5_000, "seeds": 3}

EXPERIMENTS = {
    "keepaugment": Experiment(
        "Cutout and RandAugment beside their Keep forms, at two lengths; the map at each price (KeepAugment §3.1)",
        _keepaugment(),
        **SMALL_RUNS,
        duration="an hour on two CPU cores (AMD EPYC, CIFAR-10)",
        published="KeepAugment, tables 1 and 2: test accuracy of ResNet-18 on CIFAR-10 after 300 epochs of all 50,000"
        " training images. The levels are no measure for smaller runs; the differences may be set beside one another.",
    ),
    "salfmix": Experiment(
        "SalfMix with and without saliency, HybridMix and the two-image methods that it is built on",
        _salfmix(),
        **SMALL_RUNS,
        duration="three quarters of an hour on two CPU cores (AMD EPYC, CIFAR-10)",
        published="SalfMix, table 4: test accuracy of PreActResNet-18 on CIFAR-10 after 300 epochs of all 50,000"
        " training images. The levels are no measure for smaller runs; the differences may be set beside one another.",
    ),
    "consistency": Experiment(
        "flips and rotation, and Cutout: the class loss of images and copies beside class + saliency",
        _consistency(),
        epochs=20,
        train_images=5_000,
        seeds=3,
        duration="half an hour on two CPU cores (AMD EPYC, CIFAR-10)",
        published="Saliency Map Based Data Augmentation, table 1, compares the same losses on ResNet-18 with CIFAR-10"
        " enlarged to 224×224; none of its figures stands here.",
    ),
}


MEASURED = (
    "Disagreement: the saliency loss in eval mode after training, on 1000 of those images and their transformed copies,"
    " the same for all rows with one transformation (`python -m train agreement`); of unrelated maps: of a copy and"
    " another image. A network whose maps are single peaks has little of either: read the first beside the second."
)


def plan(experiment: Experiment, options: argparse.Namespace, dataset: Dataset) -> list[Task]:
    """All runs of the experiment, seed by seed, so that a table of one seed is there early.

    Raises:
        DataError, UserError: the data or an option cannot be used.
    """
    shared = {"model": options.model, "epochs": options.epochs, "validate_every": options.epochs}
    shared["data"] = absolute(options.data)
    if options.train_images:
        dataset.first(options.train_images)  # raises where there are not so many
        shared["train_images"] = options.train_images
    tasks = []
    for seed, condition in itertools.product(range(options.seeds), experiment.conditions):
        given = shared | condition.options | {"seed": seed}
        config = Config(**given)
        check(config)
        folder = options.out / condition.name / f"seed{seed}"
        tasks.append(Task(condition, seed, folder, given, resolve_for_data(config, dataset)))
    return tasks


def write_results(
    options: argparse.Namespace, tasks: list[Task], validation_images: int, surroundings: dict[str, str]
) -> str:
    """results.json and table.md in the folder of the experiment. Returns the text of the latter."""
    experiment = EXPERIMENTS[options.name]
    outcomes: dict[str, dict[int, Outcome]] = {}
    for task in tasks:
        outcome = task.outcome()
        if outcome is not None:
            outcomes.setdefault(task.condition.name, {})[task.seed] = outcome
    rows = [c for c in experiment.conditions if c.name in outcomes or _selected(c, options.only)]
    compared, threads = differences(rows, outcomes), _threads(options.jobs)
    # The data by its name alone: where it lies says nothing to others.
    settings = {"data": Path(options.data).resolve().name, "model": options.model, "epochs": options.epochs}
    settings |= {"train_images": options.train_images, "seeds": options.seeds, "jobs": options.jobs}
    flags = [f"--{key.replace('_', '-')} {shlex.quote(str(value))}" for key, value in settings.items()]
    only = [] if len(rows) == len(experiment.conditions) else ["--only", *(c.name for c in rows)]
    command = " ".join(["python -m train experiment", options.name, *flags, *only])
    result = {
        "experiment": options.name,
        "command": command,
        "settings": settings | {"threads": threads, "validation_images": validation_images},
        "environment": surroundings,
        "conditions": {
            c.name: {
                **c._asdict(),
                "runs": {seed: run._asdict() for seed, run in outcomes.get(c.name, {}).items()},
                "difference": d._asdict() if (d := compared.get(c.name)) else None,
            }
            for c in rows
        },
    }
    text = "\n\n".join(
        [
            table(rows, outcomes, options.seeds),
            f"Top-1 after the last epoch (never the best one) on {validation_images} images that were not trained on;"
            " mean ± sample standard deviation over seeds. A difference is paired by seed, its interval Student's t."
            f" s / epoch: median, {options.jobs} run{'s' if options.jobs > 1 else ''} side by side, {threads}"
            f" thread{'s' if threads > 1 else ''} each.",
            *([MEASURED] if any(c.agreement for c in rows) else []),
            sentences(rows, outcomes),
            f"Published: {experiment.published}",
            f"Command: `{command}`",
            "; ".join(f"{key} {value}" for key, value in surroundings.items()),
        ]
    )
    write_json(options.out / "results.json", result)
    (options.out / "table.md").write_text(text + "\n")
    return text


def _selected(condition: Condition, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(condition.name, pattern) for pattern in patterns)


def _threads(jobs: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // jobs)


def build_parser() -> argparse.ArgumentParser:
    lists = (
        f"{name}: {e.description}.\n  By default {e.epochs} epochs of {e.train_images} images, {e.seeds} seeds:"
        f" about {e.duration}.\n" + "\n".join(f"    {c.name}" for c in e.conditions)
        for name, e in EXPERIMENTS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m train experiment",
        description=f"{__doc__}\nStopped by Ctrl-C, it goes on by the same command.",
        epilog="\n\n".join(lists),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=EXPERIMENTS, help="which experiment")
    parser.add_argument("--data", required=True, help="the images, as for python -m train")
    parser.add_argument("--out", type=Path, help="its folder (default: runs/<name>)")
    parser.add_argument("--model", default="small", help="as for python -m train (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="of each run (default: the experiment's, see below)")
    parser.add_argument("--train-images", type=int, help="of each run; 0: all (default: the experiment's)")
    parser.add_argument("--seeds", type=at_least(1), help="runs of each condition (default: the experiment's)")
    parser.add_argument(
        "--jobs",
        type=at_least(1),
        default=1 if torch.cuda.is_available() else 2,
        help="runs side by side, which share the CPU cores (default: 2; 1 with a GPU)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=["*"],
        metavar="PATTERN",
        help="run these conditions alone, such as 'cutout*' (default: all)",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    experiment = EXPERIMENTS[options.name]
    for name in ("epochs", "train_images", "seeds"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(experiment, name))
    for pattern in options.only:
        if not any(_selected(condition, [pattern]) for condition in experiment.conditions):
            parser.error(
                f"--only {pattern}: no such condition; there are {', '.join(c.name for c in experiment.conditions)}"
            )
    options.out = options.out or Path("runs") / options.name
    surroundings = environment()
    try:
        train, validation = find_dataset(options.data), find_dataset(options.data, train=False)
        if shares_images(train, validation):
            raise UserError(f"{options.data} has no train/ and val/: a table needs images that were not trained on")
        tasks = plan(experiment, options, train)
        selected = [task for task in tasks if _selected(task.condition, options.only)]
        ahead = [task for task in selected if task.outcome() is None]
        options.out.mkdir(parents=True, exist_ok=True)

        def report(task: Task) -> None:
            outcome = task.outcome()
            assert outcome is not None
            write_results(options, tasks, len(validation), surroundings)
            tqdm.write(f"{task}: {outcome.top1:.2f} % after {outcome.seconds:.0f} s")

        status = run_all(ahead, len(selected), options.jobs, _threads(options.jobs), report)
        text = write_results(options, tasks, len(validation), surroundings)
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    print(f"\n{text}\n\nin {options.out}: table.md, results.json")
    if status == 130:
        print("Interrupted. To go on, give the same command again.", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
