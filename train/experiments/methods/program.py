"""Which method for which data: methods with the same budget each, on several data sets and models.

For each data set and model: a search for the learning rate on training images that are held out; then runs of each
method over paired seeds, each measured by `evaluate` for accuracy, calibration and accuracy under corruptions; then the
cost of a step of each method. The folder of the experiment gets table.md, figure.png (accuracy against cost) and
results.json, of all data sets that it has results of.

Ctrl-C stops it; the same command resumes it. A command with other data or models adds to the table; one with other
methods has these as its rows, and runs those that are new.
"""

import argparse
import functools
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dali_salaug import METHODS
from train.analysis.evaluation import calibration, corruptions
from train.analysis.evaluation.corrupting import CORRUPTIONS, SEVERITIES
from train.benchmarks.measuring import environment, place_of
from train.cli.parser import at_least
from train.config import Config
from train.engine.files import atomic_write, write_json
from train.errors import UserError
from train.experiments.methods import cost, figure
from train.experiments.methods.plan import (
    BATCH_SIZE,
    DOZEN,
    DURATION,
    EMBEDDED,
    MEMORY,
    OPTIMIZERS,
    RATES,
    SEEDS,
    TRAIN_IMAGES,
    Setting,
    accuracies,
    best_rate,
    condition_of,
    data_name,
    setting_of,
)  # fmt: skip
from train.experiments.methods.report import result_of, text_of
from train.experiments.tasks import INTERRUPTED, Task, add_jobs, outcomes_of, run_left, tell_interruption, threads_of

DESCRIPTION = (
    "methods with the same budget each, on several data sets and models: accuracy, calibration, robustness, cost"
)
ALL = "all"
COST, RESULTS = "cost.json", "results.json"
# One corruption of each group that is made in less than a millisecond.
SOME, SEVERITIES_OF_SOME, IMAGES = ("gaussian_noise", "defocus_blur", "fog", "jpeg_compression"), (1, 3, 5), 400
HOW = (
    "After the last epoch (never the best one), on all validation images; mean ± sample standard deviation over seeds."
    " A difference is paired by seed, its interval Student's t. Calibration error: 15 bins. Cost: a training step and"
    " its batch on the CPU, a step alone on a GPU; median and range over the turns of a measurement beside plain steps."
)


def measuring(options: argparse.Namespace, setting: Setting) -> tuple[str, ...]:
    """Return the command that measures a run, and its options."""
    command = ["evaluate", "--parts", "accuracy", "calibration"]
    if options.corruption_images and setting.corruptible():
        command += ["corruptions", f"--corruption-images={options.corruption_images}"]
        command += ["--corruptions", *options.corruptions, "--severities", *map(str, options.severities)]
    return tuple(command)


class Comparison:
    """The comparison on one data set with one model, which writes its results after each run.

    Args:
        options: of the command line.
        setting: the data set with the model.
    """

    def __init__(self, options: argparse.Namespace, setting: Setting) -> None:
        self.options = options
        self.setting = setting
        measured = measuring(options, setting)
        self.conditions = [condition_of(name, measured) for name in options.methods]
        self.threads = threads_of(options.jobs)
        self.searched = setting.search()
        self.surroundings = environment()

    def run(self) -> int:
        """Run what is left, and return the exit status: 0, 1 where a run failed, or 130 when interrupted."""
        status = self._run(self.searched, "search")
        if any(task.outcome() is None for task in self.searched):
            return status
        tasks = self.tasks()
        status = self._run(tasks, "runs") or status
        if status != INTERRUPTED:
            self._measure_cost(tasks)
        self.write(tasks)
        return status

    def rate(self) -> float:
        """Return the learning rate of the table, once the search is finished."""
        return best_rate(accuracies(self.searched)) if self.searched else self.setting.rates[0]

    def tasks(self) -> list[Task]:
        """Return the runs of the table."""
        return self.setting.table(self.conditions, self.rate(), self.options.seeds)

    def _run(self, tasks: list[Task], stage: str) -> int:
        left = sum(task.outcome() is None for task in tasks)
        self.setting.folder.mkdir(parents=True, exist_ok=True)
        if left:
            print(f"{self.setting}, {stage}: {left} of {len(tasks)} are left", flush=True)
        after = functools.partial(self.write, tasks) if stage == "runs" else None
        return run_left(tasks, self.options.jobs, f"{self.setting}, ", after)

    def _measure_cost(self, tasks: list[Task]) -> None:
        """Measure the steps of the rows that have a run, unless all are measured already in these sizes.

        One measurement has all rows: those of another day would have been beside other plain steps.
        """
        sizes = ("batch_size", "image_size", "optimizer", "lr", "amp")
        of = {name: getattr(self.setting.resolved, name) for name in sizes}
        of |= {"device": place_of(self.setting.resolved.device).type, "threads": torch.get_num_threads()}
        done = {task.condition.name: task.config for task in tasks if task.outcome() is not None}
        known = self._cost()
        if "none" not in done or (known is not None and known["of"] == of and done.keys() <= known["batches"].keys()):
            return
        print(f"{self.setting}, cost: steps of {len(done)} rows, in turns", flush=True)
        # A batch's seconds are added to a step's: both have as many threads.
        configs = {name: replace(config, workers=torch.get_num_threads()) for name, config in done.items()}
        found = cost.measure(configs, self.setting.dataset)  # type: ignore[arg-type]
        write_json(self.setting.folder / COST, {"of": of, **found, "environment": environment()})

    def _cost(self) -> dict[str, Any] | None:
        path = self.setting.folder / COST
        return json.loads(path.read_text()) if path.is_file() else None

    def write(self, tasks: list[Task]) -> None:
        """Write the results of this data set with this model."""
        outcomes = outcomes_of(tasks)
        about = {"seeds": self.options.seeds, "jobs": self.options.jobs, "threads": self.threads}
        about |= {"measured_by": shlex.join(self.conditions[0].measured)}
        about |= {"command": command_of(self.options), "environment": self.surroundings}
        tried = accuracies(self.searched)
        result = result_of(self.setting, self.conditions, outcomes, tried, self.rate(), self._cost(), about)
        result["text"] = text_of(self.setting, self.conditions, outcomes, result)
        write_json(self.setting.folder / RESULTS, result)


def command_of(options: argparse.Namespace) -> str:
    """Return the command line with the names of the data alone: its place says nothing to others."""
    words = ["python -m train experiment methods", "--data", *map(data_name, options.data)]
    words += ["--model", *options.model, "--methods", *options.methods]
    stated = (
        "epochs", "train_images", "image_size", "batch_size", "optimizer", "amp", "seeds", "jobs", "corruption_images",
    )  # fmt: skip
    for name in stated:
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    if options.rates:
        words += ["--rates", *(f"{rate:g}" for rate in options.rates)]
    words += ["--corruptions", *options.corruptions, "--severities", *map(str, options.severities)]
    return " ".join([words[0], *map(shlex.quote, words[1:])])


def write_all(out: Path) -> str:
    """Write table.md, figure.png and results.json of all data sets and models in the folder. Returns the table."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob(f"*/*/{RESULTS}"))]
    if not found:
        return "No run of a table is finished."
    drawn = figure.draw(found)
    if drawn is not None:
        with atomic_write(out / "figure.png", "run the command again") as file:
            file.write(drawn.png)
    commands = dict.fromkeys((f"Command: `{r['command']}`", _words(r["environment"])) for r in found)
    under = "\n\n".join("\n\n".join(words) for words in commands)
    measured = "\n\n".join(
        dict.fromkeys(
            f"Measured by `dali-salaug {result['measured_by'].replace('evaluate', 'evaluate RUN', 1)}`."
            for result in found
        )
    )
    picture = [] if drawn is None else [f"![Accuracy against cost](figure.png)\n\n*{drawn.caption}.*"]
    text = "\n\n".join([*(result["text"] for result in found), *picture, HOW, measured, under])
    write_json(out / RESULTS, {"experiment": "methods", "results": found})
    (out / "table.md").write_text(text + "\n")
    return text


def _words(environment: Mapping[str, str]) -> str:
    return "; ".join(f"{key} {value}" for key, value in environment.items())


def run(options: argparse.Namespace) -> int:
    """Run the comparison as the command line states. Returns the exit status, as that of other experiments.

    Raises:
        UserError, DataError: the data or an option cannot be used.
    """
    if options.corruption_images:
        corruptions.check_library()
    calibration.check_library("experiment methods")
    names = [*METHODS, f"keep_cutout{MEMORY}"] if options.methods == [ALL] else options.methods
    options.methods = list(dict.fromkeys(["none", *names]))
    corruptions.put_in_order(options)
    for name in options.methods:
        condition_of(name, ())
    if not all(0 < rate < math.inf for rate in options.rates or ()):
        given = " ".join(f"{rate:g}" for rate in options.rates)
        raise UserError(f"--rates must be finite numbers above 0; got {given}")
    options.out = options.out or Path("runs/methods")
    data = list(dict.fromkeys(options.data))
    names = [*map(data_name, data)]
    same = [name for name in names if names.count(name) > 1]
    if same:
        raise UserError(f"--data: two folders are called {same[0]}, by which their results would be told apart")
    sizes = ("epochs", "train_images", "image_size", "batch_size", "optimizer", "amp", "rates")
    settings = [
        setting_of(folder, model, options.out, **{name: getattr(options, name) for name in sizes})
        for folder in data
        for model in dict.fromkeys(options.model)
    ]
    status = 0
    for setting in settings:
        try:
            status = Comparison(options, setting).run() or status
        except KeyboardInterrupt:  # while the steps are measured
            status = INTERRUPTED
        text = write_all(options.out)
        if status == INTERRUPTED:
            break
    print(f"\n{text}\n\nin {options.out}: table.md, figure.png, results.json")
    tell_interruption(status)
    return status


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", nargs="+", metavar="DIR", default=[EMBEDDED],
        help=f"folders of images with train/ and val/, as for training; {EMBEDDED}: the embedded data (default: that)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the experiment (default: runs/methods)")
    parser.add_argument(
        "--methods", nargs="+", default=list(DOZEN), metavar="NAME",
        help=f"as for training, with {MEMORY} after the name for remembered maps; {ALL}: every one; none is always"
        f" among them (default: {' '.join(DOZEN)})",
    )  # fmt: skip
    parser.add_argument("--model", nargs="+", default=["small"], help="as for training (default: small)")
    parser.add_argument(
        "--seeds", type=at_least(1, 1000), default=SEEDS, help="runs of each method (default: %(default)s)"
    )
    add_jobs(parser)
    parser.add_argument(
        "--epochs", type=at_least(1), help="of each run (default: the same number of pixels for all data)"
    )
    parser.add_argument(
        "--train-images", type=at_least(0), help=f"of each run; 0: all (default: at most {TRAIN_IMAGES})"
    )
    parser.add_argument(
        "--image-size", type=at_least(8, 16384), help="side in pixels (default: that of training, at most 64)"
    )
    parser.add_argument(
        "--batch-size", type=at_least(1), default=BATCH_SIZE, help="images in a step (default: %(default)s)"
    )
    suited = ", ".join(f"{optimizer} for {model}" for model, optimizer in OPTIMIZERS.items())
    parser.add_argument("--optimizer", help=f"as for training (default: {suited}, otherwise sgd)")
    amp = Config.options()["amp"]
    parser.add_argument(
        "--amp", choices=amp.metadata["choices"], default=amp.default, help="as for training (default: %(default)s)"
    )
    rates = "; of ".join(f"{name} {' '.join(f'{rate:g}' for rate in tried)}" for name, tried in RATES.items())
    parser.add_argument(
        "--rates", type=float, nargs="+", metavar="FACTOR",
        help="learning rates to try, over the default of training; a single one is taken as it is (default: of"
        f" {rates})",
    )  # fmt: skip
    parser.add_argument(
        "--corruption-images", type=at_least(0), default=IMAGES,
        help="validation images at most that are corrupted; 0: none (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--corruptions", nargs="+", choices=CORRUPTIONS, default=list(SOME), metavar="NAME",
        help=f"as of evaluate (default: {' '.join(SOME)})",
    )  # fmt: skip
    parser.add_argument(
        "--severities", type=int, nargs="+", choices=SEVERITIES, default=list(SEVERITIES_OF_SOME), metavar="N",
        help=f"of each corruption, from 1 to 5 (default: {' '.join(map(str, SEVERITIES_OF_SOME))})",
    )  # fmt: skip
    parser.epilog = f"By default about {DURATION}."
