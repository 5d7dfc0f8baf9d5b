"""The proof of `advise`: on generated data with a known answer, the advised method against the default.

For each setting and seed: a probe without augmentation, the advice on it, and then runs with the advised method and
with the default one, with the same data, first weights and budget. The rules see neither the setting's name nor its
answer.
"""

import argparse
import fnmatch
import shlex
from pathlib import Path
from typing import Any

from train.analysis.advice.rules import FAMILIES
from train.benchmarks.measuring import environment
from train.cli.checks import check
from train.config import Config
from train.data.loaders import resolve_for_data
from train.data.settings import SETTINGS, embedded_setting
from train.engine.files import write_json
from train.experiments.comparison import Condition, Difference, Outcome, paired_difference
from train.experiments.tasks import INTERRUPTED, Task, run_left, tell_interruption

DESCRIPTION = "`advise` on five generated data sets with a known answer: the advised method against the default"
SEEDS, FIRST_SEED = 3, 1  # of the data and of the runs; the thresholds were chosen on seed 0
DURATION = "a quarter of an hour on two idle CPU cores (an estimate)"
PROBE, DEFAULT = "none", Config.method


def selected(options: argparse.Namespace) -> list[str]:
    """Return the settings that the command line selects."""
    return [name for name in SETTINGS if any(fnmatch.fnmatchcase(name, pattern) for pattern in options.only)]


def seeds_of(options: argparse.Namespace) -> range:
    """Return the seeds of the data and of the runs."""
    return range(FIRST_SEED, FIRST_SEED + options.seeds)


def task(options: argparse.Namespace, setting: str, seed: int, method: str, *, advise: bool = False) -> Task:
    """Return a run on a setting.

    Args:
        advise: whether the run is then advised on.
    """
    data = str(embedded_setting(setting, seed))
    stated = {"data": data, "model": options.model, "method": method, "seed": seed, **SETTINGS[setting].options()}
    config = Config(**stated)
    check(config)
    condition = Condition(f"{setting} {method}", {"method": method}, measured=("advise",) if advise else ())
    return Task(condition, seed, options.out / setting / f"{method}-seed{seed}", stated, resolve_for_data(config))


class Result(dict[str, Any]):
    """The outcomes of a setting: "advice", and by seed "probe", "advised", "default"; see `gather`."""


def gather(probes: dict[tuple[str, int], Task], others: dict[tuple[str, int, str], Task]) -> dict[str, Result]:
    """Return by setting the advice and the outcomes of the probe, the advised method and the default, each by seed.

    Args:
        probes: by setting and seed.
        others: by setting, seed and "advised" or "default".
    """
    found: dict[str, Result] = {}
    for (name, seed), probe in probes.items():
        outcome, report = probe.outcome(), probe.measurement()
        if outcome is None or report is None:
            continue
        result = found.setdefault(name, Result(advice={}, probe={}, advised={}, default={}))
        result["advice"][seed] = report
        result["probe"][seed] = outcome
        for role in ("advised", "default"):
            run = others.get((name, seed, role))
            if run is not None and (its := run.outcome()) is not None:
                result[role][seed] = its
    return found


def table(found: dict[str, Result]) -> str:
    """Return a Markdown table of the settings, and in words in how many the advice beat the default."""
    header = (
        "setting", "known answer", "advice, by seed", "probe, %", "advised, %", f"{DEFAULT}, %",
        "advised − default, points [95% interval]",
    )  # fmt: skip
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    better, excluding, known = [], [], []
    for name, result in found.items():
        difference = paired_difference(result["advised"], result["default"])
        advice = [f"{a['advice']['family'] or 'none favoured'}: {method_of(a)}" for a in result["advice"].values()]
        same = len(set(advice)) == 1
        cells = [f"{name}: {SETTINGS[name].description}", SETTINGS[name].answer]
        cells.append(f"`{advice[0]}`" if same else ", ".join(f"`{each}`" for each in advice))
        cells += [_each(result[role]) for role in ("probe", "advised", "default")]
        lines.append(f"| {' | '.join([*cells, '' if difference is None else str(difference)])} |")
        if difference is not None:
            known.append(name)
            if difference.mean > 0:
                better.append(name)
            if _excludes_zero(difference):
                excluding.append(name)
    verdict = (
        f"By the mean over the seeds, the advised method is better than the default in {len(better)} of {len(known)}"
        f" settings{_listed(better)}. The paired interval is above 0 in {len(excluding)}{_listed(excluding)}."
    )
    return "\n".join(lines) + f"\n\n{verdict}"


def method_of(report: dict[str, Any]) -> str:
    """Return the method that a report advises; where it favours none, that of the run itself."""
    return report["advice"]["method"] or report["trained_with"]["method"]


def _excludes_zero(difference: Difference) -> bool:
    return difference.interval is not None and difference.interval[0] > 0


def _listed(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _each(runs: dict[int, Outcome]) -> str:
    if not runs:
        return "missing"
    values = [run.value for run in runs.values()]
    return f"{sum(values) / len(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"


def run(options: argparse.Namespace) -> int:
    """Run the experiment as the command line states. Returns the exit status, as that of other experiments."""
    options.seeds = options.seeds or SEEDS
    options.out = options.out or Path("runs/advise")
    options.out.mkdir(parents=True, exist_ok=True)
    surroundings = environment()
    probes: dict[tuple[str, int], Task] = {}
    others: dict[tuple[str, int, str], Task] = {}
    status = 0
    for seed in seeds_of(options):  # seed by seed, so that a table of one seed is complete early
        own = {(name, seed): task(options, name, seed, PROBE, advise=True) for name in selected(options)}
        probes |= own
        if status != INTERRUPTED:
            status = run_left(list(own.values()), options.jobs, "probe, ") or status
        further = followers(options, own)
        others |= further
        apart = {each.folder: each for each in further.values() if each not in own.values()}
        if status != INTERRUPTED:
            status = run_left(list(apart.values()), options.jobs, "run, ") or status
    write(options, gather(probes, others), surroundings)
    tell_interruption(status)
    return status


def followers(options: argparse.Namespace, probes: dict[tuple[str, int], Task]) -> dict[tuple[str, int, str], Task]:
    """Return by setting, seed, and "advised" or "default" the runs that follow on probes that are advised on.

    Where the probe itself is what is advised, it is not repeated; nor is the default.
    """
    found: dict[tuple[str, int, str], Task] = {}
    for (name, seed), probe in probes.items():
        outcome, report = probe.outcome(), probe.measurement()
        if outcome is None or report is None:
            continue
        for role, method in (("advised", method_of(report)), ("default", DEFAULT)):
            found[name, seed, role] = probe if method == PROBE else task(options, name, seed, method)
    return found


def write(options: argparse.Namespace, found: dict[str, Result], surroundings: dict[str, str]) -> None:
    """Write results.json and table.md into the folder of the experiment, and print the table."""
    settings = {"model": options.model, "seeds": options.seeds, "jobs": options.jobs}
    flags = [f"--{key} {shlex.quote(str(value))}" for key, value in settings.items()]
    only = [] if options.only == ["*"] else ["--only", *options.only]
    command = " ".join(["python -m train experiment advise", *flags, *only])
    seeds = seeds_of(options)
    how = (
        f"Top-1 after the last epoch (never the best one), mean and each of the seeds {seeds[0]} to {seeds[-1]}, which"
        f" are those of the generated images too. A difference is paired by seed, its interval Student's t. The probe"
        f" has no augmentation; where it is itself what is advised, its run is not repeated. Families:"
        f" {'; '.join(f'{name}, {text}' for name, text in FAMILIES.items())}."
    )
    text = "\n\n".join(
        [table(found), how, f"Command: `{command}`", "; ".join(f"{k} {v}" for k, v in surroundings.items())]
    )
    write_json(
        options.out / "results.json",
        {
            "experiment": "advise",
            "command": command,
            "settings": settings,
            "environment": surroundings,
            "results": {
                name: {
                    "answer": SETTINGS[name].answer,
                    "advice": {str(seed): _stored(a) for seed, a in r["advice"].items()},
                    **{
                        role: {str(seed): {"top1": o.value, "seconds": o.seconds} for seed, o in r[role].items()}
                        for role in ("probe", "advised", "default")
                    },
                    "difference": d._asdict() if (d := paired_difference(r["advised"], r["default"])) else None,
                }
                for name, r in found.items()
            },
        },
    )
    (options.out / "table.md").write_text(text + "\n")
    print(f"\n{text}\n\nin {options.out}: table.md, results.json")


def _stored(report: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers and the advice of a report, without the paths of this machine."""
    return {
        "measured": report["measured"],
        "points": report["points"],
        **{key: report["advice"][key] for key in ("family", "method", "reasons")},
    }
