"""What stops or disturbs a run, end to end: numbers that are not finite, memory, disks, and other checkpoints."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipelines import Batch
from train.__main__ import main as program
from train.analysis.trained import load_best
from train.config import Config
from train.engine import checkpoint
from train.engine.files import lock_folder
from train.engine.loader_wait import LoaderWait
from train.engine.memory import is_out_of_memory, out_of_memory
from train.engine.run import Run
from train.errors import UserError
from train.programs.train import main
from train.tasks.classification.objective import PlainObjective

Given = dict[str, Any]


@pytest.fixture
def given(shapes: Path, tmp_path: Path) -> Given:
    options = {"data": str(shapes), "out": str(tmp_path / "run"), "method": "keep_cutout", "epochs": 2, "seed": 1}
    return options | {"image_size": 16, "batch_size": 8, "region_size": 6, "device": "cpu"}


def words(options: Given) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


@pytest.fixture
def broken_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of the fourth step of the first epoch are not finite: 6 steps an epoch."""
    real = Run.train_step

    def train_step(run: Run, batches: Iterator[Batch]) -> Any:
        if (run.epoch, run.step) == (0, 3):
            batches = (batch._replace(images=batch.images * torch.nan) for batch in batches)
        return real(run, batches)

    monkeypatch.setattr(Run, "train_step", train_step)


def test_a_loss_that_is_not_finite_stops_the_run(
    given: Given, broken_step: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert program(words(given | {"checkpoint_every": 2})) == 2
    errors = capsys.readouterr().err
    assert "step 4 of epoch 1: the loss is nan" in errors
    assert "The last checkpoint is from before it" in errors
    assert checkpoint.load(tmp_path / "run" / "last.pt")["progress"]["step"] == 2
    first = json.loads((tmp_path / "run" / "nonfinite.jsonl").read_text().splitlines()[0])
    assert (first["epoch"], first["step"], len(first["indices"]), len(first["files"])) == (1, 4, 8, 8)
    assert all(Path(file).is_file() for file in first["files"])

    assert program(["--resume", "--out", given["out"], "--on-nonfinite", "skip"]) == 0
    output = capsys.readouterr()
    assert "warning: skipped step 4 of epoch 1: the loss is nan" in output.err
    epochs = output.out.split("\nepoch ")[1:]  # each of one line or several
    assert ["skipped 1 steps" in epoch for epoch in epochs] == [True, False]
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(record["train_loss"]) for record in records)


def test_a_skipped_step_resumed_is_as_uninterrupted(
    given: Given, broken_step: None, tmp_path: Path, stop_in_step: Any
) -> None:
    given |= {"on_nonfinite": "skip", "epochs": 1}
    assert main(given | {"out": str(tmp_path / "whole")}, resuming=False) == 0
    with stop_in_step(4):
        assert main(dict(given), resuming=False) == 130
    assert main({"out": given["out"]}, resuming=True) == 0
    a, b = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "run"))
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])


def test_out_of_memory_names_the_options_to_lower(
    given: Given, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(PlainObjective, "__call__", lambda *_: torch.empty(2**60))  # torch's own error
    assert program(words(given)) == 2
    errors = capsys.readouterr().err
    assert (
        "out of memory on cpu at --batch-size 8 and --image-size 16: start a new run with a lower --batch-size or"
        in errors
    )

    monkeypatch.setattr(PlainObjective, "__call__", lambda *_: torch.zeros(2) + torch.zeros(3))
    with pytest.raises(RuntimeError, match="size of tensor"):  # every other error stays what it is
        program(words(given | {"out": given["out"] + "2"}))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("Critical error in pipeline:\nCUDA allocation failed"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_the_errors_that_mean_out_of_memory(error: Exception) -> None:
    assert is_out_of_memory(error)
    stated = Config(saliency_scale=1.0, consistency=(1, 0, 1))
    config = stated.resolved(side=224, embedded=False, cifar=False)
    message = str(out_of_memory(error, config, torch.device("cuda")))
    assert "lower --batch-size or --image-size or --consistency-scale or --saliency-scale" in message
    assert "\n" not in message


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 5 MiB: room for one checkpoint and no second."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system, which root has")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_and_is_emptied(
    given: Given, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = small_disk / "run"
    assert program(words(given | {"out": str(out), "epochs": 3, "checkpoint_every": 2})) == 2
    errors = capsys.readouterr().err
    assert re.search(
        r"cannot be written: No space left on device; the previous one is intact\. Free some space", errors
    )
    progress = checkpoint.load(out / "last.pt")["progress"]
    shutil.copytree(out, tmp_path / "run")
    assert program(["--resume", "--out", str(tmp_path / "run")]) == 0
    output = capsys.readouterr().out
    assert f"resuming in epoch {progress['epoch'] + 1} after step {progress['step']} of 6" in output
    assert main(given | {"out": str(tmp_path / "whole"), "epochs": 3}, resuming=False) == 0
    a, b = (checkpoint.load(tmp_path / name / "last.pt")["model"] for name in ("run", "whole"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_two_runs_in_one_folder(given: Given, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "run").mkdir()
    with lock_folder(tmp_path / "run"):
        assert program(words(given)) == 2
    assert "run: another process is training there" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(given: Given, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert program(words(given | {"out": str(tmp_path / "file" / "run")})) == 2
    assert "file/run: the folder cannot be made: Not a directory" in capsys.readouterr().err


@pytest.mark.pictures
def test_pictures_and_events(given: Given, tmp_path: Path) -> None:
    assert main(given | {"pictures_every": 2, "epochs": 3}, resuming=False) == 0
    folder = tmp_path / "run"
    assert sorted(p.name for p in (folder / "pictures").iterdir()) == [f"epoch-000{n}.png" for n in (1, 2, 3)]
    with Image.open(folder / "augmentations.png") as last, Image.open(folder / "pictures" / "epoch-0003.png") as kept:
        assert np.array_equal(np.asarray(last), np.asarray(kept))
    events = EventAccumulator(str(folder))
    events.Reload()
    names = ("train_loss", "val_top1", "lr", "images_per_second", "loader_wait_share", "saliency_cut", "region_area")
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for name in names:
        logged = [event.value for event in events.Scalars(f"epoch/{name}")]
        assert logged == pytest.approx([record[name] for record in log], rel=1e-3), name
    assert all(record["saliency_cut"] < record["region_area"] for record in log), "KeepCutout spares what is salient"
    assert [image.step for image in events.Images("augmentations")] == [1, 2, 3]


def test_a_slow_loader_is_measured() -> None:
    def batches() -> Iterator[int]:
        for number in range(4):
            time.sleep(0.05)
            yield number

    wait = LoaderWait(torch.device("cpu"))
    for _ in wait.measure(batches()):
        time.sleep(0.05)
    assert 0.2 <= wait.read() < 0.39, "of 0.4 s"


@pytest.mark.gpu
def test_on_a_gpu_a_wait_counts_only_while_there_is_no_work() -> None:
    def batches() -> Iterator[int]:
        for number in range(4):
            time.sleep(0.05)
            yield number

    device, seconds = torch.device("cuda"), []
    matrix = torch.randn(8192, 8192, device=device)
    for repeats in (0, 200):
        wait = LoaderWait(device)
        torch.cuda.synchronize()
        for _ in wait.measure(batches()):
            for _ in range(repeats):
                matrix @ matrix
        torch.cuda.synchronize()
        seconds.append(wait.read())
    assert 0.19 < seconds[0] < 0.3
    assert seconds[1] < 0.1, "but for the first batch the GPU was busy"


def test_a_checkpoint_of_other_classes_or_another_architecture(
    given: Given, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(given | {"epochs": 1}, resuming=False) == 0
    other = tmp_path / "other"
    shutil.copytree(shapes, other)
    for split in ("train", "val"):
        (other / split / "star").rename(other / split / "asterisk")
    assert program(["--resume", "--out", given["out"], "--data", str(other)]) == 2
    errors = capsys.readouterr().err
    assert f"cannot resume: the run was started on 8 classes, {other} has 8; only one of them has 'asterisk'" in errors
    for split in ("train", "val"):
        shutil.rmtree(other / split / "asterisk")
    assert program(["--resume", "--out", given["out"], "--data", str(other)]) == 2
    assert f"the run was started on 8 classes, {other} has 7; only one of them has 'star'" in capsys.readouterr().err
    assert program(["--resume", "--out", given["out"], "--model", "resnet18"]) == 2
    assert "--model is small in the checkpoint, resnet18 on the command line" in capsys.readouterr().err

    best = tmp_path / "run" / "best.pt"
    state = checkpoint.load(best)
    for change, message in (
        ({"classes": state["classes"][:5]}, r"\(--model small, 5 classes\): .*weight is \(8, 128\), not \(5, 128\)"),
        ({"config": state["config"] | {"model": "resnet18"}}, r"\(--model resnet18, .* and \d+ more differences"),
    ):
        checkpoint.save(state | change, best)
        for where in (tmp_path / "run", best):
            with pytest.raises(UserError, match=rf"best\.pt: its weights are not those of this model {message}"):
                load_best(where)


def test_classes_without_validation_images_are_named(
    given: Given, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    shutil.rmtree(data / "val" / "star")
    assert main(given | {"data": str(data), "epochs": 1}, resuming=False) == 0
    assert f"'{data}' has no validation images of 1 of the 8 classes: star" in caplog.messages
    (data / "val" / "starr").mkdir()
    assert program(words(given | {"data": str(data), "out": str(tmp_path / "b")})) == 2
    assert "has 1 class(es) that the training images lack: starr" in capsys.readouterr().err
