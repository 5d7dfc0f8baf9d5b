"""The GPU's benchmark, rehearsed on the CPU: every part of its own, and parts that fail."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from train.__main__ import main as program
from train.benchmarks import card, card_loader, card_stage, gpu

SMALL = ["--device", "cpu", "--model", "small", "--image-size", "32", "--batch-size", "8", "--batches", "2",
         "--workers", "1", "--repeats", "1"]  # fmt: skip


def test_parts_and_page(
    shapes: Path, tmp_path: Path, warm_python: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", warm_python)
    folder, parts = tmp_path / "visit", ["decode", "region", "handoff", "waiting", "kernels", "hardware"]
    command = ["benchmark", "gpu", *parts, *SMALL, "--data", str(shapes), "--out", str(folder)]
    assert program(command) == 0
    report, page = json.loads((folder / "results.json").read_text()), (folder / "README.md").read_text()
    assert list(report["parts"]) == parts
    assert capsys.readouterr().out.endswith(f"{folder / 'README.md'}\n")
    for name, part in report["parts"].items():
        assert part["status"] == "passed"
        assert part["output"] in page
        assert f"| {name} | {gpu.PARTS[name]} | passed |" in page
    results = {name: part["result"] for name, part in report["parts"].items()}
    assert results["handoff"] == {
        "batches": 2, "sums": 12, "wrong": {"dropped": 0, "held": 0}, "passed": True,
    }  # fmt: skip
    for part in ("decode", "region"):
        assert all(row["difference"] == {"largest": 0, "mean": 0} for row in results[part]["shares"].values())
    for part in results["waiting"]["parts"].values():
        assert all(0 < host <= whole for host, whole in zip(part["host"], part["all"], strict=True))
    profiled = results["kernels"]["parts"]
    assert set(profiled) == {"step", "map, full", "map, half"}
    assert all(part["all"] > 0 for part in profiled.values())
    assert any("convolution" in name for name, *_ in profiled["step"]["operators"])
    assert set(results["hardware"]["speeds"]) == {"clean", "clean, region", "randaugment", "augmix"}
    assert program(command) == 2
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import os, signal; print('fine so far', flush=True); os.kill(os.getpid(), signal.SIGSEGV)",
         "ended by SIGSEGV"),
        ("print('fine so far'); raise SystemExit(1)", "failed: exit status 1"),
        ("import time; print('fine so far', flush=True); time.sleep(60)", "not done after 1 s"),
        # As torchrun, it has to end processes of its own; the other one does not want to end.
        ("import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('fine so far'), sys.exit())); "
         "time.sleep(60)", "not done after 1 s"),
        ("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('fine so far', flush=True); "
         "time.sleep(60)", "not done after 1 s"),
    ],
)  # fmt: skip
def test_a_part_that_fails(code: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "LIMIT", 1)
    monkeypatch.setattr(gpu, "GRACE", 1)
    monkeypatch.setattr(gpu, "command", lambda part, options: ["-c", code])
    words = ["benchmark", "gpu", "region", "decode", "--device", "cpu", "--out", str(tmp_path / "visit")]
    assert program(words) == 1
    report = json.loads((tmp_path / "visit" / "results.json").read_text())
    assert [part["status"] for part in report["parts"].values()] == [status, status]
    assert all(part["output"] == "fine so far" and part["result"] is None for part in report["parts"].values())


def test_sigterm_ends_the_part_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "pid"
    code = (
        f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); os.kill(os.getppid(), 15); time.sleep(60)"
    )
    monkeypatch.setattr(gpu, "command", lambda part, options: ["-c", code])
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # or it would end the tests
    try:
        with pytest.raises(SystemExit) as ended:
            program(["benchmark", "gpu", "decode", "region", "--device", "cpu", "--out", str(tmp_path / "visit")])
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_what_cannot_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert program(["benchmark", "gpu", "speed", "--device", "cpu", "--out", str(tmp_path / "a")]) == 2
    assert "PART must be of decode, region, handoff" in capsys.readouterr().err
    assert program(["benchmark", "gpu", "--out", str(tmp_path / "b")]) == 2
    assert "needs a GPU, and torch.cuda.is_available() is False" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_the_checks_call_a_fault(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels that differ from turn to turn; sums that differ from those read at once; a guard that raises."""
    words = ["--data", str(shapes), "--batches", "1", "--batch-size", "8", "--image-size", "32"]
    parser = argparse.ArgumentParser()
    card.add_options(parser)
    options = parser.parse_args([*words, "--device", "cpu", "--workers", "1"])
    real, made = card_loader._loader, []

    def changing(given: argparse.Namespace, **changes: Any) -> Any:
        made.append(changes)
        return real(given, **changes, seed=len(made))

    monkeypatch.setattr(card_loader, "_loader", changing)
    found = card_loader.decode(options)
    assert not found["passed"]
    assert found["shares"]["0.0"]["difference"]["largest"] == 0
    assert found["shares"]["1.0"]["difference"]["mean"] > 1
    found = card_loader.handoff(options)
    assert not found["passed"]
    assert found["wrong"]["dropped"] >= 2
    assert "are wrong where the batch was dropped" in card_loader.handoff_table(found)

    def waits() -> None:
        raise RuntimeError("called a synchronizing CUDA operation\nin a line of C++")

    calls = iter([lambda: None, lambda: None, lambda: None, waits])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    found = card_stage._first_wait(lambda: next(calls)(), torch.device("cuda"))
    assert found == "called a synchronizing CUDA operation"
    monkeypatch.setattr(card_stage, "_call", lambda stage, *batch: waits)
    monkeypatch.setattr(card_stage, "TURNS", 1)
    options.model = "small"
    found = card_stage.waiting(options)
    assert not found["passed"]
    assert {part["waits"] for part in found["parts"].values()} == {"failed: called a synchronizing CUDA operation"}
    assert "\nkeep_cutout                  failed: called" in card_stage.waiting_table(found)
