"""Detection on backbones that were trained by several methods: two stages of runs, and a table for each data set.

KeepAugment §4.5 and SalfMix §5.5: the augmentation trains the classifier alone; the detectors differ in nothing else.
"""

import argparse
import fnmatch
import itertools
import shlex
from pathlib import Path
from typing import Any

from train.benchmarks.measuring import environment
from train.cli.checks import check
from train.config import Config
from train.data.loaders import absolute, data_folder, resolve_for_data
from train.engine.checkpoint import BEST
from train.engine.files import write_json
from train.experiments.comparison import Condition, differences, mean_of, sentences
from train.experiments.conditions import Experiment
from train.experiments.tasks import INTERRUPTED, Task, outcomes_of, run_left, tell_interruption
from train.tasks.detection.config import DetectionConfig
from train.tasks.detection.loaders import training_images, validation_images
from train.tasks.detection.task import Detection

DESCRIPTION = (
    "backbones trained on the embedded data by six methods, and Faster R-CNN on each of them, on the embedded scenes"
    " and, with --data, on photographs such as BCCD's (KeepAugment §4.5, SalfMix §5.5)"
)
EPOCHS, DETECTION_EPOCHS, SEEDS = 15, {"scenes": 6, "data": 8}, 3
DURATION = "an hour on two CPU cores with BCCD, 40 minutes without (AMD EPYC)"
# mAP in per cent of SalfMix, table 8: Faster R-CNN on VOC 2007, whose ResNet-50 was trained on Tiny ImageNet.
CONDITIONS = (
    Condition("none", {"method": "none"}, None, 37.04),
    Condition("cutout", {"method": "cutout"}, "none", 36.9),
    Condition("keep_cutout", {"method": "keep_cutout"}, "cutout"),
    Condition("cutmix", {"method": "cutmix"}, "none", 39.72),
    Condition("keep_cutmix", {"method": "keep_cutmix"}, "cutmix"),
    Condition("salfmix", {"method": "salfmix"}, "none", 37.23),
)
PUBLISHED = (
    "Published: SalfMix, table 8, mAP of Faster R-CNN on VOC 2007 whose ResNet-50 was trained on Tiny ImageNet."
    " KeepAugment, table 11, has COCO's mAP of Detectron2's detectors, with PyTorch's ResNet-50 and with that of"
    " KeepCutMix: C4 38.4 and 39.5, FPN 40.2 and 40.7, RetinaNet 37.9 and 39.1. Compare the differences, not the"
    " levels."
)
EXPERIMENT = Experiment(DESCRIPTION, CONDITIONS, EPOCHS, 0, SEEDS, DURATION, PUBLISHED)
CLIP_GRAD = 5.0  # of all detectors: without it, one on a weak backbone diverged in its second epoch
# Of photographs of 640×480 pixels, for two cores; each option as on the command line.
PHOTOGRAPHS: dict[str, Any] = {
    "short_sides": (160, 176, 192),
    "long_side": 256,
    "pyramid_channels": 64,
    "proposals": 64,
    "batch_size": 8,
    "lr": 0.02,
    "vertical_flip": 0.5,
    "val_split": "test",
}


def backbones(options: argparse.Namespace) -> list[Task]:
    """Return the runs of classification, seed by seed. Each is validated after its last epoch alone, which is kept."""
    shared = {"model": options.model, "epochs": options.epochs, "validate_every": options.epochs}
    if options.train_images:
        shared["train_images"] = options.train_images
    data_folder(Config())
    tasks = []
    for seed, condition in itertools.product(range(options.seeds), selected(options)):
        stated = shared | condition.options | {"seed": seed}
        config = Config(**stated)
        check(config)
        folder = options.out / "backbones" / condition.name / f"seed{seed}"
        tasks.append(Task(condition, seed, folder, stated, resolve_for_data(config)))
    return tasks


def detectors(options: argparse.Namespace, trained: list[Task]) -> dict[str, list[Task]]:
    """Return the runs of detection by the name of the data, one for each backbone.

    Args:
        trained: the backbones, whose runs are finished.
    """
    sets: dict[str, dict[str, Any]] = {"scenes": {"epochs": options.detection_epochs or DETECTION_EPOCHS["scenes"]}}
    if options.data is not None:
        data = absolute(options.data)
        epochs = options.detection_epochs or DETECTION_EPOCHS["data"]
        sets[Path(data).name] = PHOTOGRAPHS | {"data": data, "epochs": epochs}
    tasks: dict[str, list[Task]] = {name: [] for name in sets}
    for name, own in sets.items():
        for backbone in trained:
            weights = absolute(str(backbone.folder / BEST))
            shared = own | {"clip_grad": CLIP_GRAD, "backbone": weights, "model": options.model, "seed": backbone.seed}
            stated = shared | {"validate_every": own["epochs"]}
            config = DetectionConfig(**stated)
            check(config)
            Detection.prepare(config)
            resolved = Detection.resolve(config, Detection.read_source(config, stated))
            folder = options.out / name / backbone.condition.name / f"seed{backbone.seed}"
            tasks[name].append(Task(backbone.condition, backbone.seed, folder, stated, resolved))
    return tasks


def selected(options: argparse.Namespace) -> list[Condition]:
    """Return the conditions that the command line selects."""
    patterns = options.only
    return [c for c in CONDITIONS if any(fnmatch.fnmatchcase(c.name, pattern) for pattern in patterns)]


def table(name: str, tasks: list[Task], accuracies: dict[tuple[str, int], float], seeds: int) -> str:
    """Return a Markdown table of a data set, with a row for each condition, and what it shows.

    Args:
        tasks: the runs of detection on it; those that are not finished are missing.
        accuracies: top-1 of the backbones, by condition and seed.
    """
    outcomes, records = outcomes_of(tasks), _last_lines(tasks)
    conditions = [c for c in CONDITIONS if any(task.condition == c for task in tasks)]
    compared = differences(conditions, outcomes)
    header = (
        "backbone by", "its top-1, %", "mAP, %", "each seed", "compared with", "difference, points", "mAP50, %",
        "mAP75, %", "published mAP, %",
    )  # fmt: skip
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    for condition in conditions:
        runs, logs = outcomes.get(condition.name, {}), records.get(condition.name, {})
        top1 = [value for (own, _), value in accuracies.items() if own == condition.name]
        cells = [condition.name, mean_of(top1), mean_of([run.value for run in runs.values()])]
        cells.append(", ".join(f"{runs[seed].value:.2f}" if seed in runs else "missing" for seed in range(seeds)))
        cells += [condition.baseline or "", str(compared.get(condition.name) or "")]
        cells += [mean_of([log[key] for log in logs.values()]) for key in ("val_map50", "val_map75")]
        cells.append("" if condition.published is None else f"{condition.published:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return f"## {name}\n\n" + "\n".join(lines) + "\n\n" + sentences(conditions, outcomes)


def _last_lines(tasks: list[Task]) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the last lines of the logs of finished runs, by condition and seed."""
    lines: dict[str, dict[int, dict[str, Any]]] = {}
    for task in tasks:
        log = task.log()
        if log is not None:
            lines.setdefault(task.condition.name, {})[task.seed] = log[-1]
    return lines


def run(options: argparse.Namespace) -> int:
    """Run the experiment as the command line states. Returns the exit status, as that of other experiments.

    Raises:
        UserError, DataError: the data or an option cannot be used.
    """
    options.epochs, options.seeds = options.epochs or EPOCHS, options.seeds or SEEDS
    options.out = options.out or Path("runs/detect")
    if options.data is not None:  # it is wrong before the backbones are trained, not after
        config = DetectionConfig(data=options.data, val_split=PHOTOGRAPHS["val_split"])
        validation_images(config, training_images(config).classes)
    options.out.mkdir(parents=True, exist_ok=True)
    surroundings = environment()
    trained = backbones(options)
    status = run_left(trained, options.jobs, "backbone, ")
    done = [task for task in trained if task.outcome() is not None]
    found = detectors(options, done)
    for name, tasks in found.items():
        if status != INTERRUPTED:
            status = run_left(tasks, options.jobs, f"{name}, ") or status
    accuracies = {(t.condition.name, t.seed): o.value for t in done if (o := t.outcome())}
    settings = {"model": options.model, "epochs": options.epochs, "seeds": options.seeds, "jobs": options.jobs}
    settings |= {"train_images": options.train_images or None, "detection_epochs": options.detection_epochs}
    data = {"data": Path(options.data).resolve().name} if options.data else {}
    stated = {key: value for key, value in (data | settings).items() if value is not None}
    flags = [f"--{key.replace('_', '-')} {shlex.quote(str(value))}" for key, value in stated.items()]
    command = " ".join(["python -m train experiment detect", *flags])
    parts = [table(name, tasks, accuracies, options.seeds) for name, tasks in found.items()]
    how = (
        "mAP, COCO's, after the last epoch (never the best one); mean ± sample standard deviation over seeds. A seed"
        " has its own backbone. A difference is paired by seed, its interval Student's t."
    )
    text = "\n\n".join(
        [*parts, how, PUBLISHED, f"Command: `{command}`", "; ".join(f"{k} {v}" for k, v in surroundings.items())]
    )
    results = {
        name: {c: {str(s): log for s, log in logs.items()} for c, logs in _last_lines(tasks).items()}
        for name, tasks in found.items()
    }
    top1: dict[str, dict[str, float]] = {}
    for (condition, seed), value in accuracies.items():
        top1.setdefault(condition, {})[str(seed)] = value
    report = {"experiment": "detect", "command": command, "settings": stated, "environment": surroundings}
    write_json(options.out / "results.json", report | {"backbones": top1, "detection": results})
    (options.out / "table.md").write_text(text + "\n")
    print(f"\n{text}\n\nin {options.out}: table.md, results.json")
    tell_interruption(status)
    return status
