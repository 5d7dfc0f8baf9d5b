"""Training with the saliency-consistency loss: the legal options, the step, the log, resuming."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from dali_salaug import METHODS, SaliencyConsistency
from train.cli.checks import check
from train.cli.commands import build_parser
from train.cli.presets import PRESETS, read_preset
from train.config import Config
from train.engine import checkpoint, loop
from train.errors import UserError
from train.programs.train import main, stated_options
from train.tasks.classification.objective import PlainObjective

TINY = {"image_size": 16, "batch_size": 8, "region_size": 6, "device": "cpu", "epochs": 1}
FLIPS: dict[str, Any] = {"method": "randaugment", "policy": "flips_rotation", "interpolation": "linear"}


def the_parts(names: str) -> tuple[str, ...]:
    return tuple(f"{name}_loss" for name in names.split())


@pytest.mark.parametrize(
    ("weights", "method", "names"),
    [
        ((1, 0, 1), FLIPS, "class saliency"),
        ((1, 0.5, 2), {"method": "cutmix"}, "class invariance saliency"),
        ((1, 0.5, 0), {"method": "keep_cutout"}, "class invariance"),
        ((1, 0, 0), {"method": "randaugment"}, "class"),
    ],
)
def test_the_losses_of_a_step(
    weights: tuple[float, float, float], method: dict[str, Any], names: str, run_of: Any
) -> None:
    """They equal the library's for the same stage by hand; the gradient reaches every weight."""
    run, twin = (run_of(consistency=weights, **method) for _ in range(2))
    batch = next(iter(run.train_loader))
    losses = run.objective(batch).losses
    assert (*losses, "replaced") == run.meter.names == ("loss", *the_parts(names), "replaced")

    trace = twin.objective.stage.trace(twin.model, batch.images, batch.labels, batch.augmented)
    how: dict[str, Any] = {"method": twin.objective.stage.method, "drawn": trace.drawn}
    if batch.augmented is not None:
        how = {"matrices": batch.matrices}
        assert torch.equal(trace.inputs, batch.augmented)
        assert not torch.equal(batch.matrices[:, :, :2], torch.eye(2).expand(8, 2, 2))  # type: ignore[index]
    expected = SaliencyConsistency(*weights, label_smoothing=0.1)(
        twin.model, batch.images, trace.inputs, batch.labels, **how
    )
    values = [value for value in expected if value is not None]
    torch.testing.assert_close(list(losses.values()), values)
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in run.model.parameters())


def test_scale_and_layers_reach_the_loss(run_of: Any) -> None:
    run = run_of(**FLIPS, consistency=(1, 1, 1), consistency_scale=0.5, consistency_layers=("0", "3"))
    assert repr(run.objective.consistency) == repr(
        SaliencyConsistency(1, 1, 1, scale=0.5, layers=["0", "3"], label_smoothing=0.1)
    )
    assert isinstance(run_of(**FLIPS).objective, PlainObjective)


def test_in_warm_up_the_other_parts_are_zero(run_of: Any) -> None:
    run = run_of(method="salfmix", image_size=32, consistency=(2, 1, 1))
    batch = next(iter(run.train_loader))
    run.objective.set_epoch(0)
    losses = run.objective(batch).losses
    assert losses["loss"] == 2 * losses["class_loss"]
    assert losses["saliency_loss"] == losses["invariance_loss"] == 0
    run.objective.set_epoch(1)
    assert run.objective(batch).losses["saliency_loss"] > 0


def test_training_for_it_lowers_it(run_of: Any) -> None:
    """The same steps on one batch, with and without the part."""
    after = []
    for gamma in (1e-9, 20.0):
        run = run_of(**FLIPS, batch_size=16, consistency=(1, 0, gamma))
        batch = next(iter(run.train_loader))
        for _ in range(15):
            losses = run.objective(batch).losses
            run.optimizer.zero_grad()
            losses["loss"].backward()
            run.optimizer.step()
        after.append(float(run.objective(batch).losses["saliency_loss"]))
    assert after[1] < 0.8 * after[0]


@pytest.mark.parametrize("method", [FLIPS, {"method": "keep_cutout"}], ids=["policy", "keep_cutout"])
def test_stopped_and_resumed_it_is_the_same_to_the_last_bit(
    method: dict[str, Any], shapes: Path, tmp_path: Path, capsys: Any, stop_in_step: Any
) -> None:
    given = {"data": str(shapes), **TINY, **method, "epochs": 2, "consistency": (1, 0.1, 1)}
    assert main(given | {"out": str(tmp_path / "whole")}, resuming=False) == 0
    assert "  saliency loss 0." in capsys.readouterr().out

    with stop_in_step(3):
        assert main(given | {"out": str(tmp_path / "parts")}, resuming=False) == 130
    assert checkpoint.load(tmp_path / "parts" / "last.pt")["progress"]["step"] == 4
    assert main({"out": str(tmp_path / "parts")}, resuming=True) == 0

    states = [checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "parts")]
    for name, values in states[0]["model"].items():
        assert torch.equal(values, states[1]["model"][name]), name
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    for line, other in zip(*logs, strict=True):
        assert '"train_class_loss": ' in line
        assert '"train_invariance_loss": ' in line
        assert '"train_saliency_loss": 0.0' in line  # below 0.1, and not 0
        assert '"train_saliency_loss": 0.0,' not in line
        assert line.split('"seconds"')[0] == other.split('"seconds"')[0]
    with pytest.raises(UserError, match=r"--consistency is \(1, 0.1, 1\) in the checkpoint, \(1.0, 0.0, 1.0\) on the"):
        main({"out": str(tmp_path / "parts"), "consistency": (1.0, 0.0, 1.0)}, resuming=True)


def test_the_events_hold_the_parts(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(loop, "READ_LOSS_EVERY", 2)
    given = {"data": str(shapes), **TINY, **FLIPS, "consistency": (1, 0, 1), "out": str(tmp_path)}
    assert main(given, resuming=False) == 0
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {f"train/step_{name}" for name in ("loss", *the_parts("class saliency"))} <= tags
    assert {f"epoch/train_{name}" for name in ("loss", *the_parts("class saliency"))} <= tags
    total, *parts = ([e.value for e in events.Scalars(f"train/step_{n}loss")] for n in ("", "class_", "saliency_"))
    assert len(total) == 3
    assert total == pytest.approx([a + b for a, b in zip(*parts, strict=True)], rel=1e-5)


TRACEABLE = [
    name
    for name, entry in METHODS.items()
    if name not in ("none", "random_erasing", "keep_random_erasing", "augmix")
    and not (name.startswith("keep_") and entry.policy)
]


@pytest.mark.parametrize("name", TRACEABLE)
def test_every_method_that_moves_cuts_or_mixes_the_images_alone(name: str, run_of: Any) -> None:
    run = run_of(method=name, image_size=32, warmup_epochs=0, consistency=(1, 0, 1), consistency_scale=0.5)
    losses = run.objective(next(iter(run.train_loader))).losses
    losses["loss"].backward()
    assert losses["saliency_loss"] > 0
    assert all(value.isfinite() for value in losses.values())


WEIGHTS = {"consistency": (1.0, 0.0, 1.0)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            WEIGHTS,
            "--consistency needs a method that only moves, cuts or mixes images: "
            rf"{', '.join(TRACEABLE)[:60]}.*--method keep_randaugment \(",
        ),
        (WEIGHTS | {"method": "none"}, r"got --method none"),
        (WEIGHTS | {"method": "random_erasing"}, r"got --method random_erasing"),
        (
            WEIGHTS | {"method": "augmix"},
            r"needs a policy .*--policy autoaugment, .*simclr, or a file; got augmix, a m",
        ),
        (WEIGHTS | {"method": "randaugment", "policy": "augmix"}, r"got augmix, a mixture of several images"),
        (WEIGHTS | {"method": "cutout", "early_head": "auto"}, r"trains no early head; got --early-head auto"),
        ({"consistency": (0.0, 0.0, 0.0), "method": "cutout"}, r"--consistency must have a weight above 0; got 0 0 0"),
        ({"consistency": (1.0, -1.0, 0.0)}, r"--consistency must be at least 0; got -1"),
        ({"consistency_scale": 0.5}, r"--consistency-scale needs --consistency ALPHA BETA GAMMA; got 0.5 without"),
        ({"consistency_layers": ("0",)}, r"--consistency-layers needs --consistency ALPHA"),
        (WEIGHTS | {"method": "cutout", "consistency_layers": ("0",)}, r"needs a BETA above 0; got 1 0 1"),
        (
            WEIGHTS | {"method": "cutout", "consistency_scale": 0.0},
            r"--consistency: scale must be a number in .*; got 0",
        ),
    ],
)
def test_options_that_do_not_go_with_it(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(Config(**values))


def test_the_method_augmix_is_legal_with_another_policy() -> None:
    check(Config(**WEIGHTS, method="augmix", policy="affine"))


def test_a_layer_that_does_not_exist(shapes: Path, tmp_path: Path) -> None:
    given = {"data": str(shapes), **TINY, **FLIPS, "consistency": (1, 1, 0), "consistency_layers": ("3.bodi",)}
    with pytest.raises(UserError, match=r"--consistency-layers must name submodules .*, such as '0'.*got '3.bodi'"):
        main(given | {"out": str(tmp_path / "run")}, resuming=False)
    assert not (tmp_path / "run").exists()


def test_the_presets_are_the_papers_settings() -> None:
    names = [name for name in PRESETS if name.startswith("consistency-")]
    configs = {name.removeprefix("consistency-"): Config(**read_preset(name)) for name in names}
    assert {name: config.consistency for name, config in configs.items()} == {
        "all": (0.333,) * 3, "class": (1, 0, 0), "invariance": (0.5, 0.5, 0), "saliency": (1, 0, 1),
    }  # fmt: skip
    for pair in (("class", "saliency"), ("invariance", "all")):
        one, other = (dataclasses.asdict(configs[name]) for name in pair)
        assert {key for key in one if one[key] != other[key]} == {"consistency"}


def test_the_command_line() -> None:
    words = ["--consistency", "1", "0.5", "0", "--consistency-layers", "3", "6.body", "--consistency-scale", "0.5"]
    given = stated_options(build_parser(["train"]).parse_args(words))
    assert given == {
        "consistency": (1.0, 0.5, 0.0), "consistency_layers": ("3", "6.body"), "consistency_scale": 0.5,
    }  # fmt: skip
    for count in itertools.chain((1, 2), (4,)):
        with pytest.raises(SystemExit):
            build_parser(["train"]).parse_args(["--consistency", *"1" * count])


def test_a_configuration_without_the_options_is_read() -> None:
    """A configuration that names no loss has none."""
    assert Config.from_dict({"method": "cutout"}).consistency is None
