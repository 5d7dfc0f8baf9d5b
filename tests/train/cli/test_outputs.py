"""Files to write that are none, runs that are none, numbers that make no sense: a sentence and status 2, no work."""

import os
from pathlib import Path
from typing import Any

import pytest

from train.__main__ import main as program
from train.benchmarks.references import TorchvisionImages, torchvision_loader
from train.engine.files import atomic_write, write_json
from train.errors import UserError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what is no file to write, under each suffix."""
    monkeypatch.chdir(tmp_path)
    for suffix in ("", ".png", ".safetensors", ".gz"):
        os.mkfifo(f"fifo{suffix}")
        os.mkdir(f"folder{suffix}")
    Path("file").write_text("x")
    Path("empty").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", ["fifo", "folder"])
@pytest.mark.parametrize(
    "words",
    [
        ["export", "run", "--out", "NAME.safetensors"],
        ["show", "run", "--out", "NAME.png"],
        ["picture", "run", "--out", "NAME.png"],
        ["check-data", "SHAPES", "--list", "NAME"],
        ["check-data", "SHAPES", "--list0", "NAME"],
        ["check-data", "SHAPES", "--json", "NAME"],
        ["coverage", "run", "--json", "NAME"],
        ["agreement", "run", "--json", "NAME"],
        ["precision", "run", "--json", "NAME"],
        ["benchmark", "stage", "--json", "NAME"],
        ["benchmark", "step", "--trace", "NAME.gz"],
    ],
    ids=lambda words: "-".join(words[:1] + words[2:3]),
)
def test_what_is_no_file(words: list[str], name: str, place: Path, shapes: Path, capsys: Any) -> None:
    words = [word.replace("NAME", name).replace("SHAPES", str(shapes)) for word in words]
    assert program(words) == 2
    assert capsys.readouterr().err == f"error: {words[-1]}: not a regular file; choose another name\n"


def test_a_folder_without_permission(place: Path, shapes: Path, monkeypatch: Any, capsys: Any) -> None:
    """Root may do everything; so the system's answer is given in its place."""
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == place and mode == os.W_OK))
    assert program(["check-data", str(shapes), "--list", "bad.txt"]) == 2
    assert capsys.readouterr().err == "error: bad.txt: no permission to write it; choose another folder\n"


def test_a_device_is_not_replaced(place: Path) -> None:
    with pytest.raises(UserError, match="fifo: not a regular file"), atomic_write(Path("fifo")):
        pass
    with pytest.raises(UserError, match="not a regular file"):
        write_json(Path(os.devnull), {})
    assert Path("fifo").is_fifo()
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("command", ["export", "show", "picture", "coverage", "agreement", "precision"])
@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("nowhere", "error: nowhere: no such checkpoint"),
        ("empty", "error: empty/best.pt: no such checkpoint"),
        ("fifo", "error: fifo: no such checkpoint"),
        ("/dev/zero", "error: /dev/zero: no such checkpoint"),
        ("file", "error: file: not a checkpoint of this program, or damaged: it has 1 bytes"),
    ],
)
def test_what_is_no_run(command: str, run: str, message: str, place: Path, capsys: Any) -> None:
    assert program([command, run]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(message)
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["agreement", "run", "--seed", "-1"],
        ["precision", "run", "--seed", "9" * 30],
        ["picture", "run", "--seed", "nan"],
        ["show", "run", "--seed", "-1"],
        ["show", "run", "--count", "0"],
        ["check-data", "data", "--workers", "0"],
        ["shapes", "new", "--side", "99999999"],
        *(
            ["benchmark", *words.split()]
            for words in (
                "stage --image-size 0", "stage --batch-size -1", "stage --repeats 0", "consistency --image-size 0",
                "growth --batch-sizes 8 0", "growth --image-sizes -1", "growth --at-size 0", "growth --at-batch 0",
                "growth --repeats nan", "loader --batches 0", "loader --workers 0", "loader --workers 99999",
                "loader --image-size 0", "loader --batch-size 0", "loader --repeats 0", "step --steps 0",
                "step --traced -1",
            )
        ),
        *(
            ["experiment", "salfmix", "--data", "data", *words.split()]
            for words in ("--epochs 0", "--epochs nan", "--train-images -1", "--seeds 0", "--jobs 0")
        ),
    ],
    ids=" ".join,
)  # fmt: skip
def test_numbers_that_make_no_sense(words: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        program(words)
    assert stop.value.code == 2
    assert f"error: argument {words[-2] if words[-3] != '--batch-sizes' else words[-3]}" in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", ["stage", "consistency", "growth"])
def test_a_model_that_does_not_take_the_size(benchmark: str, capsys: Any) -> None:
    sizes = ["--image-sizes", "8", "--batch-sizes", "2"] if benchmark == "growth" else ["--image-size", "8"]
    assert program(["benchmark", benchmark, "--model", "vgg11", "--repeats", "1", "--device", "cpu", *sizes]) == 2
    assert "error: --model vgg11 cannot be measured at these sizes: " in capsys.readouterr().err


def test_an_experiment_on_too_few_images(shapes: Path, capsys: Any) -> None:
    assert program(["experiment", "salfmix", "--data", str(shapes)]) == 2
    assert "error: --train-images must be from 8, one of each class, to 48" in capsys.readouterr().err


def test_workers_do_not_hear_ctrl_c(shapes: Path) -> None:
    """Each would print a traceback: SIGINT is ignored from their first moment on."""
    from pipelines import image_loader

    images = TorchvisionImages(image_loader(shapes, batch_size=2, image_size=8, device="cpu"), 8, "none")
    loader: Any = torchvision_loader(images, batch_size=2, workers=1, epoch=4)
    (worker,) = loader._iterator._workers
    status = Path(f"/proc/{worker.pid}/status").read_text()
    ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    assert ignored & (1 << 1), "SIGINT is signal 2"
    assert len(list(loader)) == 2
    assert len(list(loader)) == 2
