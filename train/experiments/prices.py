"""Tables of what the maps at each price choose, from the rows of `train.analysis.prices` of several runs."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from train.experiments.comparison import Condition, Outcomes

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
        epochs = sorted({row["epoch"] for row in runs[0]})
        if len(epochs) > 1:
            yield from _course(name, runs, epochs)


def _course(name: str, runs: list[list[dict[str, Any]]], epochs: list[int]) -> Iterator[str]:
    lines = _head(
        ["epoch", *(f"{kind}, {key}, %" for kind in ("half resolution", "remembered") for key in ("cut", "paste"))]
    )
    for epoch in epochs:
        cells = [
            _cell(runs, key, map=kind, epoch=epoch, age=0)
            for kind in ("scaled", "remembered")
            for key in ("cut", "paste")
        ]
        lines.append(_line([str(epoch), *cells]))
    yield f"The same after each epoch, of {name}:\n\n" + "\n".join(lines)
    last = epochs[-1]
    lines = _head(["age, epochs", "cut, %", "paste, %"])
    for age in sorted({row["age"] for row in runs[0] if row["map"] == "remembered" and row["epoch"] == last}):
        cells = [_cell(runs, key, map="remembered", epoch=last, age=age) for key in ("cut", "paste")]
        lines.append(_line([str(age), *cells]))
    yield f"After epoch {last}, by the age of the remembered map:\n\n" + "\n".join(lines)


def _cell(runs: list[list[dict[str, Any]]], key: str, **of: Any) -> str:
    values = [100 * row[key] for rows in runs for row in rows if all(row[k] == v for k, v in of.items())]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def _head(cells: list[str]) -> list[str]:
    return [_line(cells), "|" + " --- |" * len(cells)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
