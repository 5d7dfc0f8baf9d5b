"""The tables of what the maps choose, from rows that are written by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from train.experiments.comparison import Condition, Outcome
from train.experiments.prices import price_tables
from train.experiments.tasks import Task

CONDITIONS = [Condition("plain", {}), Condition("kept", {}, measured=("prices",))]


def row(kind: str, epoch: int, age: int, cut: float, paste: float, box: float | None) -> dict[str, Any]:
    return {
        "map": kind, "epoch": epoch, "age": age, "cut": cut, "paste": paste,
        "cut_box": box, "paste_box": None if box is None else 2 * box,
    }  # fmt: skip


def rows(more: float, box: float | None) -> list[dict[str, Any]]:
    return [
        row("scaled", 1, 0, 0.9, 0.8, box),
        row("remembered", 1, 0, 0.7, 0.5, box),
        row("scaled", 2, 0, 0.8 + more, 0.6, box),
        row("remembered", 2, 1, 0.75, 0.55, box),
        row("remembered", 2, 0, 0.85 + more, 0.65, box),
    ]


def outcomes(*runs: list[dict[str, Any]]) -> dict[str, dict[int, Outcome]]:
    measured = {seed: Outcome(50.0, 60.0, 4.0, prices=found) for seed, found in enumerate(runs)}
    return {"plain": {0: Outcome(50.0, 60.0, 4.0)}, "kept": measured}


def test_the_tables() -> None:
    table, _, by_epoch, by_age = price_tables(CONDITIONS, outcomes(rows(0, 0.05), rows(0.02, 0.07)))
    assert table.splitlines() == [
        "| run | map | cut, % | paste, % | of the box, removed, % | of the box, kept, % |",
        "| --- | --- | --- | --- | --- | --- |",
        "| kept | scaled | 81.0 ± 1.4 | 60.0 ± 0.0 | 6.0 ± 1.4 | 12.0 ± 2.8 |",
        "| kept | remembered | 86.0 ± 1.4 | 65.0 ± 0.0 | 6.0 ± 1.4 | 12.0 ± 2.8 |",
    ]
    assert by_epoch.splitlines()[4:] == [
        "| 1 | 90.0 ± 0.0 | 80.0 ± 0.0 | 70.0 ± 0.0 | 50.0 ± 0.0 |",
        "| 2 | 81.0 ± 1.4 | 60.0 ± 0.0 | 86.0 ± 1.4 | 65.0 ± 0.0 |",
    ]
    assert by_age.splitlines()[4:] == ["| 0 | 86.0 ± 1.4 | 65.0 ± 0.0 |", "| 1 | 75.0 ± 0.0 | 55.0 ± 0.0 |"]


def test_without_boxes_other_epochs_or_rows() -> None:
    tables = list(price_tables(CONDITIONS, outcomes(rows(0, None)[2:])))
    assert len(tables) == 2
    assert tables[0].splitlines()[0] == "| run | map | cut, % | paste, % |"
    assert tables[0].splitlines()[2] == "| kept | scaled | 80.0 | 60.0 |"
    assert not list(price_tables(CONDITIONS, outcomes()))
    assert not list(price_tables(CONDITIONS[:1], outcomes(rows(0, 0.1))))


WHOLE = json.dumps({"rows": rows(0, None)})


@pytest.mark.parametrize("content", [
    "", "{", "[]", "null", "9" * 5000, "[" * 10**5, WHOLE[:-9], '{"rows": []}', '{"rows": [{}]}', '{"rows": 5}',
    WHOLE.replace("0.9", '"0.9"'), WHOLE.replace('"epoch": 1', '"epoch": true'), WHOLE.replace('"cut"', '"cat"'),
])  # fmt: skip
def test_a_damaged_measurement_counts_as_none(content: str, tmp_path: Path) -> None:
    task = Task(CONDITIONS[1], 0, tmp_path, {}, None)  # type: ignore[arg-type]  # the configuration is not read
    assert task._measured() is None
    (tmp_path / "prices.json").write_text(content)
    assert task._measured() is None
    (tmp_path / "prices.json").write_text(WHOLE)
    assert task._measured() == {"prices": rows(0, None)}
