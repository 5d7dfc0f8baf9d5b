"""What makes a step faster or steadier: each against the plain computation, and all together through a resume."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from train.cli.checks import check
from train.config import Config
from train.data.loaders import resolve_for_data
from train.engine import checkpoint, network
from train.engine.ema import AveragedWeights
from train.engine.run import Run
from train.errors import UserError
from train.programs.train import main

GIVEN: dict[str, Any] = {
    "method": "keep_cutout", "image_size": 16, "region_size": 6, "batch_size": 8, "epochs": 2, "label_smoothing": 0.0,
}  # fmt: skip


@pytest.fixture
def make_run(run_of: Callable[..., Run]) -> Callable[..., Run]:
    return functools.partial(run_of, **GIVEN)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_mixed_precision_takes_about_the_same_step(make_run: Any, amp: str) -> None:
    # Of a map of reduced precision another region may be drawn; that it is one as good is test_precision's.
    plain, mixed = (make_run(method="cutout", amp=precision) for precision in ("off", amp))
    assert mixed.scaler.is_enabled() == (amp == "float16")
    before = weights(plain.model)
    losses = [r.train_step(iter(r.train_loader))["loss"].item() for r in (plain, mixed)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[0] != losses[1]
    steps = [weights(r.model) - before for r in (plain, mixed)]
    assert nn.functional.cosine_similarity(steps[0], steps[1], dim=0) > 0.9
    assert all(p.dtype == torch.float32 for p in mixed.model.parameters())


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_mixed_precision_with_the_stage(make_run: Any, amp: str) -> None:
    mixed = make_run(amp=amp, early_head="auto")
    traces = []
    real = mixed.objective.stage.trace
    mixed.objective.stage.trace = lambda *args: traces.append(real(*args)) or traces[-1]  # type: ignore[method-assign, func-returns-value]
    before = weights(mixed.model)
    losses = mixed.train_step(iter(mixed.train_loader))
    assert traces[0].saliency.dtype == traces[0].inputs.dtype == torch.float32
    assert bool((traces[0].saliency.amax((1, 2)) > 0).all())
    assert losses["loss"].isfinite()
    assert not torch.equal(weights(mixed.model), before)


def test_a_step_in_parts_is_the_step(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one of the epoch too, which has fewer images than the others: 44 = 5 · 8 + 4, in parts of 2."""

    def without_batch_norm(*_: Any) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8))

    monkeypatch.setattr(network, "build_model", without_batch_norm)
    options = {"method": "randaugment", "train_images": 44}
    whole, parts = make_run(**options), make_run(accumulate=4, **options)
    for r in (whole, parts):
        batches = iter(r.train_loader)
        for _ in range(r.steps):
            r.train_step(batches)
        assert next(batches, None) is None
    assert (whole.step, parts.step, len(parts.train_loader)) == (6, 6, 22)
    torch.testing.assert_close(weights(parts.model), weights(whole.model), rtol=1e-4, atol=1e-6)
    assert parts.meter.means()["loss"] == pytest.approx(whole.meter.means()["loss"], rel=1e-4)


@pytest.mark.parametrize("amp", ["off", "float16"])
def test_gradients_are_scaled_down_to_the_norm(make_run: Any, amp: str) -> None:
    options = {"momentum": 0.0, "weight_decay": 0.0, "lr": 0.5, "lr_warmup_epochs": 0.0, "amp": amp}
    clipped = make_run(clip_grad=0.01, **options)
    before = weights(clipped.model)
    clipped.train_step(iter(clipped.train_loader))
    assert (weights(clipped.model) - before).norm().item() == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_the_average_is_that_of_a_loop(make_run: Any, tmp_path: Path) -> None:
    averaged = make_run(ema=0.75)
    assert averaged.network.validated is averaged.network.averaged.model  # type: ignore[union-attr]
    expected = {name: value.double() for name, value in averaged.model.state_dict().items()}
    batches = iter(averaged.train_loader)
    for _ in range(3):
        averaged.train_step(batches)
        for name, value in averaged.model.state_dict().items():
            expected[name] = 0.75 * expected[name] + 0.25 * value.double()
    state = averaged.network.validated.state_dict()
    for name, value in state.items():
        if value.is_floating_point():  # BatchNorm's statistics among them; its counts of batches say nothing here
            torch.testing.assert_close(value, expected[name].float(), rtol=1e-5, atol=1e-6)
    assert not averaged.network.validated.training
    assert not any(p.requires_grad for p in averaged.network.validated.parameters())


def test_the_average_is_what_is_validated_and_kept(shapes: Path, tmp_path: Path) -> None:
    given = GIVEN | {"data": str(shapes), "out": str(tmp_path / "run"), "ema": 0.9}
    assert main(given, resuming=False) == 0
    last, best = (checkpoint.load(tmp_path / "run" / name) for name in ("last.pt", "best.pt"))
    if best["epoch"] == 2:
        assert all(torch.equal(best["model"][name], value) for name, value in last["averaged"].items())
    assert any(not torch.equal(last["model"][name], value) for name, value in last["averaged"].items())


def test_averaged_weights_do_not_wait() -> None:
    """Unlike PyTorch's AveragedModel; meta tensors raise where a value is read."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        AveragedWeights(model, 0.9).update(model)


def test_the_fused_optimizer_takes_the_same_step(make_run: Any) -> None:
    plain, fused = make_run(), make_run(fused=True)
    assert fused.optimizer.param_groups[0]["fused"]
    for r in (plain, fused):
        r.train_step(iter(r.train_loader))
    torch.testing.assert_close(weights(fused.model), weights(plain.model), rtol=1e-4, atol=1e-6)


def test_a_compiled_step_is_the_step(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The saliency pass compiled too; weights have their own names in the checkpoint."""

    def tiny(*_: Any) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8)
        )

    monkeypatch.setattr(network, "build_model", tiny)
    plain, compiled = make_run(), make_run(compile=True)
    for r in (plain, compiled):
        r.train_step(iter(r.train_loader))
    torch.testing.assert_close(weights(compiled.model), weights(plain.model), rtol=1e-3, atol=1e-5)
    assert compiled.state_dict()["model"].keys() == plain.state_dict()["model"].keys()


def test_channels_last_throughout(make_run: Any) -> None:
    run = make_run()
    seen = []
    run.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run.train_step(iter(run.train_loader))
    assert seen
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)
    convolutions = [m for m in run.model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)


def test_all_of_it_through_a_stop(shapes: Path, tmp_path: Path, same: Any, stop_in_step: Any) -> None:
    given = GIVEN | {
        "data": str(shapes),
        "amp": "float16",
        "accumulate": 2,
        "clip_grad": 1.0,
        "ema": 0.9,
        "fused": True,
    }
    assert main(given | {"out": str(tmp_path / "whole")}, resuming=False) == 0
    with stop_in_step(2, epoch=1):
        assert main(given | {"out": str(tmp_path / "parts")}, resuming=False) == 130
    assert checkpoint.load(tmp_path / "parts" / "last.pt")["progress"]["step"] == 3
    assert main({"out": str(tmp_path / "parts")}, resuming=True) == 0
    a, b = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    for part in ("model", "averaged", "optimizer", "scheduler", "scaler", "processes"):
        assert same(a[part], b[part]), part


def test_the_learning_rate_in_proportion_to_the_batch_size(shapes: Path) -> None:
    for batch_size, lr in ((16, 0.025), (48, 0.075)):
        config = resolve_for_data(Config(data=str(shapes), batch_size=batch_size, lr_per_256=0.4))
        assert math.isclose(config.lr, lr)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.1, "lr_per_256": 0.1}, "in place of --lr"),
        ({"lr_per_256": 0.0}, "--lr-per-256 must be above 0"),
        ({"clip_grad": 0.0}, "--clip-grad must be above 0"),
        ({"ema": 1.0}, r"--ema must be in \[0, 1\)"),
        ({"accumulate": 0}, "--accumulate must be at least 1"),
        ({"amp": "half"}, "--amp must be one of off, bfloat16, float16"),
        ({"consistency": (1, 0, 1), "method": "cutout", "amp": "float16"}, "too small for --amp float16"),
        ({"consistency": (1, 0, 1), "method": "cutout", "compile": True}, "no second derivatives"),
        ({"cuda_graph": True, "device": "cpu"}, "--cuda-graph needs a GPU; got --device cpu"),
        ({"cuda_graph": True, "saliency": "memory", "method": "keep_cutout"}, "which --saliency memory does without"),
        ({"decode_size_hint": (0, 4)}, r"--decode-size-hint must be in \[1, 65535\]"),
    ],
)
def test_illegal_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(Config(**options))


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["off", "bfloat16", "float16"])
def test_the_graph_of_the_stage_takes_the_same_steps(shapes: Path, amp: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two epochs, the second with a smaller last batch that is replayed."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    runs = []
    for cuda_graph in (False, True):
        given = {"data": str(shapes), "device": "cuda", "amp": amp, "image_size": 16, "region_size": 4}
        config = Config(**given, method="keep_cutout", batch_size=20, epochs=3, cuda_graph=cuda_graph)
        run = Run(resolve_for_data(config))
        torch.backends.cudnn.benchmark = False
        losses = []
        for _ in range(3):
            run.begin_epoch()
            batches = iter(run.train_loader)
            losses += [run.train_step(batches)["loss"].item() for _ in range(run.steps)]
            run.end_epoch()
        runs.append((losses, run.objective.stage.state_dict()["generator"]))
    torch.testing.assert_close(runs[0][0], runs[1][0], rtol=1e-2, atol=1e-3)
    assert torch.equal(runs[0][1], runs[1][1])


def test_without_a_gpu_the_graph_is_refused(shapes: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="--cuda-graph needs a GPU; the run is on the cpu"):
        Run(resolve_for_data(Config(data=str(shapes), image_size=16, cuda_graph=True)))
