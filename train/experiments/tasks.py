"""Runs as tasks: started or resumed in a process each, several in parallel, and stopped together."""

import argparse
import fcntl
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from tqdm import tqdm

import train
from train.cli.parser import at_least, flags_of
from train.config.options import is_of
from train.config.run import ResolvedRun
from train.engine.checkpoint import LAST
from train.engine.log import LOG, read_log
from train.engine.stopping import StopSignal
from train.engine.task import task_of
from train.errors import UserError
from train.experiments.comparison import Condition, Outcome
from train.experiments.prices import is_row

OUTPUT = "output.txt"  # in a run's folder: its output
# As `python -m train`, which would run a train.py in the user's folder.
_PROGRAM = "import sys; sys.path[0] = sys.argv.pop(1); from train.__main__ import main; sys.exit(main())"
T = TypeVar("T")
INTERRUPTED = 130  # exit status
MAY_DIFFER = ("out", "workers")  # between the run in a folder and the one to run


class Task(NamedTuple):
    """One run of an experiment."""

    condition: Condition
    seed: int
    folder: Path
    options: dict[str, Any]  # of Config
    config: ResolvedRun  # the same on this data

    def __str__(self) -> str:
        return f"{self.condition.name} seed {self.seed}"

    def log(self) -> list[dict[str, Any]] | None:
        """Return the log of the finished run in the folder; None where there is none, or it is not finished.

        Raises:
            UserError: the folder holds a run with other settings, or a damaged log.
        """
        path, log = self.folder / "config.yaml", self.folder / LOG
        if not path.is_file():
            return None
        stored, asked = ResolvedRun.load(path).to_dict(), self.config.to_dict()
        differing = [
            f"{name} was {stored[name]}, is {asked[name]}"
            for name in asked
            if name not in MAY_DIFFER and stored[name] != asked[name]
        ]
        if differing:
            raise UserError(
                f"{self.folder} holds a run with other settings ({'; '.join(differing)}): choose another --out, or"
                " remove that folder"
            )
        records = read_log(log) if log.is_file() else []
        if not records or records[-1]["epoch"] != self.config.epochs:
            return None
        for line, record in enumerate(records, 1):
            for name in ("seconds", task_of(self.config).metric) if line == len(records) else ("seconds",):
                if not is_of(record.get(name), float):
                    raise UserError(
                        f"{log}, line {line}: has no number {name!r}; remove {self.folder}, and it is trained again"
                    )
        return records

    def unmeasured(self) -> bool:
        """Return whether the run is finished, but not yet measured, or an evaluation was with other options."""
        return self._measured() is None and self.log() is not None

    def measurement(self) -> dict[str, Any] | None:
        """Return what was measured on the run in the folder; None where it is not, or is not to be."""
        if not self.condition.measured or self._measured() is None:
            return None
        return json.loads(self._measurement.read_bytes())

    @property
    def _measurement(self) -> Path:
        return self.folder / f"{self.condition.measured[0]}.json"

    def _measured(self) -> dict[str, Any] | None:
        """Return the fields of the outcome that are measured after the training; None where that is still to be done.

        A file that is damaged is measured again: that takes minutes, and the run that it is of is there.
        """
        if not self.condition.measured:
            return {}
        try:
            found = json.loads(self._measurement.read_bytes())
            if self.condition.measured[0] == "prices":
                return {"prices": _require(found["rows"], bool(found["rows"]) and all(map(is_row, found["rows"])))}
            if self.condition.measured[0] == "evaluate":
                asked = list(self.condition.measured[1:])
                words = shlex.split(found["command"])[-1 - len(asked) : -1]  # the last one is --json
                return {"evaluation": _require(of_evaluation(found["runs"][0]), words == asked)}
            if self.condition.measured[0] == "advise":
                return _require({}, bool(found["advice"]))
            means = (found["own"]["mean"], found["unrelated"]["mean"])
            return {"maps": _require(means, is_of(means, tuple[float, ...]))}
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None

    def outcome(self) -> Outcome | None:
        """Return the outcome of the run in the folder; None where it is not finished, or not measured.

        Raises:
            UserError: the folder holds a run with other settings.
        """
        records, measured = self.log(), self._measured()
        if records is None or measured is None:
            return None
        seconds = [record["seconds"] for record in records]
        outcome = Outcome(
            records[-1][task_of(self.config).metric], sum(seconds), statistics.median(seconds), **measured
        )
        outcome = outcome._replace(rank1=records[-1].get("val_rank1"))
        if "region_area" in records[0]:
            area = statistics.fmean(record["region_area"] for record in records)
            outcome = outcome._replace(region_area=100 * area)
        return outcome

    def start(self, threads: int) -> subprocess.Popen:
        """Start the run, resume it where it has a checkpoint, or measure it where it is finished.

        Args:
            threads: of the process.

        Raises:
            UserError: another process is still training it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        unmeasured = self.unmeasured()
        if unmeasured and self._measurement.exists():
            reason = "is damaged, or was made with other options"
            tqdm.write(f"warning: {self._measurement} {reason}: it is measured again", file=sys.stderr)
        with open(self.folder / OUTPUT, "ab") as output:
            try:  # the run has the lock by its stdout, until it ends
                fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.folder}: this run is still under way in another process") from None
            command = self._measuring() if unmeasured else self._training(threads)
            return subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(Path(train.__file__).parent.parent), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                start_new_session=True,  # Ctrl-C reaches this program alone, which passes it on, once
            )

    def _measuring(self) -> list[str]:
        command, *options = self.condition.measured
        return [command, str(self.folder), *options, f"--json={self._measurement}"]

    def _training(self, threads: int) -> list[str]:
        flags = flags_of(self.options)
        if (self.folder / LAST).is_file():
            flags.append("--resume")
        if self.condition.measured:
            self._measurement.unlink(missing_ok=True)
        return [self.config.task, *flags, f"--workers={threads}", f"--out={self.folder}"]


def _require(value: T, holds: bool) -> T:
    if not holds:
        raise ValueError
    return value


def of_evaluation(found: dict[str, Any]) -> dict[str, float | None]:
    """Return what experiments compare of the evaluation of a run, in per cent; None: not measured.

    "top1"; "calibration", the error in 15 bins; "corruption", the mean accuracy over the corruptions.
    """
    parts = {
        "top1": ("accuracy", "top1"),
        "calibration": ("calibration", "error"),
        "corruption": ("corruptions", "mean"),
    }
    return {
        name: 100 * found[part][key] if found.get(part) is not None else None for name, (part, key) in parts.items()
    }


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add the option that states how many runs are under way at once."""
    parser.add_argument(
        "--jobs",
        type=at_least(1),
        default=1 if torch.cuda.is_available() else 2,
        help="runs in parallel, which share the CPU cores, or have as many threads each as OMP_NUM_THREADS states"
        " (default: 2; 1 with a GPU)",
    )


def threads_of(jobs: int) -> int:
    """Return the threads of each run: those that OMP_NUM_THREADS states, or its share of the CPU cores."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdecimal() and int(stated) else max(1, len(os.sched_getaffinity(0)) // jobs)


def outcomes_of(tasks: Iterable[Task]) -> dict[str, dict[int, Outcome]]:
    """Return the outcomes of the finished runs, by condition and seed."""
    outcomes: dict[str, dict[int, Outcome]] = {}
    for task in tasks:
        outcome = task.outcome()
        if outcome is not None:
            outcomes.setdefault(task.condition.name, {})[task.seed] = outcome
    return outcomes


def run_left(tasks: list[Task], jobs: int, label: str = "", after: Callable[[], object] | None = None) -> int:
    """Run those of the tasks that are not finished, and print the outcome of each.

    Args:
        jobs: at a time.
        label: in front of each outcome.
        after: called after each run that succeeds, before its outcome is printed.

    Returns:
        Exit status, as of `run_all`.
    """

    def finished(task: Task, outcome: Outcome) -> None:
        if after is not None:
            after()
        tqdm.write(f"{label}{task}: {outcome.value:.2f} % after {outcome.seconds:.0f} s")

    unfinished = [task for task in tasks if task.outcome() is None]
    return run_all(unfinished, len(tasks), jobs, threads_of(jobs), finished)


def tell_interruption(status: int) -> None:
    """Say how to go on, where the exit status is that of an interruption."""
    if status == INTERRUPTED:
        print("Interrupted. To resume, run the same command again.", file=sys.stderr)


def run_all(tasks: list[Task], total: int, jobs: int, threads: int, finished: Callable[[Task, Outcome], None]) -> int:
    """Run the tasks, `jobs` at a time.

    Args:
        total: of the progress bar, including the runs that were finished before.
        threads: of each.
        finished: called after each run that succeeds.

    Returns:
        Exit status: 0, 1 where a run failed, or 130 when interrupted; the running ones have then left checkpoints.
    """
    waiting, status = deque(tasks), 0
    running: dict[subprocess.Popen, Task] = {}
    measured: set[Path] = set()  # the folders of runs that are not to be measured once more
    bar = tqdm(total=total, initial=total - len(tasks), unit="run", disable=None)
    with StopSignal() as stop, bar:
        passed_on = False
        try:
            while running or (waiting and not stop.requested):
                while waiting and len(running) < jobs and not stop.requested:
                    task = waiting.popleft()
                    running[task.start(threads)] = task
                    bar.set_postfix_str(", ".join(map(str, running.values())))
                if stop.requested and not passed_on:
                    passed_on = True
                    for process in running:
                        process.send_signal(signal.SIGINT)
                for process in [p for p in running if p.poll() is not None]:
                    task = running.pop(process)
                    if process.returncode == 0 and task.unmeasured() and task.folder not in measured:
                        measured.add(task.folder)
                        waiting.appendleft(task)
                    elif process.returncode == 0 and (outcome := task.outcome()):
                        bar.update()
                        finished(task, outcome)
                    elif not stop.requested:
                        status = 1
                        last = (task.folder / OUTPUT).read_text(errors="replace").strip().splitlines()[-1:]
                        reason = "".join(last) or "it printed nothing"
                        tqdm.write(f"{task} failed (exit status {process.returncode}): {reason}", file=sys.stderr)
                time.sleep(0.1)
        finally:  # processes are still running only after an error or a second signal
            for process in running:
                process.send_signal(signal.SIGINT)
            for process in running:
                process.wait()
    return INTERRUPTED if stop.requested else status
