"""Tables of what the maps at each price choose, from the rows of `train.analysis.prices` of several runs."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from train.config.options import is_of
from train.experiments.comparison import Condition, Outcomes

Rows = list[dict[str, Any]]  # of one run
COLUMNS = {
    "cut": "cut, %",
    "paste": "paste, %",
    "cut_box": "of the box, removed, %",
    "paste_box": "of the box, kept, %",
}
EXPLAINED = (
    "Regions, after the last epoch, on 500 training images (`dali-salaug prices`). Cut and paste: the share of the"
    " regions admitted by a map that the live full map of the same network admits too, for KeepCutout and KeepPaste."
    " Flat: what a uniform draw has. Of the box: the mean share of the object's box that they remove, or keep. Mean ±"
    " sample standard deviation over seeds."
)


def price_tables(conditions: Sequence[Condition], outcomes: Outcomes) -> Iterator[str]:
    """Yield the tables of a Markdown page: each map after the last epoch; and a remembered map by epoch and by age."""
    found = {
        c.name: [run.prices for run in outcomes.get(c.name, {}).values() if run.prices]
        for c in conditions
        if c.measured[:1] == ("prices",)
    }
    found = {name: runs for name, runs in found.items() if runs}
    if not found:
        return
    boxes = any(row["cut_box"] is not None for runs in found.values() for rows in runs for row in rows)
    keys = [key for key in COLUMNS if boxes or not key.endswith("box")]
    lines = _head(["run", "map", *(COLUMNS[key] for key in keys)])
    for name, runs in found.items():
        last = max(row["epoch"] for row in runs[0])
        maps = dict.fromkeys(row["map"] for row in runs[0])  # in their order
        for kind in maps:
            lines.append(_line([name, kind, *(_cell(runs, key, map=kind, epoch=last, age=0) for key in keys)]))
    yield "\n".join(lines)
    yield EXPLAINED
    for name, runs in found.items():
        if len({row["epoch"] for row in runs[0]}) > 1:
            yield f"The same after each epoch, of {name}:\n\n{by_epoch(runs)}"
            yield f"After the last epoch, by the age of the remembered map:\n\n{by_age(runs)}"


def is_row(row: Any) -> bool:
    """Return whether a value, from a file, is a row of `train.analysis.prices`."""
    return (
        isinstance(row, dict)
        and is_of(tuple(row.get(key) for key in ("map", "epoch", "age")), tuple[str, int, int])
        and all(key in row and is_of(row[key], float | None) for key in COLUMNS)
    )


def by_epoch(runs: list[Rows]) -> str:
    """Return the table of half resolution and of the remembered map after each epoch."""
    kinds = [(kind, key) for kind in ("scaled", "remembered") for key in ("cut", "paste")]
    titles = {"scaled": "half resolution", "remembered": "remembered"}
    lines = _head(["epoch", *(f"{titles[kind]}, {COLUMNS[key]}" for kind, key in kinds)])
    for epoch in sorted({row["epoch"] for row in runs[0]}):
        lines.append(_line([str(epoch), *(_cell(runs, key, map=kind, epoch=epoch, age=0) for kind, key in kinds)]))
    return "\n".join(lines)


def by_age(runs: list[Rows]) -> str:
    """Return the table of the remembered map against the last network, by its age."""
    last = max(row["epoch"] for row in runs[0])
    ages = sorted({row["age"] for row in runs[0] if row["map"] == "remembered" and row["epoch"] == last})
    lines = _head(["age, epochs", COLUMNS["cut"], COLUMNS["paste"]])
    for age in ages:
        cells = [_cell(runs, key, map="remembered", epoch=last, age=age) for key in ("cut", "paste")]
        lines.append(_line([str(age), *cells]))
    return "\n".join(lines)


def _cell(runs: list[Rows], key: str, **of: Any) -> str:
    values = [100 * row[key] for rows in runs for row in rows if all(row[k] == v for k, v in of.items())]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def _head(cells: list[str]) -> list[str]:
    return [_line(cells), "|" + " --- |" * len(cells)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
