"""The rows of the table of runs, and their means over seeds."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from train.analysis.intervals import half_interval
from train.config import ResolvedConfig


class Row(NamedTuple):
    """One number of a run."""

    part: str
    name: str
    value: float | None  # None: not known for this run
    percent: bool = True  # whether it is a share, shown in per cent


class Group(NamedTuple):
    """Runs of one configuration that differ in the seed alone."""

    runs: list[int]  # their places among all runs
    seeds: list[int]
    means: list[tuple[float, float] | None]  # of each row: mean and half of the t interval; None: a value is missing


def group_by_seed(configs: Sequence[ResolvedConfig]) -> list[tuple[list[int], list[int]]]:
    """Return the places and seeds of runs whose configurations differ in the seed alone, where there are two or more.

    Options that have no effect on the result do not count. Of several runs with one seed, the first counts.
    """
    groups: list[tuple[dict[str, Any], dict[int, int]]] = []  # options, and the place by seed
    for place, config in enumerate(configs):
        options = {name: value for name, value in config.to_dict().items() if name not in (*config.free(), "seed")}
        # May change with --resume, but have an effect; not all tasks have them all.
        options |= {name: getattr(config, name, None) for name in ("epochs", "data", "val_data", "unlabelled")}
        of_these = next((places for other, places in groups if other == options), None)
        if of_these is None:
            groups.append((options, of_these := {}))
        of_these.setdefault(config.seed, place)
    return [(list(places.values()), list(places)) for _, places in groups if len(places) > 1]


def mean_over_seeds(tables: Sequence[Sequence[Row]], configs: Sequence[ResolvedConfig]) -> list[Group]:
    """Return the means of each group of runs.

    Args:
        tables: the rows of each run, the same in all of them but for the values.
        configs: of each run.
    """
    groups = []
    for places, seeds in group_by_seed(configs):
        means: list[tuple[float, float] | None] = []
        for number in range(len(tables[0])):
            values = [value for place in places if (value := tables[place][number].value) is not None]
            complete = len(values) == len(places)
            means.append((statistics.fmean(values), half_interval(values)) if complete else None)
        groups.append(Group(places, seeds, means))
    return groups
