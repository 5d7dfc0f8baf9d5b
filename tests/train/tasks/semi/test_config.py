"""The options of semi-supervised training: what is refused and why, the defaults, the presets."""

from pathlib import Path
from typing import Any

import pytest

from dali_salaug import METHODS
from train.__main__ import main as program
from train.cli.checks import check
from train.cli.presets import PRESETS, presets_of, read_preset
from train.config import Config, ResolvedConfig
from train.config.run import ResolvedRun
from train.errors import UserError
from train.programs.semi import with_defaults
from train.tasks.semi.config import OWN, ResolvedSemiConfig, SemiConfig

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"labels": 0}, r"--labels must be at least 1; got 0"),
    ({"method": "cutmix"}, r"--method of unlabelled images must change each image by itself, .*; got cutmix"),
    ({"method": "none"}, r"--method of unlabelled images .*; got none"),
    ({"saliency_target": "label"}, r"--saliency-target must be max for unlabelled images; got label"),
    ({"saliency_target": "loss"}, r"--saliency-target must be max for unlabelled images; got loss"),
    ({"saliency": "memory"}, r"--saliency memory .* not for unlabelled images"),
    ({"consistency": (1.0, 0.0, 0.0), "method": "cutout"}, r"--consistency .* not for unlabelled images; got 1 0 0"),
    ({"accept_changed_data": True}, r"--accept-changed-data is not for unlabelled images"),
    ({"confidence": 1.0}, r"--confidence must be in \[0, 1\), as no probability is above 1; got 1"),
    ({"confidence": -0.1}, r"--confidence must be in \[0, 1\]; got -0.1"),
    ({"temperature": 0.0}, r"--temperature must be at least 1e-06; got 0.0"),
    ({"temperature": 0.5, "pseudo_labels": "hard"}, r"--temperature has no effect with --pseudo-labels hard; got 0.5"),
    ({"unlabelled_ratio": 0}, r"--unlabelled-ratio must be in \[1, 65536\]; got 0"),
    ({"unlabelled_weight": -1.0}, r"--unlabelled-weight must be at least 0; got -1.0"),
    ({"pseudo_labels": "firm"}, r"--pseudo-labels must be one of soft, hard; got 'firm'"),
    ({"training_signal_annealing": "cosine"}, r"--training-signal-annealing must be one of off, linear, log, exp"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(SemiConfig(**{"labels": 16} | options))


def test_the_methods() -> None:
    """All that need no other image and no label, with the map of the greatest logit."""
    for name, entry in METHODS.items():
        config = SemiConfig(labels=16, method=name)
        if entry.kind == "two images" or name == "none":
            with pytest.raises(UserError, match="--method"):
                check(config)
        else:
            check(config)
            assert config.resolved(side=32, embedded=False, cifar=True).saliency_target == "max"


def test_the_configuration_of_each_task_comes_back() -> None:
    """Of its own task, and as that of a network that classifies; not as another."""
    config = SemiConfig(labels=16).resolved(side=32, embedded=False, cifar=True)
    assert len(OWN) == 8
    for of in (ResolvedRun, ResolvedConfig, ResolvedSemiConfig):
        assert of.from_dict(config.to_dict()) == config
    plain = Config().resolved(side=32, embedded=False, cifar=True).to_dict()
    with pytest.raises(ValueError, match="it is of a run of the command train, which this command does not take"):
        ResolvedSemiConfig.from_dict(plain)
    with pytest.raises(ValueError, match=r"its configuration has task = 'dance', none of train, .*semi"):
        ResolvedRun.from_dict(plain | {"task": "dance"})


def test_training_without_the_command_refuses_them(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        program(["train", "--labels", "16"])
    assert "unrecognized arguments: --labels 16" in capsys.readouterr().err
    assert program(["train", "--preset", "uda-cifar-4000"]) == 2
    assert "--preset uda-cifar-4000 is for the command semi; got train" in capsys.readouterr().err


def test_the_images_must_be_stated(shapes: Path, capsys: pytest.CaptureFixture) -> None:
    assert program(["semi", "--data", str(shapes)]) == 2
    assert "semi needs --labels N, the number of labelled images, or --unlabelled DIR" in capsys.readouterr().err
    assert program(["semi", "--data", str(shapes), "--labels", "50", "--device", "cpu"]) == 2
    assert "--labels must be from 8, one of each class, to 48" in capsys.readouterr().err


def test_the_defaults() -> None:
    embedded = SemiConfig(**with_defaults({}))
    assert (embedded.labels, embedded.label_smoothing, embedded.unlabelled_ratio) == (800, 0, 1)
    stated = SemiConfig(**with_defaults({"data": "somewhere", "labels": 40, "ema": 0.0}))
    assert (stated.labels, stated.label_smoothing, stated.ema, stated.batch_size) == (40, 0, 0, None)
    check(embedded)


@pytest.mark.parametrize(
    ("name", "labels", "ratio", "steps"),
    [
        ("uda-cifar-4000", 4000, 5, 200_000),
        ("uda-cifar-2500", 2500, 5, 200_000),
        ("usb-cifar", 4000, 7, 2**20),
    ],
)
def test_the_presets(name: str, labels: int, ratio: int, steps: int) -> None:
    config = SemiConfig(**with_defaults(read_preset(name, SemiConfig) | {"data": "cifar"}))
    check(config)
    resolved = config.resolved(side=32, embedded=False, cifar=True, images=50_000)
    assert (resolved.labels, resolved.unlabelled_ratio, resolved.model) == (labels, ratio, "wrn28_2")
    in_an_epoch = -(-50_000 // resolved.step_images)
    assert steps <= resolved.epochs * in_an_epoch < steps + in_an_epoch
    assert presets_of(SemiConfig) == ["uda-cifar-2500", "uda-cifar-4000", "usb-cifar"]
    assert {*presets_of(SemiConfig), *presets_of(Config)} <= PRESETS.keys()
