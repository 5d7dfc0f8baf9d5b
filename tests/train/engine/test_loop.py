"""The program end to end, as a user runs it: run folder, methods, stopping, resuming, errors."""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dali_salaug import METHODS
from train.__main__ import main as program
from train.config import ResolvedConfig
from train.data.shapes import write_shapes
from train.engine import checkpoint, loop
from train.engine.log import truncate_log
from train.errors import UserError
from train.models.registry import build_model
from train.programs.train import main

# One of each kind. Every method takes a step in test_stage.py.
KINDS = {
    "one image": "cutout",
    "one image, by the map": "keep_cutout",
    "two images": "cutmix",
    "two images, by a map of its own": "saliencymix",
    "policy": "randaugment",
    "policy, with clean regions": "keep_randaugment",
    "one image, then two": "hybridmix_v3",
}


def test_the_run_folder(cli: Any, tmp_path: Path, log_of: Any) -> None:
    done = cli("--out", "run")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    names = {p.name for p in folder.iterdir()}
    assert {"config.yaml", "log.jsonl", "last.pt", "best.pt", "augmentations.png"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not any(name.startswith(".") for name in names)

    config = ResolvedConfig.load(folder / "config.yaml")
    assert (config.image_size, config.batch_size, config.epochs, config.region_size) == (32, 8, 2, 8)
    assert (config.policy, config.lr, config.weight_decay) == ("randaugment", 0.1 * 8 / 128, 5e-4)

    log = log_of(folder)
    assert [record["epoch"] for record in log] == [1, 2]
    for record in log:
        assert record.keys() == {
            "epoch", "train_loss", "val_top1", "val_top5", "val_loss", "seconds", "images_per_second", "lr",
            "loader_wait_share", "saliency_kept", "region_area",
        }  # fmt: skip
        assert 0 < record["loader_wait_share"] < 1
        assert 0.05 < record["region_area"] < record["saliency_kept"] < 1  # a salient square of 8×8 of 32×32
        assert 0 <= record["val_top1"] <= record["val_top5"] <= 100
        assert record["val_top1"] * 16 / 100 == pytest.approx(round(record["val_top1"] * 16 / 100))  # of 16 images
    best = checkpoint.load(folder / "best.pt")
    assert best["val_top1"] == max(record["val_top1"] for record in log)
    assert best["classes"] == sorted(p.name for p in (cli.data / "val").iterdir())
    with Image.open(folder / "augmentations.png") as picture:
        assert min(picture.size) > 600
    for epoch in (1, 2):
        assert f"epoch {epoch}/2" in done.stdout


@pytest.mark.pictures
@pytest.mark.parametrize("method", KINDS.values(), ids=KINDS)
def test_each_kind_of_method_trains(method: str, cli: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    given = {"data": str(cli.data), "out": str(tmp_path / "run"), "method": method, "model": "small", "epochs": 1}
    given |= {"image_size": 16, "batch_size": 24, "region_size": 6, "device": "cpu", "warmup_epochs": 0}
    assert main(given, resuming=False) == 0
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert state["scheduler"]["last_epoch"] == 2
    assert state["config"]["policy"] == METHODS[method].policy
    assert "epoch 1/1" in capsys.readouterr().out


def test_ctrl_c_and_resuming_give_what_an_uninterrupted_run_gives(
    cli: Any, tmp_path: Path, same: Any, log_of: Any
) -> None:
    options = ["--batch-size", "2", "--device", "cpu", "--label-smoothing", "0.2"]  # 24 steps an epoch
    whole = cli("--out", "whole", *options)
    assert whole.returncode == 0, whole.stderr

    last = tmp_path / "parts" / "last.pt"
    process = cli.start("--out", "parts", *options, "--checkpoint-every", "1")
    while not last.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert "dali-salaug --resume --out parts" in errors
    assert "Traceback" not in errors
    progress = checkpoint.load(last)["progress"]
    assert progress["epoch"] == 0
    assert 0 < progress["step"] < 24, "the signal was to come in the middle of the first epoch"

    again = cli("--resume", "--out", "parts", bare=True)
    assert again.returncode == 0, again.stderr
    assert f"resuming in epoch 1 after step {progress['step']} of 24" in again.stdout

    a, b = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    for part in ("model", "optimizer", "scheduler", "processes"):
        assert same(a[part], b[part]), part
    assert log_of(tmp_path / "whole", timed=False) == log_of(tmp_path / "parts", timed=False)


def test_a_stop_in_the_validation_is_resumed_there(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: Any, log_of: Any
) -> None:
    given = {
        "data": str(cli.data),
        "method": "keep_cutout",
        "epochs": 2,
        "image_size": 16,
        "batch_size": 8,
        "region_size": 6,
    }
    assert main(given | {"out": str(tmp_path / "whole")}, resuming=False) == 0

    real = loop.validate

    def stopped(run: Any, stop: Any, folder: Path) -> dict[str, float]:
        stop.requested = True
        return real(run, stop, folder)

    monkeypatch.setattr(loop, "validate", stopped)
    assert main(given | {"out": str(tmp_path / "parts")}, resuming=False) == 130
    monkeypatch.setattr(loop, "validate", real)
    progress = checkpoint.load(tmp_path / "parts" / "last.pt")["progress"]
    assert (progress["epoch"], progress["step"]) == (0, 6)
    assert main({"out": str(tmp_path / "parts")}, resuming=True) == 0

    a, b = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    assert all(same(a[part], b[part]) for part in ("model", "optimizer", "scheduler", "processes"))
    assert [r["train_loss"] for r in log_of(tmp_path / "parts")] == [
        r["train_loss"] for r in log_of(tmp_path / "whole")
    ]


def test_with_an_early_head(
    cli: Any, tmp_path: Path, capsys: pytest.CaptureFixture, same: Any, stop_in_step: Any
) -> None:
    """Stopped in the middle of an epoch and resumed: the same to the last bit. best.pt is the plain model."""

    given = {
        "data": str(cli.data),
        "method": "keep_cutout",
        "epochs": 2,
        "image_size": 32,
        "batch_size": 8,
        "region_size": 8,
    }
    given |= {"early_head": "auto", "early_weight": 0.5, "device": "cpu"}
    assert main(given | {"out": str(tmp_path / "whole")}, resuming=False) == 0
    assert "head=EarlyLogits" in capsys.readouterr().out

    with stop_in_step(3):
        assert main(given | {"out": str(tmp_path / "parts")}, resuming=False) == 130
    halfway = checkpoint.load(tmp_path / "parts" / "last.pt")
    assert (halfway["progress"]["epoch"], halfway["progress"]["step"]) == (0, 4)
    assert main({"out": str(tmp_path / "parts")}, resuming=True) == 0

    a, b = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    for part in ("model", "early_head", "optimizer", "scheduler", "processes"):
        assert same(a[part], b[part]), part
    assert a["early_head"]["weight"].shape == (8, 32)
    assert not same(a["early_head"], halfway["early_head"])  # it is trained
    best = checkpoint.load(tmp_path / "whole" / "best.pt")
    build_model("small", 8, 32).load_state_dict(best["model"])
    assert "early_head" not in best

    with pytest.raises(UserError, match="--early-head is auto in the checkpoint, off on the command line"):
        main({"out": str(tmp_path / "parts"), "early_head": "off"}, resuming=True)
    with pytest.raises(UserError, match=r"--early-head 3\.bodi: it must name a module .* such as 3\.body.*"):
        main(given | {"out": str(tmp_path / "other"), "early_head": "3.bodi"}, resuming=False)
    assert not (tmp_path / "other").exists()


def test_more_epochs_with_the_data_in_another_place(cli: Any, tmp_path: Path, log_of: Any) -> None:
    given = {"method": "none", "image_size": 16, "batch_size": 8, "device": "cpu", "out": str(tmp_path / "run")}
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(cli.data, here)
    assert main(given | {"data": str(here), "epochs": 1}, resuming=False) == 0
    here.rename(there)
    assert main({"out": given["out"], "data": str(there), "epochs": 3}, resuming=True) == 0
    assert [record["epoch"] for record in log_of(tmp_path / "run")] == [1, 2, 3]
    config = ResolvedConfig.load(tmp_path / "run" / "config.yaml")
    assert (config.data, config.epochs) == (str(there), 3)

    (there / "train" / "star" / "0000.jpg").unlink()
    with pytest.raises(UserError, match=r"cannot resume: .*samples: 48 in the state, 47 here"):
        main({"out": given["out"], "epochs": 4}, resuming=True)


def test_validation_on_the_training_images_is_warned_of(
    cli: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = {"method": "none", "image_size": 16, "batch_size": 8, "epochs": 1, "device": "cpu"}
    assert main(given | {"data": str(cli.data), "out": str(tmp_path / "split")}, resuming=False) == 0
    assert "warning" not in capsys.readouterr().err
    assert main(given | {"data": str(cli.data / "train"), "out": str(tmp_path / "plain")}, resuming=False) == 0
    assert "has no train/ and val/: accuracies are on the training images" in capsys.readouterr().err


def test_epochs_without_validation(
    cli: Any, tmp_path: Path, capsys: pytest.CaptureFixture, same: Any, log_of: Any, stop_in_step: Any
) -> None:
    """Stopped after an epoch without validation and resumed: as uninterrupted. The last epoch always has one."""
    given = {"data": str(cli.data), "method": "keep_cutout", "image_size": 16, "batch_size": 8, "region_size": 6}
    given |= {"device": "cpu", "epochs": 5, "validate_every": 3}
    assert main(given | {"out": str(tmp_path / "whole")}, resuming=False) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert ["top-1" in line for line in lines] == ["val loss" in line for line in lines] == [0, 0, 1, 0, 1]
    log = log_of(tmp_path / "whole")
    for record in log:
        validated = record["epoch"] in (3, 5)
        assert {name for name in record if name.startswith("val_")} == (
            {"val_loss", "val_top1", "val_top5"} if validated else set()
        )
    best = checkpoint.load(tmp_path / "whole" / "best.pt")
    assert best["val_top1"] == max(log[2]["val_top1"], log[4]["val_top1"])
    assert log[best["epoch"] - 1]["val_top1"] == best["val_top1"]

    with stop_in_step(0, epoch=1):
        assert main(given | {"out": str(tmp_path / "parts")}, resuming=False) == 130
    assert not (tmp_path / "parts" / "best.pt").exists()
    assert main({"out": str(tmp_path / "parts")}, resuming=True) == 0
    a, b = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    assert all(same(a[part], b[part]) for part in ("model", "optimizer", "scheduler", "processes"))
    assert log_of(tmp_path / "whole", timed=False) == log_of(tmp_path / "parts", timed=False)
    assert [record.keys() for record in log] == [record.keys() for record in log_of(tmp_path / "parts")]


def test_a_part_of_the_training_images(cli: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    given = {"method": "none", "image_size": 16, "batch_size": 8, "epochs": 1, "device": "cpu", "train_images": 20}
    assert main(given | {"data": str(cli.data), "out": str(tmp_path / "run")}, resuming=False) == 0
    output = capsys.readouterr()
    assert "20 training and 16 validation images of 8 classes" in output.out
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert state["scheduler"]["last_epoch"] == 3  # 20 images at batch 8
    assert main({"out": str(tmp_path / "run"), "epochs": 2}, resuming=True) == 0
    assert checkpoint.load(tmp_path / "run" / "last.pt")["scheduler"]["last_epoch"] == 6
    with pytest.raises(UserError, match="--train-images is 20 in the checkpoint, 24 on the command line"):
        main({"out": str(tmp_path / "run"), "train_images": 24}, resuming=True)

    train = cli.data / "train"
    assert main(given | {"data": str(train), "out": str(tmp_path / "plain")}, resuming=False) == 0
    assert "accuracies are on the training images" in capsys.readouterr().err
    for count in (7, 49):
        with pytest.raises(UserError, match=rf"--train-images must be from 8, .* to 48, .*; got {count}"):
            main(given | {"data": str(cli.data), "out": str(tmp_path / "no"), "train_images": count}, resuming=False)
    assert not (tmp_path / "no").exists()


def test_a_log_ahead_of_its_checkpoint_is_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"epoch": e}) + "\n" for e in (1, 2, 3)))
    truncate_log(path, 2)
    with open(path, "a") as log:
        log.write('{"epoch": 2, "train_l')  # killed in the middle of a line
    truncate_log(path, 2)
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 2]


def test_mistakes_of_the_user_are_answered(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--data", str(shapes)]
    tiny = ["--image-size", "16", "--batch-size", "24", "--epochs", "1", "--method", "none", "--lr", "0.2"]

    def fails(*options: str) -> str:
        assert program(list(options)) == 2
        return str(capsys.readouterr().err)

    assert program([*data, *tiny, "--out", "run"]) == 0
    assert "run already has a run: resume it with --resume, or choose another --out" in fails(*data, "--out", "run")
    assert "--resume needs --out" in fails("--resume")
    assert "empty/last.pt: no such checkpoint" in fails("--resume", "--out", "empty")
    differs = fails("--resume", "--out", "run", "--model", "resnet18", "--lr", "0.5")
    assert "--model is small in the checkpoint, resnet18 on the command line" in differs
    assert "--lr is 0.2 in the checkpoint, 0.5 on the command line" in differs
    assert "nowhere" in fails("--data", str(tmp_path / "nowhere"), "--out", "other")
    assert "the closest names are small" in fails(*data, "--model", "smal", "--out", "other")
    assert "--device cuda" in fails(*data, "--device", "cuda", "--out", "other") or torch.cuda.is_available()
    assert not (tmp_path / "other").exists()
    with pytest.raises(SystemExit):
        program(["--device", "tpu"])
    assert "invalid choice: 'tpu'" in capsys.readouterr().err


def test_the_images_may_not_change_before_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_shapes(tmp_path / "data", train_per_class=3, val_per_class=1)
    options = ["--image-size", "16", "--batch-size", "24", "--epochs", "1", "--method", "none"]
    assert program(["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *options]) == 0
    (tmp_path / "data" / "train" / "star" / "0000.jpg").unlink()
    assert program(["--resume", "--out", str(tmp_path / "run")]) == 2
    assert "cannot resume: " in capsys.readouterr().err
