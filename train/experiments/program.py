"""Compare methods: run every condition of an experiment over several seeds, and write a table.

Ctrl-C stops it; the same command resumes it.
"""

import argparse
import fnmatch
import itertools
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipelines import Dataset, find_dataset
from train.benchmarks.measuring import environment
from train.cli.checks import check
from train.cli.parser import HelpFormatter, at_least
from train.data.loaders import absolute, resolve_for_data, shares_images
from train.data.settings import SETTINGS
from train.engine.files import write_json
from train.engine.task import task_of
from train.errors import UserError, did_you_mean
from train.experiments import advice, detection
from train.experiments.comparison import Condition, differences, sentences, table
from train.experiments.conditions import EXPERIMENTS, Experiment
from train.experiments.methods import program as methods
from train.experiments.prices import price_tables
from train.experiments.tasks import Task, add_jobs, outcomes_of, run_left, tell_interruption, threads_of
from train.tasks.reid.config import ReidConfig
from train.tasks.reid.data import find_reid
from train.tasks.reid.figures import embedded_figures

DETECT, ADVISE, METHODS = "detect", "advise", "methods"  # which have programs of their own
MEASURED = (
    "Disagreement: the saliency loss in eval mode after training, on 1000 of those images and their transformed copies,"
    " the same for all rows with one transformation (`python -m train agreement`). Of unrelated maps: of a copy and"
    " another image. Both are small for a network whose maps are single peaks: read the first against the second."
)


METRICS = {"val_top1": "top-1", "val_map": "mAP"}  # of the tasks, in words


def plan(experiment: Experiment, options: argparse.Namespace, dataset: Dataset | None) -> list[Task]:
    """Return all runs of the experiment, seed by seed, so that a table of one seed is complete early.

    Args:
        dataset: the training images, where the task is to classify them.

    Raises:
        DataError, UserError: the data or an option cannot be used.
    """
    shared = {"model": options.model, "epochs": options.epochs, "validate_every": options.epochs}
    if options.data is not None:
        shared["data"] = absolute(options.data)
    if options.train_images:
        shared["train_images"] = options.train_images
    tasks = []
    for seed, condition in itertools.product(range(options.seeds), experiment.conditions):
        if condition.seeds is not None and seed >= condition.seeds:
            continue
        stated = shared | condition.options | {"seed": seed}
        config = experiment.config(**stated)
        check(config)
        folder = options.out / condition.name / f"seed{seed}"
        of_data = task_of(config).resolve(config) if dataset is None else resolve_for_data(config, dataset)
        tasks.append(Task(condition, seed, folder, stated, of_data))
    return tasks


def write_results(
    options: argparse.Namespace, tasks: list[Task], validated: tuple[int, str], surroundings: dict[str, str]
) -> str:
    """Write results.json and table.md into the folder of the experiment. Returns the text of the table.

    Args:
        validated: how many images each run was validated on, and what they are called.
    """
    experiment = EXPERIMENTS[options.name]
    metric = METRICS[task_of(tasks[0].config).metric]
    outcomes = outcomes_of(tasks)
    rows = [c for c in experiment.conditions if c.name in outcomes or _selected(c, options.only)]
    compared, threads = differences(rows, outcomes), threads_of(options.jobs)
    # The name of the data alone: its place says nothing to others.
    settings = {} if options.data is None else {"data": Path(options.data).resolve().name}
    settings |= {"model": options.model, "epochs": options.epochs}
    settings |= {"train_images": options.train_images, "seeds": options.seeds, "jobs": options.jobs}
    flags = [f"--{key.replace('_', '-')} {shlex.quote(str(value))}" for key, value in settings.items()]
    only = [] if len(rows) == len(experiment.conditions) else ["--only", *(c.name for c in rows)]
    command = " ".join(["python -m train experiment", options.name, *flags, *only])
    result = {
        "experiment": options.name,
        "command": command,
        "settings": settings | {"threads": threads, "validation_images": validated[0]},
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
            table(rows, outcomes, options.seeds, metric),
            f"{metric.capitalize() if metric.islower() else metric} after the last epoch (never the best one) on"
            f" {validated[0]} {validated[1]};"
            " mean ± sample standard deviation over seeds. A difference is paired by seed, its interval Student's t."
            f" s / epoch: median, {options.jobs} run{'s' if options.jobs > 1 else ''} in parallel, {threads}"
            f" thread{'s' if threads > 1 else ''} each.",
            *([MEASURED] if any(c.measured[:1] == ("agreement",) for c in rows) else []),
            sentences(rows, outcomes, experiment.further),
            *price_tables(rows, outcomes),
            *([f"Published: {experiment.published}"] if experiment.published else []),
            f"Command: `{command}`",
            "; ".join(f"{key} {value}" for key, value in surroundings.items()),
        ]
    )
    write_json(options.out / "results.json", result)
    (options.out / "table.md").write_text(text + "\n")
    return text


def _images(experiment: Experiment, data: str | None) -> tuple[Dataset | None, tuple[int, str]]:
    """Return the training images, None where they are not classified, and how many images each run is validated on.

    Raises:
        DataError, UserError: the data cannot be used.
    """
    if experiment.config is ReidConfig:
        return None, (len(find_reid(data or embedded_figures()).queries), "queries of other identities")
    if data is None:
        raise UserError("--data is required: this experiment has no embedded images")
    train, validation = find_dataset(data), find_dataset(data, train=False)
    if shares_images(train, validation):
        raise UserError(f"{data} has no train/ and val/: a table needs images that were not trained on")
    return train, (len(validation), "images that were not trained on")


def _selected(condition: Condition, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(condition.name, pattern) for pattern in patterns)


def add_options(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="experiments", required=True, dest="name", metavar="EXPERIMENT")
    for name, each in (EXPERIMENTS | {DETECT: detection.EXPERIMENT}).items():
        command = commands.add_parser(name, **_described(each.description, f"{each.description}.\n\n{__doc__}"))
        _add_own(command, name, each)
        if name == DETECT:
            command.add_argument(
                "--detection-epochs",
                type=at_least(1),
                help="of each run of detection (default: {scenes} for scenes, {data} otherwise)".format(
                    **detection.DETECTION_EPOCHS
                ),
            )
    command = commands.add_parser(ADVISE, **_described(advice.DESCRIPTION, str(advice.__doc__)))
    _add_common(command, ADVISE, seeds=advice.SEEDS)
    command.epilog = _epilog(advice.DURATION, "settings", SETTINGS)
    methods.add_options(commands.add_parser(METHODS, **_described(methods.DESCRIPTION, str(methods.__doc__))))


def _described(summary: str, description: str) -> dict[str, Any]:
    return {"help": summary, "description": description, "formatter_class": HelpFormatter}


def _epilog(duration: str, rows: str, names: Iterable[str]) -> str:
    return f"By default about {duration}.\n\n{rows}:\n" + "\n".join(f"  {name}" for name in names)


def _add_own(parser: argparse.ArgumentParser, name: str, experiment: Experiment) -> None:
    """Add the options of an experiment on one data set, with its conditions at the end of the help."""
    data = {
        DETECT: "photographs with boxes in Pascal VOC's layout (default: the embedded scenes alone)",
        "reid": "the images, as for training (default: the embedded figures)",
    }
    parser.add_argument("--data", metavar="DIR", help=data.get(name, "the images, as for training (required)"))
    parser.add_argument("--epochs", type=at_least(1), help=f"of each run (default: {experiment.epochs})")
    images = experiment.train_images or "all"
    parser.add_argument("--train-images", type=at_least(0), help=f"of each run; 0: all (default: {images})")
    _add_common(parser, name, seeds=experiment.seeds)
    parser.epilog = _epilog(experiment.duration, "conditions", (condition.name for condition in experiment.conditions))


def _add_common(parser: argparse.ArgumentParser, name: str, *, seeds: int) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"folder of the experiment (default: runs/{name})")
    parser.add_argument("--model", default="small", help="as for training (default: %(default)s)")
    parser.add_argument("--seeds", type=at_least(1), help=f"runs of each condition (default: {seeds})")
    add_jobs(parser)
    parser.add_argument(
        "--only",
        nargs="+",
        default=["*"],
        metavar="PATTERN",
        help="run these conditions alone, such as 'cutout*' (default: all)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the experiment as the command line states.

    Returns:
        The exit status: 0, 1 where a run failed, or 130 when interrupted.

    Raises:
        UserError, DataError: the data or an option cannot be used, or the folder holds other runs.
    """
    if options.name == METHODS:
        return methods.run(options)
    if options.name == ADVISE:
        known = list(SETTINGS)
    else:
        conditions = detection.CONDITIONS if options.name == DETECT else EXPERIMENTS[options.name].conditions
        known = [condition.name for condition in conditions]
    for pattern in options.only:
        if not fnmatch.filter(known, pattern):
            hint = did_you_mean(pattern, known)
            raise UserError(f"--only {pattern}: no such condition; there are {', '.join(known)}{hint}")
    if options.name == DETECT:
        return detection.run(options)
    if options.name == ADVISE:
        return advice.run(options)
    experiment = EXPERIMENTS[options.name]
    for name in ("epochs", "train_images", "seeds"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(experiment, name))
    options.out = options.out or Path("runs") / options.name
    surroundings = environment()
    train, validated = _images(experiment, options.data)
    tasks = plan(experiment, options, train)
    selected = [task for task in tasks if _selected(task.condition, options.only)]
    options.out.mkdir(parents=True, exist_ok=True)

    def write() -> str:
        return write_results(options, tasks, validated, surroundings)

    status = run_left(selected, options.jobs, after=write)
    text = write()
    print(f"\n{text}\n\nin {options.out}: table.md, results.json")
    tell_interruption(status)
    return status
