"""The experiment on advice: its stages, with runs that are finished by hand; its table; what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import train.data.settings
from train.__main__ import main as program
from train.cli.commands import run as command
from train.data.settings import SETTINGS
from train.errors import UserError
from train.experiments.tasks import Task

# Of the two settings, by method: the top-1 with seed 1; with seed 2 it is 1 higher, and the default's 2.
TOP1 = {"corner": {"none": 40.0, "drop_cutout": 70.0, "keep_randaugment": 50.0},
        "tone": {"none": 90.0, "keep_randaugment": 91.0}}  # fmt: skip


def report(method: str | None) -> dict[str, Any]:
    family = {"drop_cutout": "drop", "none": "less", None: None}[method]
    advice = {"family": family, "method": method, "reasons": [], "command": "python -m train --data=/here"}
    return {
        "run": "/here",
        "trained_with": {"method": "none"},
        "measured": {"energy": 0.5},
        "points": {},
        "advice": advice,
    }


def finish(task: Task) -> None:
    """Write what a finished run has in its folder, and the advice on it where it is measured."""
    setting, method = task.condition.name.split()
    higher = (task.seed - 1) * (2 if method == "keep_randaugment" else 1)
    task.folder.mkdir(parents=True)
    (task.folder / "config.yaml").write_text(yaml.safe_dump(task.config.to_dict()))
    record = {"epoch": task.config.epochs, "seconds": 2.0, "val_top1": TOP1[setting][method] + higher}
    (task.folder / "log.jsonl").write_text(json.dumps(record) + "\n")
    if task.condition.measured:
        found = report("drop_cutout" if setting == "corner" else None)
        (task.folder / "advise.json").write_text(json.dumps(found))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, list[str]]]:
    """The experiment, whose runs are finished at once: the exit status, and the runs in their order."""
    monkeypatch.setenv("DALI_SALAUG_CACHE", str(tmp_path / "cache"))
    small = {name: setting._replace(train_per_class=1) for name, setting in SETTINGS.items()}
    monkeypatch.setattr(train.data.settings, "SETTINGS", small)
    monkeypatch.setattr(train.data.settings.write_setting, "__kwdefaults__", {"val_per_class": 1})

    def start(*words: str, status: int = 0) -> tuple[int, list[str]]:
        started: list[str] = []

        def run_all(tasks: list[Task], *_: Any) -> int:
            for each in tasks:
                started.append(str(each))
                finish(each)
            return status

        monkeypatch.setattr("train.experiments.tasks.run_all", run_all)
        words = ("experiment", "advise", "--only", "corner", "tone", "--out", str(tmp_path / "out"), *words)
        return program(list(words)), started

    return start


def test_probes_advice_and_the_runs_that_follow(
    run: Callable[..., tuple[int, list[str]]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run("--seeds", "1", status=130) == (130, ["corner none seed 1", "tone none seed 1"])
    assert "| missing | missing |" in capsys.readouterr().out
    # Where no family is favoured, the probe itself stands for the advice.
    rest = ["corner drop_cutout seed 1", "corner keep_randaugment seed 1", "tone keep_randaugment seed 1"]
    assert run("--seeds", "1") == (0, rest)
    capsys.readouterr()
    status, started = run("--seeds", "2")
    assert (status, len(started), {each[-1] for each in started}) == (0, 5, {"2"})
    out = capsys.readouterr().out
    corner = "`drop: drop_cutout` | 40.5 (40.0, 41.0) | 70.5 (70.0, 71.0) | 51.0 (50.0, 52.0) | +19.50 ["
    assert corner in out
    assert "`none favoured: none` | 90.5 (90.0, 91.0) | 90.5 (90.0, 91.0) | 92.0 (91.0, 93.0) | −1.50 [" in out
    assert "better than the default in 1 of 2 settings (corner). The paired interval is above 0 in 1 (corner)." in out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["command"].endswith("experiment advise --model small --seeds 2 --jobs 2 --only corner tone")
    assert results["results"]["corner"]["default"] == {
        "1": {"top1": 50.0, "seconds": 2.0},
        "2": {"top1": 52.0, "seconds": 2.0},
    }
    stored = {"measured": {"energy": 0.5}, "points": {}, "family": "drop", "method": "drop_cutout", "reasons": []}
    assert results["results"]["corner"]["advice"]["1"] == stored
    assert "/here" not in json.dumps(results)
    assert run("--seeds", "2") == (0, [])


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(UserError, match="--only shade: no such condition; there are corner, mark, short, tone, cover"):
        command(["experiment", "advise", "--only", "shade"])
