"""The program on a tiny run: table, JSON, picture, the command that it states; data without boxes; what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipelines import find_dataset
from train.__main__ import main as program
from train.analysis.advice import program as module
from train.analysis.advice import rules
from train.cli.checks import check
from train.cli.commands import build_parser
from train.cli.parser import stated
from train.config import Config
from train.data.loaders import resolve_for_data

TRAINING = ["--image-size", "16", "--batch-size", "16", "--epochs", "1", "--region-size", "5", "--lr", "0.07"]
TRAINING += ["--method", "keep_cutout", "--saliency", "memory", "--memory-grid", "8"]
TRAINING += ["--label-smoothing", "0", "--crop-scale", "0.5", "1", "--no-fused", "--drop-last", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        draw = "train.tasks.classification.task.write_figure"
        patch.setattr(draw, lambda *given, **_: Image.new("RGB", (1, 1)).save(given[-1]))
        assert program(["--data", str(shapes), "--out", str(folder), *TRAINING, "--seed", "3"]) == 0
    return folder


def test_the_program(run: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert program(["advise", str(run), "--images", "16", "--json", str(tmp_path / "a.json")]) == 0
    out = capsys.readouterr().out
    report: dict[str, Any] = json.loads((tmp_path / "a.json").read_text())
    found = rules.advise(rules.Signs(**report["measured"]))
    assert report["signs"] == [sign._asdict() for sign in found.signs]
    assert report["points"] == found.points
    assert report["advice"]["family"] == found.family
    assert all(sign.name in out for sign in found.signs)
    assert (report["measured"]["train_images"], report["measured"]["val_images"]) == (16, 16)
    assert report["measured"]["energy"] > 0
    with Image.open(run / "advice.png") as picture:
        assert picture.width > 600

    # Without boxes, from another folder, into another picture, and again the same numbers.
    bare = tmp_path / "bare"
    shutil.copytree(shapes, bare)
    (bare / "boxes.tsv").unlink()
    words = ["advise", str(run / "best.pt"), "--data", str(bare), "--images", "16", "--json", str(tmp_path / "b.json")]
    assert program([*words, "--picture", str(tmp_path / "b.png")]) == 0
    assert (tmp_path / "b.png").is_file()
    other = json.loads((tmp_path / "b.json").read_text())["measured"]
    assert (other["energy"], other["box_area"]) == (None, None)
    assert other["destroyed"] == {"cutout": None, "keep_cutout": None}
    known = {"energy", "box_area", "destroyed"}
    assert {k: v for k, v in other.items() if k not in known} == {
        k: v for k, v in report["measured"].items() if k not in known
    }


def test_the_command_trains_as_the_run_was_trained(run: Path, shapes: Path) -> None:
    training, _ = module.load(run, None, None)
    line = module.command(training.trained, training.dataset, "none", None, None)
    words = line.split()
    assert words[:3] == ["python", "-m", "train"]
    options = build_parser(["train"]).parse_args(["train", *words[3:]])
    config = Config(**stated(options, Config.options()))
    check(config)
    resolved, before = resolve_for_data(config), training.trained.config
    assert config.method == "none"
    assert config.data == str(shapes)
    assert (config.seed, config.memory_grid, config.saliency) == (0, Config.memory_grid, None)
    for name in (
        "image_size",
        "batch_size",
        "epochs",
        "lr",
        "label_smoothing",
        "crop_scale",
        "drop_last",
        "region_size",
    ):
        assert getattr(resolved, name) == getattr(before, name)
    assert "momentum" not in line  # a default
    elsewhere = module.command(training.trained, training.dataset, "cutout", Path("/a b"), None)
    assert "'--data=/a b'" in elsewhere


@pytest.mark.parametrize("kept", [["--held-out", "12", "--train-images", "36"], ["--held-out", "12"]])
def test_a_run_that_held_images_out(
    kept: list[str], shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Its validation images are of the training folder, but not those that it trained on."""
    draw = "train.tasks.classification.task.write_figure"
    monkeypatch.setattr(draw, lambda *given, **_: Image.new("RGB", (1, 1)).save(given[-1]))
    run = tmp_path / "run"
    assert program(["--data", str(shapes), "--out", str(run), *TRAINING, *kept]) == 0
    monkeypatch.setattr(rules, "LEAST", 0)  # some family is favoured, and its command is stated
    monkeypatch.setattr(module, "shares_images", lambda *_: True)  # as where both are in one file
    assert program(["advise", str(run), "--images", "12"]) == 0
    line = capsys.readouterr().out.split("  python -m train ")[1].splitlines()[0]
    options = build_parser(["train"]).parse_args(["train", *line.split()])
    config = Config(**stated(options, Config.options()))
    training, validation = module.load(run, None, None)
    trained = training.trained
    assert (config.held_out, config.train_images) == (trained.config.held_out, trained.config.train_images)

    # Where the folder is elsewhere now; and where validation images of their own are stated.
    moved = tmp_path / "moved"
    shutil.copytree(shapes / "train", moved)
    found = module.load(run, moved, None)
    for own, before in zip(found, (training, validation), strict=True):
        names = [Path(own.dataset.name(place)).name for place in range(len(own.dataset))]
        assert names == [Path(before.dataset.name(place)).name for place in range(len(before.dataset))]
    line = module.command(trained, find_dataset(moved), "cutout", moved, shapes / "val")
    assert "--val-data" in line
    assert "--held-out" not in line


def test_a_table_of_training_images_alone(run: Path, shapes: Path, tmp_path: Path) -> None:
    """The sign of the maps in the objects needs no other."""
    lines = (shapes / "boxes.tsv").read_text().splitlines()
    table = tmp_path / "boxes.tsv"
    table.write_text("\n".join([lines[0], *(line for line in lines if line.startswith("train/"))]) + "\n")
    words = ["advise", str(run), "--images", "8", "--boxes", str(table), "--picture", str(tmp_path / "a.png")]
    assert program([*words, "--json", str(tmp_path / "a.json")]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["measured"]["energy"] > 0


def test_text_of_both_outcomes() -> None:
    base: dict[str, Any] = {
        "trained_with": {"method": "none"},
        "measured": {"train_images": 4, "val_images": 4, "train_accuracy": 1.0, "val_accuracy": 0.5, "confidence": 0.5,
                     "calibration_error": None, "stability": 0.5},
        "signs": [rules.Sign("a sign", None, 0.2, True, "drop", 2, False, "why")._asdict(),
                  rules.Sign("another", 0.1, 0.2, False, "mix", 2, True, "why")._asdict()],
        "points": {"mix": 2, "drop": 0},
    }  # fmt: skip
    nothing = base | {"advice": {"family": None, "method": None, "reasons": [], "command": None}}
    assert "The numbers do not favour any family" in module.as_text(nothing)
    advice = {"family": "mix", "method": "cutmix", "reasons": ["both are right"], "command": "python -m train"}
    text = module.as_text(base | {"advice": advice})
    assert "Try cutmix: mix two images.\n- Both are right.\n\n  python -m train" in text
    already = module.as_text(base | {"advice": advice | {"method": "none"}})
    assert "- Both are right.\n- The run has that method already: train longer, or a larger model.\n\n" in already
    assert "   a sign         –     > 0.20  drop" in text
    assert "+2 another    0.100     < 0.20  mix" in text
    assert "calibration error –" in text


def test_what_is_refused(run: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def refusal(*words: str) -> str:
        assert program(["advise", *words]) == 2
        return capsys.readouterr().err

    assert "no such checkpoint" in refusal(str(tmp_path))
    assert f"there is no folder {tmp_path / 'no'} to write it in" in refusal(str(run), "--json", str(tmp_path / "no/a"))
    assert f"there is no folder {tmp_path / 'no'}" in refusal(str(run), "--picture", str(tmp_path / "no/a.png"))
    same = refusal(str(run), "--data", str(shapes / "train"))
    assert "its validation images are its training images" in same
    assert "pass --val-data" in same
    shutil.copytree(shapes / "train" / "disc", tmp_path / "one" / "disc")
    assert "its classes are not those" in refusal(str(run), "--data", str(tmp_path / "one"))
    (tmp_path / "bad.tsv").write_text("path\tx0\nval/disc/0000.jpg\t3\n")
    assert "needs the tab-separated columns" in refusal(str(run), "--boxes", str(tmp_path / "bad.tsv"))
    for words, message in (
        (["--images", "1"], "argument --images: must be a whole number of at least 2; got 1"),
        (["--seed", "x"], "argument --seed: must be a whole number of at least 0; got x"),
    ):
        with pytest.raises(SystemExit):
            program(["advise", str(run), *words])
        assert message in capsys.readouterr().err
