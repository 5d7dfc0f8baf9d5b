"""Progress: lines from time to time where there is no terminal, a bar where there is one, epochs within 80 columns."""

import io
import re
import sys
from typing import Any

import pytest

from train.engine import progress
from train.engine.log import WIDTH, format_epoch
from train.engine.progress import Progress
from train.programs.train import main


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, which tests set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_half_minute(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    """One image is done before; ten seconds a batch of four."""
    with Progress("epoch 3/90", batches=9, images=33, done=1) as shown:
        for batch in range(1, 9):
            clock[0] += 10
            if batch == 5:
                shown.show_loss(1.23456)
            assert shown.due == (batch in (3, 6))
            shown.update(4, batch)
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.splitlines() == [
        "epoch 3/90  batch 3/9  0.4 images/s  00:50 left",
        "epoch 3/90  batch 6/9  loss 1.2346  0.4 images/s  00:20 left",
    ]


def test_none_on_a_terminal_and_none_of_other_processes(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for shown in (True, False):
        with Progress("epoch 1/2", batches=3, images=300, shown=shown) as bar:
            bar.show_loss(0.5)
            for batch in (1, 2):
                clock[0] += 100
                assert not bar.due
                bar.update(100, batch)
            if shown:
                bar._bar.refresh()
    assert capsys.readouterr().out == ""
    assert "epoch 1/2" in terminal.getvalue()
    assert "200/300" in terminal.getvalue()
    assert re.search(r" images/s, loss=0\.5000\]", terminal.getvalue())
    assert terminal.getvalue().count(" 0/300") == 1, "of the main process alone"


def test_a_run_prints_them(
    shapes: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0)
    given = {"data": str(shapes), "image_size": 16, "batch_size": 20, "epochs": 1, "method": "none", "device": "cpu"}
    assert main(given | {"out": str(tmp_path / "run"), "workers": 1}, resuming=False) == 0
    lines = capsys.readouterr().out.splitlines()
    beats = [line for line in lines if " left" in line]
    assert [line.split("  ")[:2] for line in beats] == [["epoch 1/1", f"batch {n}/3"] for n in (1, 2)]
    assert all(re.search(r"  loss \d\.\d{4}  \d+(\.\d)? images/s  \d\d:\d\d left$", line) for line in beats)
    epochs = [line for line in lines if line.startswith("epoch 1/1  train loss")]
    assert len(epochs) == 1
    assert max(len(line) for line in lines if "run folder" not in line and str(tmp_path) not in line
               and str(shapes) not in line) <= WIDTH  # fmt: skip


def test_an_epoch_fits_the_screen() -> None:
    values: dict[str, float] = {
        "epoch": 7, "train_loss": 12.34567, "train_saliency_loss": 0.1, "val_loss": 1.5, "val_top1": 100.0,
        "val_top5": 100.0, "train_replaced": 3, "val_replaced": 1, "saliency_kept": 0.456, "region_area": 0.1,
        "skipped": 12, "seconds": 12345.6, "images_per_second": 12345.6, "loader_wait_share": 0.031, "lr": 0.0125,
    }  # fmt: skip
    first, *others = format_epoch(values, 300).splitlines()
    assert max(map(len, (first, *others))) <= WIDTH
    assert first.startswith("epoch   7/300  train loss 12.3457  saliency loss 0.1000  val loss 1.5000")
    assert all(line.startswith("    ") for line in others)
    for part in ("top-1 100.00 %", "lr 0.013", "loader wait 3%", "4 replaced", "skipped 12 steps", "12346 images/s"):
        assert part in "  ".join((first, *others))
    assert "kept 46% saliency, 10% area" in " ".join(others)
    cut = {"saliency_cut" if name == "saliency_kept" else name: value for name, value in values.items()}
    assert "cut 46% saliency, 10% area" in format_epoch(cut, 300)
    short = {name: values[name] for name in ("epoch", "train_loss", "seconds", "images_per_second")}
    assert format_epoch(short, 9) == "epoch 7/9  train loss 12.3457  12345.6 s  12346 images/s"
