"""Training on a GPU: every option that works differently there, and that no step waits for it."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dali_salaug import METHODS
from train.engine.run import Run
from train.programs.train import main

pytestmark = pytest.mark.gpu

OPTIONS: dict[str, dict[str, Any]] = {
    "bfloat16": {"amp": "bfloat16"},
    "float16": {"amp": "float16", "clip_grad": 1.0},
    "fused": {"fused": True, "amp": "float16", "on_nonfinite": "skip"},
    "parts": {"accumulate": 2, "ema": 0.9},
    "early": {"early_head": "auto"},
    "memory": {"saliency": "memory", "method": "keep_randaugment"},
    "grad_cam": {"saliency": "grad_cam"},
    "consistency": {"consistency": (1.0, 1.0, 1.0), "method": "randaugment"},
    "pad": {"crop": "pad", "hw_decoder_load": 0.0},
    "replace": {"on_bad_file": "replace"},
}


def losses_of(folder: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def given(shapes: Path, folder: Path, **options: Any) -> dict[str, Any]:
    plain = {"data": str(shapes), "out": str(folder), "image_size": 32, "batch_size": 8, "region_size": 8, "epochs": 2}
    return plain | {"device": "cuda", "method": "keep_cutout"} | options


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options(options: dict[str, Any], shapes: Path, tmp_path: Path) -> None:
    assert main(given(shapes, tmp_path / "run", **options), resuming=False) == 0
    losses = losses_of(tmp_path / "run")
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))


WITHOUT_WAITING: list[dict[str, Any]] = [
    *({"method": method, "warmup_epochs": 0} for method in METHODS),
    *({"method": "keep_randaugment"} | options for options in (
        {"amp": "bfloat16", "ema": 0.9}, {"saliency": "memory"}, {"early_head": "auto"}, {"accumulate": 2},
        {"consistency": (1.0, 1.0, 1.0), "method": "randaugment"},
        {"labels": 16, "unlabelled_ratio": 2, "batch_size": 4, "training_signal_annealing": "log"},
    )),
]  # fmt: skip


@pytest.mark.parametrize("options", WITHOUT_WAITING, ids=str)
def test_no_step_waits(options: dict[str, Any], run_of: Callable[..., Run]) -> None:
    run = run_of(device="cuda", image_size=32, **options)
    batches = iter(run.train_loader)
    for _ in range(2):  # the first make generators and buffers
        run.train_step(batches)
    before = [parameter.clone() for parameter in run.model.parameters()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.train_step(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert any(not torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))


@pytest.mark.parametrize("saliency", ["gradient", "memory"])
def test_a_stopped_run_resumes(saliency: str, shapes: Path, tmp_path: Path, stop_in_step: Any) -> None:
    """Close to the run that was not stopped: cuDNN may choose another algorithm in each process."""
    options = {"saliency": saliency, "method": "keep_randaugment"}
    assert main(given(shapes, tmp_path / "whole", **options), resuming=False) == 0
    with stop_in_step(3, epoch=1):
        assert main(given(shapes, tmp_path / "parts", **options), resuming=False) != 0
    assert main({"out": str(tmp_path / "parts")}, resuming=True) == 0
    whole, parts = (losses_of(tmp_path / name) for name in ("whole", "parts"))
    assert parts == pytest.approx(whole, rel=0.05)


def test_compiled(shapes: Path, tmp_path: Path) -> None:
    assert main(given(shapes, tmp_path / "run", compile=True, amp="bfloat16"), resuming=False) == 0
    assert all(map(math.isfinite, losses_of(tmp_path / "run")))


def test_one_process_of_torchrun(shapes: Path, tmp_path: Path) -> None:
    """By NCCL, whose losses are those without it."""
    words = ["--data", str(shapes), "--image-size", "32", "--batch-size", "8", "--epochs", "1", "--device", "cuda"]
    words += ["--method", "keep_cutout", "--region-size", "8"]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "train"]
    for name, first in (("alone", ["-m", "train"]), ("nccl", start)):
        command = [sys.executable, *first, *words, "--out", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ), timeout=200)
        assert done.returncode == 0, done.stderr
    assert losses_of(tmp_path / "nccl") == pytest.approx(losses_of(tmp_path / "alone"), rel=0.05)
