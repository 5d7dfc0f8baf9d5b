"""--val-data: validation images of another folder, in the run and in what is done with it; impossible numbers."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import DataError
from train.__main__ import main as program
from train.analysis.agreement import measure as measure_agreement
from train.config import Config
from train.data.loaders import resolve_for_data, validation_images
from train.engine.run import Run
from train.errors import UserError
from train.programs.train import main


@pytest.fixture
def apart(shapes: Path, tmp_path: Path) -> Path:
    """Three images of two classes, in no train/ or val/."""
    for name, number in (("star", 0), ("star", 1), ("disc", 0)):
        (tmp_path / "apart" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(shapes / "val" / name / f"000{number}.jpg", tmp_path / "apart" / name)
    return tmp_path / "apart"


def test_a_run_validates_on_them(
    shapes: Path, apart: Path, tmp_path: Path, log_of: Any, capsys: pytest.CaptureFixture, monkeypatch: Any
) -> None:
    """The training images come without their own val/; the run resumes elsewhere, and is measured."""
    shutil.copytree(shapes / "train", tmp_path / "data" / "train")
    monkeypatch.chdir(tmp_path)
    given = {"data": "data", "val_data": "apart", "image_size": 16, "batch_size": 24, "device": "cpu", "workers": 1}
    assert main(given | {"out": "run", "method": "cutout", "epochs": 1}, resuming=False) == 0
    output = capsys.readouterr()
    assert "48 training and 3 validation images of 8 classes" in output.out
    assert "accuracies are on the training images" not in output.err
    (record,) = log_of(tmp_path / "run")
    assert record["val_top1"] * 3 / 100 == pytest.approx(round(record["val_top1"] * 3 / 100), abs=1e-3)

    result = measure_agreement(tmp_path / "run", {}, None, 100, 0)
    assert result["images"] == 3
    assert 100 * result["clean_hit"]["mean"] == pytest.approx(record["val_top1"], abs=1e-3)
    assert program(["show", "run", "--out", "sheet.png"]) == 0
    assert "3 of 3 images: sheet.png" in capsys.readouterr().out

    shutil.move(tmp_path / "apart", tmp_path / "moved")
    assert program(["--resume", "--out", "run", "--epochs", "2", "--val-data", "moved"]) == 0
    (tmp_path / "moved" / "star" / "0000.jpg").unlink()
    assert program(["--resume", "--out", "run", "--epochs", "3", "--val-data", "moved"]) == 2
    assert "the validation images have changed since the last checkpoint" in capsys.readouterr().err


def test_labels_number_the_training_classes(shapes: Path, apart: Path) -> None:
    dataset = validation_images(Config(data=str(shapes), val_data=str(apart)))
    assert [dataset.classes[label] for label in dataset.labels] == ["disc", "star", "star"]
    assert len(dataset.classes) == 8


def test_other_classes(shapes: Path, apart: Path, capsys: pytest.CaptureFixture) -> None:
    (apart / "disc").rename(apart / "disk")
    with pytest.raises(DataError, match=r"has 1 class\(es\) that the training images lack: disk"):
        validation_images(Config(data=str(shapes), val_data=str(apart)))
    assert program(["--data", str(shapes), "--val-data", str(apart)]) == 2
    assert "that the training images lack: disk" in capsys.readouterr().err


def test_the_training_images_themselves_are_warned_of(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ["--data", str(shapes), "--val-data", str(shapes / "train"), "--image-size", "16", "--epochs", "1"]
    assert program([*options, "--batch-size", "48", "--method", "none", "--out", str(tmp_path / "run")]) == 0
    sentence = "warning: --val-data has training images: accuracies are on the training images"
    assert sentence in capsys.readouterr().err
    assert program(["--resume", "--out", str(tmp_path / "run")]) == 0
    output = capsys.readouterr()
    assert output.err == "", "a finished run starts nothing that could be warned of"
    assert "is finished: 1 of 1 epochs are done" in output.out


def test_what_a_finished_run_was_warned_of_is_not_repeated(
    shapes: Path, apart: Path, tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch that is too large, and classes without validation images."""
    options = ["--data", str(shapes), "--val-data", str(apart), "--image-size", "16", "--epochs", "1"]
    assert program([*options, "--batch-size", "64", "--method", "none", "--out", str(tmp_path / "run")]) == 0
    assert "--batch-size 64 is more than the 48 training images" in capsys.readouterr().err
    assert any("has no validation images of 6 of the 8 classes" in message for message in caplog.messages)
    caplog.clear()
    assert program(["--resume", "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err == ""
    assert caplog.messages == []
    assert program(["--resume", "--out", str(tmp_path / "run"), "--epochs", "2"]) == 0
    assert "--batch-size 64 is more than the 48 training images" in capsys.readouterr().err
    assert caplog.messages


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_images": 7}, r"^--train-images must be from 8, one of each class, to 48, all that .* has; got 7$"),
        ({"train_images": 49}, r"^--train-images must be from 8, .*, to 48, all that .* has; got 49$"),
        (
            {"lr_per_256": 0.1, "batch_size": 64},
            r"^--lr-per-256 0\.1 would be scaled to --batch-size 64, but a step has no more than the 48 training",
        ),
        (
            {"lr_per_256": 0.1, "batch_size": 32, "train_images": 16},
            r"lower --batch-size to at most 16, or state --lr$",
        ),
    ],
)
def test_what_the_numbers_of_images_make_impossible(values: dict[str, Any], message: str, shapes: Path) -> None:
    with pytest.raises(UserError, match=message):
        resolve_for_data(Config(data=str(shapes), **values))


def test_what_they_allow(shapes: Path, run_of: Callable[..., Run]) -> None:
    config = resolve_for_data(Config(data=str(shapes), train_images=8, batch_size=8, lr_per_256=0.32))
    assert config.lr == pytest.approx(0.01)
    assert len(run_of(train_images=8, method="none", device="cpu").train_loader.dataset) == 8
    resolve_for_data(Config(data=str(shapes), lr_per_256=0.1))  # the default batch, whose size nobody stated
