"""What a resumed run notices: changed images, damaged and malformed files, epochs that are done, skipped steps."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import Batch
from train.__main__ import main as program
from train.analysis.trained import load_best
from train.config import ResolvedConfig
from train.engine import checkpoint
from train.engine.bad_files import log_bad_files
from train.engine.log import Record, read_log, truncate_log
from train.engine.run import Run
from train.errors import UserError
from train.programs.train import main

GIVEN = {"method": "none", "image_size": 16, "batch_size": 8, "device": "cpu", "seed": 1}


@pytest.fixture(scope="module")
def done(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one epoch, beside its data."""
    place = tmp_path_factory.mktemp("done")
    shutil.copytree(shapes, place / "data")
    given = GIVEN | {"data": str(place / "data"), "epochs": 1, "out": str(place / "run")}
    assert main(given, resuming=False) == 0
    return place


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    """A copy of it, data and run."""
    shutil.copytree(done, tmp_path / "copy")
    return tmp_path / "copy" / "run"


def resume(run: Path, *options: str) -> int:
    return program(["--resume", "--out", str(run), "--data", str(run.parent / "data"), *options])


def answer(capsys: pytest.CaptureFixture, status: int) -> str:
    errors: str = capsys.readouterr().err
    assert status == 2, errors
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1
    return errors


def test_a_validation_image_less(run: Path, capsys: pytest.CaptureFixture, log_of: Any) -> None:
    (run.parent / "data" / "val" / "star" / "0000.jpg").unlink()
    errors = answer(capsys, resume(run, "--epochs", "2"))
    assert "cannot resume: the validation images have changed since the last checkpoint: 16 of them then, 15" in errors
    assert "resume on the changed images with --accept-changed-data" in errors
    assert resume(run, "--epochs", "2", "--accept-changed-data") == 0
    assert len(log_of(run)) == 2
    assert resume(run, "--epochs", "3") == 0, "the marks are those of the changed images"
    assert checkpoint.load(run / "last.pt")["config"]["accept_changed_data"] is False


def test_training_images_swapped(run: Path, capsys: pytest.CaptureFixture) -> None:
    one, other = (run.parent / "data" / "train" / name / "0002.jpg" for name in ("disc", "star"))
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    errors = answer(capsys, resume(run, "--epochs", "2"))
    assert (
        f"the training images have changed since the last checkpoint: 2 of 48 files have changed, first {one}" in errors
    )
    assert resume(run, "--epochs", "2", "--accept-changed-data") == 0


def test_training_images_less_and_more(run: Path, capsys: pytest.CaptureFixture, stop_in_step: Any) -> None:
    """In the middle of an epoch: of 40 images an epoch has five steps, of 48 six."""
    with stop_in_step(4, epoch=1):
        assert resume(run, "--epochs", "3", "--checkpoint-every", "1") == 130
    data = run.parent / "data" / "train"
    for name in ("disc", "star", "ring", "heart", "cross", "square", "triangle", "crescent"):
        (data / name / "0000.jpg").unlink()
    capsys.readouterr()
    errors = answer(capsys, resume(run))
    assert "cannot resume: " in errors
    assert "samples: 48 in the state, 40 here" in errors
    assert "--accept-changed-data" in errors
    assert resume(run, "--accept-changed-data") == 0
    state = checkpoint.load(run / "last.pt")
    assert (state["progress"]["epoch"], state["scheduler"]["last_epoch"]) == (3, 15)


def test_a_copy_and_a_moved_folder_resume(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run.parent / "data", tmp_path / "elsewhere", copy_function=shutil.copyfile)
    assert program(["--resume", "--out", str(run), "--data", str(tmp_path / "elsewhere"), "--epochs", "2"]) == 0


def test_a_finished_run_says_so(run: Path, capsys: pytest.CaptureFixture) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    assert resume(run) == 0
    output = capsys.readouterr().out
    assert f"the run in {run} is finished: 1 of 1 epochs are done, best top-1 " in output
    assert "To train further, resume with --epochs above 1" in output
    assert "going on" not in output
    assert "done in" not in output
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_fewer_epochs_than_are_done(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert resume(run, "--epochs", "3") == 0
    capsys.readouterr()
    errors = answer(capsys, resume(run, "--epochs", "2"))
    assert "--epochs must be at least 3, the epochs that are done; got 2" in errors


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_flipped_bit_is_noticed(name: str, run: Path, capsys: pytest.CaptureFixture) -> None:
    path = run / name
    whole, draws = path.read_bytes(), random.Random(0)
    places = [draws.randrange(8 * len(whole)) for _ in range(60)]
    places += [8 * (len(whole) - at) for at in (1, 60, 65, 70, 73, 75, 90)]  # the checksum, its mark, the zip's end
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{name}: not a checkpoint of this program, or damaged: "):
            checkpoint.load(path)
    if name == "best.pt":
        assert program(["export", str(path)]) == 2
        assert "best.pt: not a checkpoint of this program, or damaged: " in capsys.readouterr().err
    if name == "last.pt":
        assert "last.pt: not a checkpoint of this program, or damaged: " in answer(capsys, resume(run))


@pytest.mark.parametrize("content", [None, b"", b"half"])
def test_a_lost_best_network_is_noticed(
    content: bytes | None, run: Path, capsys: pytest.CaptureFixture, log_of: Any
) -> None:
    path = run / "best.pt"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert resume(run) == 0
    assert f"warning: {path}: " in capsys.readouterr().err
    assert resume(run, "--epochs", "2") == 0
    errors = capsys.readouterr().err
    assert f"warning: {path}: " in errors
    assert "is lost; the next validation writes a new best.pt" in errors
    assert checkpoint.load(path)["val_top1"] == log_of(run)[1]["val_top1"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"These are notes, not weights.\n" * 10, "it does not end in a checksum"),
        (b"\x80\x02}q\x00." * 40, "it does not end in a checksum"),
    ],
)
def test_foreign_files(content: bytes, why: str, run: Path, capsys: pytest.CaptureFixture) -> None:
    (run / "last.pt").write_bytes(content)
    errors = answer(capsys, resume(run, "--epochs", "2"))
    assert f"last.pt: not a checkpoint of this program, or damaged: {why}. Restore a copy of the file" in errors
    assert "weights_only" not in errors


def test_no_advice_to_load_unsafely(tmp_path: Path) -> None:
    checkpoint.save({"x": random.Random(0)}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="damaged: it holds more than tensors and plain values") as caught:
        checkpoint.load(tmp_path / "last.pt")
    assert "weights_only" not in str(caught.value)


def test_what_cannot_be_opened(run: Path, capsys: pytest.CaptureFixture) -> None:
    (run / "last.pt").unlink()
    (run / "last.pt").mkdir()
    assert "no such checkpoint" in answer(capsys, resume(run))
    (run / "last.pt").rmdir()
    os.mkfifo(run / "last.pt")
    assert "no such checkpoint" in answer(capsys, resume(run))


def altered(state: Any, path: tuple, value: Any) -> Any:
    """The state with another value at a place; without the place, where the value is `...`."""
    name, *rest = path
    copy = list(state) if isinstance(state, list | tuple) else dict(state)
    if rest:
        copy[name] = altered(state[name], tuple(rest), value)
    elif value is ...:
        del copy[name]
    else:
        copy[name] = value
    return copy


PLACES: list[tuple[tuple, Any]] = [
    *(((name,), ...) for name in ("config", "classes", "model", "mean", "resize_to", "optimizer", "scheduler")),
    *(((name,), ...) for name in ("scaler", "processes", "progress", "averaged", "early_head", "marks")),
    *(((name,), 5) for name in ("config", "classes", "model", "mean", "optimizer", "scheduler")),
    *(
        ((name,), "text")
        for name in ("scaler", "processes", "progress", "averaged", "early_head", "marks", "resize_to")
    ),
    *((("progress", name), value) for name in ("epoch", "step", "best", "skipped", "seconds") for value in (..., "x")),
    (("progress", "epoch"), -1),
    (("progress", "epoch"), 0),
    (("progress", "step"), 10**9),
    (("config", "batch_size"), ...),
    (("config", "batch_size"), "eight"),
    (("config", "lr"), [1]),
    (("config", "crop_scale"), [0.5]),
    (("config", "surprise"), 1),
    (("config", "model"), "resnet18_cifar"),
    (("model", "0.0.weight"), ...),
    (("model", "0.0.weight"), torch.zeros(3)),
    (("model", "0.0.weight"), "w"),
    (("classes", 0), 7),
    (("mean", 0), "red"),
    (("optimizer", "state"), []),
    (("optimizer", "state", 0), "x"),
    (("optimizer", "state", 0, "momentum_buffer"), torch.zeros(2)),
    (("optimizer", "state", 0, "momentum_buffer"), "x"),
    (("optimizer", "param_groups"), []),
    (("optimizer", "param_groups", 0, "lr"), "fast"),
    (("optimizer", "param_groups", 0, "params"), [0]),
    (("scheduler", "last_epoch"), "x"),
    (("scheduler", "last_epoch"), 5),
    (("scheduler", "base_lrs"), [1]),
    (("processes",), []),
    *((("processes", 0, name), ...) for name in ("objective", "loader", "random", "meter", "measures", "loader_wait")),
    *((("processes", 0, name), 5) for name in ("objective", "loader", "random", "meter", "measures")),
    (("processes", 0, "loader_wait"), "x"),
    (("processes", 0, "loader", "configuration"), 5),
    (("processes", 0, "loader", "bad_files"), 5),
    (("processes", 0, "random", "python"), (3, (1, 2), None)),
    (("processes", 0, "random", "cpu"), torch.zeros(3)),
    (("processes", 0, "meter", "sums"), torch.zeros(9)),
    (("processes", 0, "objective", "stage"), {}),
    (("marks", "training"), ...),
    (("marks", "validation", "sizes"), "x"),
]


@pytest.mark.parametrize(("path", "value"), PLACES, ids=[f"{p}-{str(v)[:10]}" for p, v in PLACES])
def test_a_malformed_checkpoint(path: tuple, value: Any, done: Path, run_copy: Path, capsys: Any) -> None:
    state = checkpoint.load(done / "run" / "last.pt")
    checkpoint.save(altered(state, path, value), run_copy / "last.pt")
    status = program(["--resume", "--out", str(run_copy), "--data", str(done / "data"), "--epochs", "2"])
    errors = answer(capsys, status)
    assert f"{run_copy / 'last.pt'}: " in errors or "cannot resume: " in errors


@pytest.fixture(scope="module")
def run_copy(done: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose checkpoint never resumes."""
    return Path(shutil.copytree(done / "run", tmp_path_factory.mktemp("malformed") / "run"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("config",), 5),
        (("classes",), None),
        (("mean",), [1]),
        (("std", 0), "x"),
        (("resize_to",), ...),
        (("model",), []),
    ],
)
def test_a_malformed_best_network(path: tuple, value: Any, done: Path, tmp_path: Path) -> None:
    checkpoint.save(altered(checkpoint.load(done / "run" / "best.pt"), path, value), tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"best\.pt: "):
        load_best(tmp_path)


@pytest.mark.parametrize(
    "line", [b"[]", b"5", b'{"epoch": "one"}', b'{"loss": 1}', b'{"epoch": true}', b"\xff\xfe", b"[" * 100_000, b"\0\0"]
)
def test_a_log_with_another_line(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    good = b'{"epoch": 1}\n'
    path.write_bytes(good + line + b'\n{"epoch": 2}\n')
    with pytest.raises(UserError, match=r"log\.jsonl, line 2: not a line of this program's log"):
        truncate_log(path, 2)
    with pytest.raises(UserError, match=r"log\.jsonl, line 2: "):
        read_log(path)
    path.write_bytes(good + line)  # at the end it is what a killed process or a power failure left
    assert read_log(path) == [{"epoch": 1}]
    truncate_log(path, 2)
    assert path.read_bytes() == good


def test_a_log_whose_opening_would_never_return(tmp_path: Path) -> None:
    for name in ("log.jsonl", "bad_files.log"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=r"log\.jsonl: not a regular file; remove it, or choose another run folder"):
        truncate_log(tmp_path / "log.jsonl", 0)
    with pytest.raises(UserError, match=r"bad_files\.log: not a regular file"), log_bad_files(tmp_path):
        pass


@pytest.mark.parametrize("content", [b"", b"[1]", b"a: [", b"\xff\xfe", b"lr: fast", b"[" * 5000, b"surprise: 1"])
def test_a_configuration_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.yaml: not the configuration of a run: "):
        ResolvedConfig.load(tmp_path / "config.yaml")


def test_numbers_that_are_not_finite_are_null_in_the_log(tmp_path: Path) -> None:
    values = {"epoch": 1, "val_loss": float("nan"), "train_loss": float("inf"), "val_top1": 12.3456789}
    with Record(tmp_path, epochs=2, epoch=0, step=0) as record:
        record.add_epoch(values, 3)
    assert json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail) == {
        "epoch": 1, "val_loss": None, "train_loss": None, "val_top1": 12.345679,
    }  # fmt: skip


def test_an_epoch_of_skipped_steps_is_explained(
    run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable = Run.train_step

    def train_step(self: Run, batches: Iterator[Batch]) -> Any:
        return real(self, (batch._replace(images=batch.images * torch.nan) for batch in batches))

    monkeypatch.setattr(Run, "train_step", train_step)
    assert resume(run, "--epochs", "2", "--on-nonfinite", "skip") == 2
    errors = capsys.readouterr().err.splitlines()[-1]
    assert "error: all 6 steps of epoch 2 were skipped, because the loss or the gradients were not finite" in errors
    assert "Start a new run with a lower --lr" in errors
    assert "nan" not in errors


def test_the_last_checkpoint_is_not_exported(run: Path, capsys: pytest.CaptureFixture) -> None:
    errors = answer(capsys, program(["export", str(run / "last.pt")]))
    assert "last.pt: not the best network of a run; pass the run's folder, or its best.pt" in errors


def test_the_device_may_change(run: Path, log_of: Any) -> None:
    """Here from the CPU to where the machine has its GPU, if any."""
    last = checkpoint.load(run / "last.pt")
    last["processes"][0]["objective"]["stage"]["generator"] = torch.arange(16, dtype=torch.uint8)  # of a GPU
    checkpoint.save(last, run / "last.pt")
    assert resume(run, "--epochs", "2", "--device", "auto") == 0
    assert len(log_of(run)) == 2
    assert checkpoint.load(run / "last.pt")["config"]["device"] == "auto"


@pytest.mark.gpu
def test_from_one_device_to_the_other_and_back(run: Path, log_of: Any) -> None:
    for epochs, device in (("2", "cuda"), ("3", "cpu"), ("4", "cuda")):
        assert resume(run, "--epochs", epochs, "--device", device) == 0
    assert len(log_of(run)) == 4
