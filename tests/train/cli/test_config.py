"""The command line: every option explained with its default, wrong values answered with the legal ones."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from train.engine.methods import KINDS, METHODS, policies

from train.cli.parser import PRESETS, build_parser, parse
from train.config import Config
from train.errors import UserError

FIXED = ["data", "out", "model", "method", "epochs", "batch-size", "image-size", "lr", "seed", "device", "resume"]


def test_help_lists_every_option_with_its_default() -> None:
    options = {o: a for a in build_parser()._actions for o in a.option_strings}
    for name in [*FIXED, *(f.name.replace("_", "-") for f in dataclasses.fields(Config))]:
        assert "(default: " in (options[f"--{name}"].help or "")
    for field in dataclasses.fields(Config):
        if field.default is not None:
            assert f"(default: {field.default})" in (options["--" + field.name.replace("_", "-")].help or "")
        else:
            assert field.metadata["by_data"], f"{field.name}: None says nothing to the reader"
    text = build_parser().format_help()
    for name, entry in METHODS.items():
        assert f"{name:<20} {entry.description}" in text
    for name in policies():
        assert name in text


def test_only_what_is_given_comes_out() -> None:
    assert parse(["--crop-scale", "0.2", "0.9", "--lr", "0.3", "--resume"]) == (
        {"crop_scale": (0.2, 0.9), "lr": 0.3},
        True,
    )
    assert parse([]) == ({}, False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "magic"}, r"--method must be one of none, cutout, keep_cutout.*got 'magic'"),
        ({"device": "tpu"}, r"--device must be one of auto, cpu, cuda; got 'tpu'"),
        ({"tau": 1.5}, r"--tau must be in \[0, 1\]; got 1.5"),
        ({"tau": float("nan")}, r"--tau must be in \[0, 1\]; got nan"),
        ({"epochs": 0}, r"--epochs must be at least 1; got 0"),
        ({"train_images": 0}, r"--train-images must be at least 1; got 0"),
        ({"validate_every": 0}, r"--validate-every must be at least 1; got 0"),
        ({"batch_size": -1}, r"--batch-size must be at least 1; got -1"),
        ({"lr": 0.0}, r"--lr must be above 0; got 0"),
        ({"lr_steps": (3, 0)}, r"--lr-steps must be at least 1; got 0"),
        ({"saliency": "magic"}, r"--saliency must be one of gradient, .*; got 'magic'"),
        ({"early_head": "auto", "early_weight": -0.1}, r"--early-weight must be at least 0; got -0.1"),
        ({"early_weight": 0.5}, r"--early-weight needs an --early-head; got 0.5 with --early-head off"),
        ({"saliency_scale": 0.0}, r"--saliency-scale must be in \(0, 1\]; got 0"),
        ({"crop_scale": (0.9, 0.2)}, r"--crop-scale must be 0 < least <= most <= 1"),
        ({"policy": "fancy"}, r"--policy must be one of autoaugment.*or a file .*got 'fancy'"),
        ({"policy": "none.yaml"}, r"--policy file 'none.yaml': No such file or directory"),
        (
            {"method": "cutout", "policy": "randaugment"},
            r"--policy is for the methods autoaugment.*got --method cutout",
        ),
    ],
)
def test_an_illegal_value_is_answered_with_the_legal_ones(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Config(**values).check()


def test_a_policy_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- [[rotate, 0.5, 3], [equalize, 0.2]]")
    Config(policy=str(path)).check()
    path.write_text("- [[rotate, 5, 3]]")
    with pytest.raises(UserError, match=r"--policy file '.*mine.yaml': sub-policy 1, operation 1, rotate: the prob"):
        Config(policy=str(path)).check()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_legal(name: str) -> None:
    Config(method=name).check()


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_legal_and_gives_way_to_what_is_given(path: Path) -> None:
    given, _ = parse(["--preset", path.stem, "--epochs", "7"])
    config, preset = Config(**given), Config.from_dict(yaml.safe_load(path.read_text()))
    assert config == dataclasses.replace(preset, epochs=7)
    assert preset.epochs not in (None, 7)
    config.check()
    assert path.stem in build_parser().format_help()


def test_the_configuration_of_a_run_is_a_preset(tmp_path: Path) -> None:
    config = Config(lr=0.3, lr_steps=(4, 6), out="elsewhere", crop_scale=(0.5, 1.0))
    config.save(tmp_path / "config.yaml")
    given, _ = parse(["--preset", str(tmp_path / "config.yaml")])
    assert Config(**given) == dataclasses.replace(config, out=None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"--preset must be one of .*keepaugment-cifar.*, or a YAML file; got '.*none\.yaml'"),
        ("lr: [", "cannot be read: while parsing"),
        ("rate: 0.1", r"its keys must be options such as data, out, model, method; got \['rate'\]"),
        ("- lr", "its keys must be options .* got no mapping"),
    ],
)
def test_a_preset_that_is_none_is_answered(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        parse(["--preset", str(path)])


def test_the_list_of_methods(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(["--list-methods"])
    assert not stop.value.code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["method", *METHODS]
    for line, (name, entry) in zip(lines[1:], METHODS.items(), strict=True):
        uses = entry.build(Config(), 5).uses_saliency
        maps = [entry.saliency] * uses + [entry.own_map] * bool(entry.own_map)
        assert f"  {', '.join(maps) or 'none'}  " in line
        assert entry.kind in KINDS
        assert entry.source in line
        assert entry.source or name == "none"


def test_defaults_follow_the_data() -> None:
    cifar = Config(method="keep_autoaugment").resolved(side=32, embedded=False, cifar=True)
    assert (cifar.image_size, cifar.batch_size, cifar.lr, cifar.weight_decay) == (32, 128, 0.1, 5e-4)
    assert cifar.policy == "autoaugment_cifar10"
    photographs = Config(method="keep_autoaugment").resolved(side=375, embedded=False, cifar=False)
    assert (photographs.image_size, photographs.batch_size, photographs.lr) == (224, 128, 0.05)
    assert photographs.policy == "autoaugment"
    assert photographs.weight_decay == 1e-4


def test_what_is_given_wins_over_the_data() -> None:
    given = Config(
        method="keep_autoaugment", policy="autoaugment_svhn", image_size=48, lr=0.7, weight_decay=0.0, epochs=3,
        batch_size=16, crop_scale=(0.3, 0.4), saliency="guided", saliency_target="max",
        saliency_scale=0.25, warmup_epochs=2,
    )  # fmt: skip
    assert given.resolved(side=32, embedded=False, cifar=True) == given


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = Config(crop_scale=(0.3, 0.9), data="/a b/ä").resolved(side=64, embedded=False, cifar=False)
    config.save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml") == config
