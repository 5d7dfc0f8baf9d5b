"""A run whose maps are remembered: what it logs, that it resumes exactly, and what it refuses."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from train.__main__ import main
from train.engine import checkpoint
from train.engine.run import Run
from train.errors import UserError

OPTIONS = {"saliency": "memory", "model": "small", "batch_size": 16, "device": "cpu", "train_images": 40}


def _steps(run: Run, epochs: int = 1) -> list[float]:
    losses = []
    for _ in range(epochs):
        run.begin_epoch()
        batches = iter(run.train_loader)
        while run.step < run.steps:
            losses.append(run.train_step(batches)["loss"].item())
        run.end_epoch()
    return losses


@pytest.mark.parametrize(
    ("method", "matrices"), [("keep_cutout", False), ("keep_randaugment", True), ("keep_augmix", False)]
)
def test_the_maps_are_those_of_the_steps(run_of: Callable[..., Run], method: str, matrices: bool) -> None:
    run = run_of(method=method, **OPTIONS)
    memory = run.objective.stage.memory  # type: ignore[attr-defined]
    batch = next(iter(run.train_loader))
    assert batch.views is not None
    assert (batch.matrices is not None) == matrices
    assert memory.ages(torch.arange(40)).tolist() == [-1] * 40
    _steps(run)
    assert memory.ages(torch.arange(40)).tolist() == [0] * 40
    assert all(parameter.grad is not None for parameter in run.model.parameters())


def test_the_log_has_the_age_of_the_maps(shapes: Path, tmp_path: Path, log_of: Any, capsys: Any) -> None:
    options = ["--saliency", "memory", "--method", "keep_cutout", "--image-size", "16", "--batch-size", "16"]
    options += ["--epochs", "3", "--device", "cpu"]
    assert main(["--data", str(shapes), "--out", str(tmp_path / "run"), *options]) == 0
    log = log_of(tmp_path / "run")
    assert [(line["saliency_age"], line["saliency_flat"]) for line in log] == [(0, 1), (1, 0), (1, 0)]
    assert log[0]["saliency_cut"] == pytest.approx(log[0]["region_area"], abs=1e-6)  # drawn from flat maps
    assert log[2]["saliency_cut"] < log[2]["region_area"]
    printed = capsys.readouterr().out
    assert "map age 1.0, 0% flat" in printed
    assert " MB)" in printed
    state = checkpoint.load(tmp_path / "run" / "last.pt")
    assert state["objective"]["memory"]["maps"].shape == (48, 16, 16)
    assert "memory" not in state["processes"][0]["objective"]["stage"]
    assert (tmp_path / "run" / "augmentations.png").stat().st_size > 0
    # The programs that look at the run draw the live map.
    assert main(["show", str(tmp_path / "run"), "--count", "2", "--out", str(tmp_path / "show.png")]) == 0


def test_it_resumes_in_mid_epoch(run_of: Callable[..., Run], same: Any) -> None:
    run = run_of(method="keep_cutout", **OPTIONS)
    _steps(run)
    run.begin_epoch()
    batches = iter(run.train_loader)
    run.train_step(batches)
    state = copy.deepcopy(run.state_dict())  # it has the weights themselves
    expected = [run.train_step(batches)["loss"].item() for _ in range(2)]
    other = run_of(method="keep_cutout", **OPTIONS)
    other.load_state_dict(state)
    other.begin_epoch()
    batches = iter(other.train_loader)
    assert [other.train_step(batches)["loss"].item() for _ in range(2)] == expected
    assert same(other.state_dict()["objective"], run.state_dict()["objective"])


def test_a_step_that_is_skipped_is_not_remembered(run_of: Callable[..., Run]) -> None:
    run = run_of(method="keep_cutout", on_nonfinite="skip", **OPTIONS)
    with torch.no_grad():
        next(run.model.parameters()).fill_(torch.nan)
    _steps(run)
    assert run.objective.stage.memory.ages(torch.arange(40)).tolist() == [-1] * 40  # type: ignore[attr-defined]


@pytest.mark.pictures
def test_pictures_leave_the_memory_alone(run_of: Callable[..., Run], tmp_path: Path, same: Any) -> None:
    run = run_of(method="keep_cutout", **OPTIONS)
    _steps(run)
    before = run.objective.shared_state_dict()
    run.task.draw(run.network, run.objective, tmp_path / "a.png")
    assert same(run.objective.shared_state_dict(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"consistency": (1.0, 0.0, 1.0)}, "--saliency memory does not go with --consistency"),
        ({"method": "cutout"}, "--method cutout"),
    ],
)
def test_what_it_does_not_go_with(run_of: Callable[..., Run], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_of(**(OPTIONS | {"method": "keep_cutout"} | options))


@pytest.mark.parametrize("option", [("--saliency-target", "max"), ("--early-head", "auto")])
def test_options_without_effect(shapes: Path, capsys: Any, option: tuple[str, str]) -> None:
    assert main(["--data", str(shapes), "--method", "keep_cutout", "--saliency", "memory", *option]) == 2
    assert f"{option[0]} has no effect with --saliency memory" in capsys.readouterr().err


def test_the_gradient_of_the_first_layer(run_of: Callable[..., Run]) -> None:
    run = run_of(method="keep_cutout", memory_layer="first", accumulate=2, **OPTIONS)
    _steps(run)
    memory = run.objective.stage.memory  # type: ignore[attr-defined]
    assert memory.ages(torch.arange(40)).tolist() == [0] * 40
    assert not any(module._forward_hooks for module in run.model.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"memory_layer": "frist"},
            "--memory-layer must be input, 'first' or the name of a submodule of the model.*got 'frist'",
        ),
        ({"memory_layer": "first", "compile": True}, "--memory-layer first does not go with --compile"),
        (
            {"memory_layer": "first", "freeze_trunk": True, "weights": "x.pt"},
            "--memory-layer first does not go with --freeze-trunk",
        ),
    ],
)
def test_layers_that_cannot_be_remembered(run_of: Callable[..., Run], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_of(**(OPTIONS | {"method": "keep_cutout"} | options))
