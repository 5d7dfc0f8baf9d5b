"""Training on a folder with every kind of bad file, as a user does: at once, stopped, resumed."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from train.__main__ import main as program
from train.cli.commands import build_parser
from train.engine import checkpoint
from train.programs.train import stated_options


@pytest.fixture(scope="module")
def folder(
    shapes: Path,
    tmp_path_factory: pytest.TempPathFactory,
    make_photo: Callable[..., Image.Image],
    spoiled: Callable[[Image.Image], dict[str, bytes]],
) -> Path:
    """48 + 8 training images, 16 + 8 for validation; the eight are bad, one of each kind. The first of all is bad."""
    root = tmp_path_factory.mktemp("bad") / "data"
    shutil.copytree(shapes, root)
    for part in ("train", "val"):
        for index, (name, content) in enumerate(spoiled(make_photo(60, 70)).items()):
            (sorted((root / part).iterdir())[index % 8] / name).write_bytes(content)
        first = min((root / part).iterdir())
        (first / "0.jpg").symlink_to(root / "nowhere")
    return root


@pytest.fixture
def options(folder: Path) -> list[str]:
    return [
        "--data", str(folder), "--image-size", "16", "--batch-size", "8", "--epochs", "2", "--region-size", "6",
        "--device", "cpu", "--on-bad-file", "replace", "--max-bad-share", "0.4",
    ]  # fmt: skip


def test_the_program_continues_and_reports_each_file_once(
    folder: Path, options: list[str], cli: Any, log_of: Any
) -> None:
    without_size = options[:2] + options[4:]
    done = cli("--out", "run", *without_size, bare=True)
    assert done.returncode == 0, done.stderr
    run = cli.folder / "run"
    reported = (run / "bad_files.log").read_text().splitlines()
    assert len(reported) == len(set(reported))
    for line in reported:
        assert line in done.stderr
    named = {line.split("'")[1] for line in reported}
    bad = {path for path in folder.rglob("*.jpg") if not path.exists() or path.name[0] not in "0123456789"}
    bad |= set(folder.rglob("*.png"))
    assert len(bad) == 16
    hopeless = {str(path) for path in bad if path.name != "truncated.jpg" or path.parent.parent.name == "val"}
    assert hopeless <= named <= set(map(str, bad))
    assert "Traceback" not in done.stderr

    log = log_of(run)
    assert [record["epoch"] for record in log] == [1, 2]
    for record in log:
        assert record["train_replaced"] in (7, 8)  # some crops of the truncated JPEG file are complete
        assert record["val_replaced"] == 8
        replaced = record["train_replaced"] + record["val_replaced"]
        assert any(line.endswith(f"  {replaced} replaced") for line in done.stdout.splitlines())
    assert "56 training and 24 validation images" in done.stdout


def test_stopped_and_resumed_as_if_never_stopped(
    options: list[str], tmp_path: Path, same: Any, log_of: Any, stop_in_step: Any
) -> None:
    options = [*options, "--method", "keep_cutout"]
    assert program([*options, "--out", str(tmp_path / "whole")]) == 0
    with stop_in_step(3):
        assert program([*options, "--out", str(tmp_path / "parts")]) == 130
    assert program(["--resume", "--out", str(tmp_path / "parts")]) == 0
    a, b = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    for part in ("model", "optimizer", "scheduler"):
        assert same(a[part], b[part]), part
    for part in ("objective", "loader"):
        assert same(a["processes"][0][part], b["processes"][0][part]), part
    assert log_of(tmp_path / "whole", timed=False) == log_of(tmp_path / "parts", timed=False)
    whole, parts = ((tmp_path / name / "bad_files.log").read_text().splitlines() for name in ("whole", "parts"))
    assert sorted(whole) == sorted(parts)


def test_a_run_that_stopped_at_a_bad_file_resumes_by_replacing_it(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture, log_of: Any
) -> None:
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    options = ["--data", str(data), "--image-size", "16", "--batch-size", "8", "--epochs", "1", "--method", "none"]
    assert program([*options, "--out", str(tmp_path / "run")]) == 0
    bad = data / "train" / "star" / "0000.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    capsys.readouterr()
    resumed = ["--resume", "--out", str(tmp_path / "run"), "--epochs", "2", "--accept-changed-data"]
    assert program(resumed) == 2
    errors = capsys.readouterr().err
    assert f"error: cannot decode image '{bad}': its JPEG data is damaged or cut short" in errors
    assert "--on-bad-file replace" in errors
    assert not (tmp_path / "run" / "bad_files.log").exists()
    assert program([*resumed, "--on-bad-file", "replace"]) == 0
    first, second = log_of(tmp_path / "run")
    assert "train_replaced" not in first
    assert (second["train_replaced"], second["val_replaced"]) == (1, 0)


def test_too_many_bad_files_stop_the_run(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert program([*options, "--max-bad-share", "0.05", "--out", str(tmp_path / "run")]) == 2
    errors = capsys.readouterr().err
    assert "of this process's 56 samples of an epoch cannot be decoded so far, more than the share that may" in errors
    assert "--max-bad-share 0.05" in errors
    assert "dali-salaug check-data" in errors
    assert program([*options, "--max-bad-share", "1.5", "--out", str(tmp_path / "other")]) == 2
    assert "--max-bad-share must be in [0, 1]; got 1.5" in capsys.readouterr().err


def test_photographs(real_data: Callable[[str], Path], tmp_path: Path, log_of: Any) -> None:
    """Real images, of which every tenth is cut off at a random length."""
    generator = torch.Generator().manual_seed(0)
    for number, path in enumerate(sorted(real_data("tiny-imagenet-20").glob("train/*/*.JPEG"))[::100]):
        place = tmp_path / "data" / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes()
        length = int(len(content) * torch.rand(1, generator=generator))
        place.write_bytes(content[:length] if number % 10 == 0 else content)
    options = ["--data", str(tmp_path / "data"), "--batch-size", "20", "--epochs", "2", "--device", "cpu"]
    arguments = [*options, "--out", str(tmp_path / "run"), "--image-size", "32", "--on-bad-file", "replace"]
    assert program([*arguments, "--max-bad-share", "0.2"]) == 0
    for record in log_of(tmp_path / "run"):
        assert 0 < record["train_replaced"] <= record["val_replaced"] == 10


def test_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """The code and the commands of docs/bad-data.md."""
    page = (Path(__file__).parents[3] / "docs" / "bad-data.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    code = code.replace("/data/imagenet", str(folder)).replace("max_bad_share=0.01", "max_bad_share=0.4")
    exec(code.replace("batch_size=256", "batch_size=28, image_size=16, device='cpu'"), {})
    output = capsys.readouterr().out
    assert output.count("images of this batch are in the place of others") == 2
    assert f"'{folder}/train/" in output
    first, second = re.findall(r"^dali-salaug (.+)$", page, flags=re.M)
    first, second = (build_parser().parse_args(words.split()) for words in (first, second))
    assert (first.command, first.json) == ("check-data", Path("bad.json"))
    assert stated_options(second) == {"data": "DIR", "on_bad_file": "replace"}
