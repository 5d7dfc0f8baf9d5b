"""Conditions compared over seeds: means, paired differences with their t intervals, and a table of them."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from train.analysis.intervals import LEVEL, half_interval


class Condition(NamedTuple):
    """One row of an experiment."""

    name: str
    options: dict[str, Any]  # of a run, in addition to those that all conditions share
    baseline: str | None = None  # the condition to compare with
    published: float | None = None  # value of the metric, per cent
    measured: tuple[str, ...] = ()  # the command that measures a finished run, and its options
    seeds: int | None = None  # at most; None: all of the experiment


class Outcome(NamedTuple):
    """The outcome of one finished run."""

    value: float  # of the task's metric after the last epoch, per cent
    seconds: float
    seconds_per_epoch: float  # median over its epochs
    maps: tuple[float, float] | None = None  # disagreement of the maps of images and copies, and of unrelated ones
    region_area: float | None = None  # of the image, per cent, mean over the training; None without a saliency map
    prices: list[dict[str, Any]] | None = None  # the rows of `train.analysis.prices`
    rank1: float | None = None  # of re-identification, per cent
    evaluation: dict[str, float | None] | None = None  # see `train.experiments.tasks.of_evaluation`


Outcomes = Mapping[str, Mapping[int, Outcome]]  # by condition and seed, without the missing runs


class Difference(NamedTuple):
    """The metric of a condition minus that of its baseline, in points. A single pair has no interval."""

    mean: float
    interval: tuple[float, float] | None
    pairs: int

    def __str__(self) -> str:
        if self.interval is None:
            return _signed(self.mean)
        low, high = map(_signed, self.interval)
        return f"{_signed(self.mean)} [{low}, {high}]"


def paired_difference(values: Mapping[int, Outcome], baseline: Mapping[int, Outcome]) -> Difference | None:
    """Return condition minus baseline over the seeds that both have: same images, order, crops and first weights.

    Returns:
        The mean and its t interval at `LEVEL`; None where they have no seed in common.
    """
    return paired(*({seed: run.value for seed, run in runs.items()} for runs in (values, baseline)))


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Return `paired_difference` of values by seed."""
    differences = [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
    if not differences:
        return None
    mean, pairs = statistics.fmean(differences), len(differences)
    if pairs == 1:
        return Difference(mean, None, 1)
    half = half_interval(differences)
    return Difference(mean, (mean - half, mean + half), pairs)


def differences(conditions: Sequence[Condition], outcomes: Outcomes) -> dict[str, Difference | None]:
    """Return the difference of each condition that has a baseline, by its name."""
    return {c.name: _difference(outcomes, c.name, c.baseline) for c in conditions if c.baseline}


def _difference(outcomes: Outcomes, name: str, baseline: str) -> Difference | None:
    return paired_difference(outcomes.get(name, {}), outcomes.get(baseline, {}))


def table(conditions: Sequence[Condition], outcomes: Outcomes, seeds: int, metric: str = "top-1") -> str:
    """Return a Markdown table with a row for each condition; `metric` is the name of the outcomes' value."""
    which = "seed 0" if seeds == 1 else f"seeds 0 to {seeds - 1}"
    interval = f" [{LEVEL:.0%} interval]" if seeds > 1 else ""
    measured = any(condition.measured[:1] == ("agreement",) for condition in conditions)
    areas = any(run.region_area is not None for runs in outcomes.values() for run in runs.values())
    columns = [
        "condition", f"{metric}, %", f"{which}, %", "compared with", f"difference, points{interval}", "s / epoch",
        "published, %",
    ]  # fmt: skip
    ranks = any(run.rank1 is not None for runs in outcomes.values() for run in runs.values())
    if ranks:
        columns += ["rank-1, %"]
    if areas:
        columns += ["area of the region, %"]
    if measured:
        columns += ["disagreement of maps, 10⁻³", "of unrelated maps, 10⁻³"]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    compared = differences(conditions, outcomes)
    for condition in conditions:
        runs = outcomes.get(condition.name, {})
        own = seeds if condition.seeds is None else min(seeds, condition.seeds)
        each = ", ".join(f"{runs[seed].value:.2f}" if seed in runs else "missing" for seed in range(own))
        difference = compared.get(condition.name)
        text = "" if difference is None else str(difference)
        if difference is not None and difference.pairs < seeds:
            text += f", {difference.pairs} of {seeds} seeds"
        speed = f"{statistics.median(run.seconds_per_epoch for run in runs.values()):.1f}" if runs else ""
        published = "" if condition.published is None else f"{condition.published:.1f}"
        cells = [condition.name, mean_of([run.value for run in runs.values()]), each, condition.baseline or "", text]
        cells += [speed, published]
        if ranks:
            cells += [mean_of([run.rank1 for run in runs.values() if run.rank1 is not None])]
        if areas:
            found = [run.region_area for run in runs.values() if run.region_area is not None]
            cells += [mean_of(found) if found else ""]
        if measured:
            pairs = [run.maps for run in runs.values() if run.maps]
            cells += [mean_of([1e3 * pair[place] for pair in pairs]) for place in (0, 1)] if pairs else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sentences(conditions: Sequence[Condition], outcomes: Outcomes, further: Sequence[tuple[str, str]] = ()) -> str:
    """Return in words which differences the data supports, and which it does not show.

    Args:
        further: pairs of conditions to compare in addition to each condition with its baseline.
    """
    shown: list[str] = []
    not_shown: list[str] = []
    for name, baseline in (*((c.name, c.baseline) for c in conditions if c.baseline), *further):
        difference = _difference(outcomes, name, baseline)
        if difference is None or difference.interval is None:
            continue
        low, high = difference.interval
        if low > 0 or high < 0:
            shown.append(f"- {name} is {'above' if low > 0 else 'below'} {baseline}: {difference}")
        else:
            not_shown.append(f"- {name} and {baseline}: {difference}")
    count = len(shown) + len(not_shown)
    if not count:
        return "No condition has two seeds in common with its baseline: the data supports no difference."
    parts = []
    if shown:
        parts.append("The data supports these differences (the interval excludes 0):\n\n" + "\n".join(shown))
    if not_shown:
        parts.append("The data does not show these differences (the interval includes 0):\n\n" + "\n".join(not_shown))
    parts.append(
        f"{count} comparison{'s' if count > 1 else ''}, without a correction for their number: if no method made any "
        f"difference, {(1 - LEVEL) * count:.2g} of them would still be expected to exclude 0."
    )
    return "\n\n".join(parts)


def mean_of(values: Sequence[float]) -> str:
    """Return the mean and the sample standard deviation as a cell of a table."""
    if not values:
        return "missing"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def _signed(value: float) -> str:
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")
