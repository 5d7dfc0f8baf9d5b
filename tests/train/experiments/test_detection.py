"""The experiment on detection: both stages with one method, resumed without work; and its table."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import train.data.scenes
import train.data.shapes
from pipelines import DataError
from train.__main__ import main as program
from train.errors import UserError
from train.experiments import detection
from train.experiments.tasks import Task
from train.tasks.detection.config import DetectionConfig


def test_a_backbone_and_a_detector_on_it(
    warm_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "executable", warm_python)
    monkeypatch.setenv("DALI_SALAUG_CACHE", str(tmp_path / "cache"))
    train.data.shapes.write_shapes(tmp_path / "cache" / train.data.shapes.VERSION, train_per_class=2, val_per_class=1)
    train.data.scenes.write_scenes(tmp_path / "cache" / train.data.scenes.VERSION, train=8, val=4)
    words = ["experiment", "detect", "--only", "none", "--epochs", "1", "--detection-epochs", "1", "--seeds", "1"]
    words += ["--jobs", "1", "--out", str(tmp_path / "out")]
    assert program(words) == 0
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    found = report["detection"]["scenes"]["none"]["0"]
    assert 0 <= found["val_map"] <= 100
    assert report["backbones"]["none"]["0"] <= 100
    config = DetectionConfig.load(tmp_path / "out" / "scenes" / "none" / "seed0" / "config.yaml")
    assert config.clip_grad == 5
    assert config.backbone == str(tmp_path / "out" / "backbones" / "none" / "seed0" / "best.pt")
    capsys.readouterr()
    monkeypatch.setattr(Task, "start", lambda *_: pytest.fail("a finished run is not started again"))
    assert program(words) == 0
    assert "| none |" in capsys.readouterr().out


class _Finished(Task):
    """A run whose log is given by its options."""

    def log(self) -> list[dict[str, Any]]:
        return [{"epoch": 1, "seconds": 1.0, **self.options}]


def test_the_table(tmp_path: Path) -> None:
    config = DetectionConfig().resolved(None, None)
    conditions = {c.name: c for c in detection.CONDITIONS}
    tasks: list[Task] = []
    for name, base in (("none", 30.0), ("cutmix", 32.5)):
        for seed in range(2):
            values = {"val_map": base + seed, "val_map50": 50.0, "val_map75": 20.0 + seed}
            tasks.append(_Finished(conditions[name], seed, tmp_path, values, config))
    text = detection.table("scenes", tasks, {("none", 0): 90.0, ("none", 1): 92.0, ("cutmix", 0): 91.0}, 2)
    none = "| none | 91.00 ± 1.41 | 30.50 ± 0.71 | 30.00, 31.00 |  |  | 50.00 ± 0.00 | 20.50 ± 0.71 | 37.0 |"
    assert none in text
    assert "| cutmix | 91.00 | 33.00 ± 0.71 | 32.50, 33.50 | none | +2.50 [+2.50, +2.50] | 50.00 ± 0.00 |" in text
    assert "- cutmix is above none: +2.50" in text
    assert "keep_cutout" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keepaugment"], "--data is required: this experiment has no embedded images"),
        (["detect", "--only", "mixup"], "--only mixup: no such condition; there are none, cutout"),
        (["detect", "--data", "tests"], r"'.*tests': neither Pascal VOC's layout \(Annotations"),
    ],
)
def test_what_is_refused(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from train.cli.commands import run

    monkeypatch.setattr(Task, "start", lambda *_: pytest.fail("nothing is trained before it is refused"))
    with pytest.raises((UserError, DataError), match=message):
        run(["experiment", *words])
