"""The command line: every option explained with its default, wrong values answered with the legal ones."""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from dali_salaug import METHODS
from dali_salaug.methods import KINDS
from pipelines import POLICIES
from train.__main__ import main
from train.cli.checks import check
from train.cli.commands import COMMANDS, build_parser
from train.cli.parser import names_of_methods
from train.cli.presets import PRESETS, presets_of, read_preset
from train.config import Config, ResolvedConfig
from train.engine.files import write_yaml
from train.errors import UserError
from train.programs.semi import EMBEDDED
from train.programs.train import stated_options
from train.tasks.semi.config import OWN, SemiConfig

FIXED = ["data", "out", "model", "method", "epochs", "batch-size", "image-size", "lr", "seed", "device", "resume"]


def parse(*arguments: str) -> dict[str, Any]:
    """The options that the command line and its preset state, with the command or without."""
    parser = build_parser(["train"])
    chosen, same = (stated_options(parser.parse_args(words)) for words in (arguments, ("train", *arguments)))
    assert same == chosen
    return chosen


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parsers of the program without a command, and of its commands that train."""
    parser = build_parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return {"": parser, "train": commands.choices["train"], "semi": commands.choices["semi"]}


@pytest.mark.parametrize("command", ["", "train", "semi"])
def test_help_lists_every_option_with_its_default(command: str) -> None:
    parser = parsers()[command]
    options = {o: a for a in parser._actions for o in a.option_strings}
    fields = dataclasses.fields(SemiConfig if command == "semi" else Config)
    assert len([o for o in options if o.removeprefix("--").replace("-", "_") in OWN]) == 8 * (command == "semi")
    for name in [*FIXED, *(f.name.replace("_", "-") for f in fields)]:
        assert "(default: " in (options[f"--{name}"].help or "")
    for field in fields:
        if command == "semi" and field.name in EMBEDDED:
            assert f"(default: {EMBEDDED[field.name]}" in (options["--" + field.name.replace("_", "-")].help or "")
        elif field.default is not None:
            assert f"(default: {field.default})" in (options["--" + field.name.replace("_", "-")].help or "")
        else:
            assert field.metadata["by_data"], f"{field.name}: None says nothing to the reader"
    text = parser.format_help()
    for name, entry in METHODS.items():
        assert f"{name:<20} {entry.description}" in text
    for name in POLICIES:
        assert name in text


def test_the_methods_fit_into_80_columns() -> None:
    assert max(map(len, names_of_methods().split("\n\n")[0].splitlines())) <= 80


def test_help_lists_every_command(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert not stop.value.code
    text = " ".join(capsys.readouterr().out.split())
    for name, (_, summary) in COMMANDS.items():
        assert f" {name} {summary}" in text
    assert "--data DIR --model resnet50 --method keep_randaugment --out runs/mine" in text, "how to train"


def test_only_what_is_stated_comes_out() -> None:
    assert parse("--crop-scale", "0.2", "0.9", "--lr", "0.3", "--resume") == {"crop_scale": (0.2, 0.9), "lr": 0.3}
    assert build_parser(["train"]).parse_args(["--resume"]).resume
    assert parse() == {}
    assert not build_parser(["train"]).parse_args([]).resume


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shov"], "invalid choice: 'shov'"),
        (["--val-images", "64"], "unrecognized arguments: --val-images 64"),
        (["--lr", "0.1", "--val-images", "64", "--epochs", "1"], "unrecognized arguments: --val-images 64"),
        (["--lr", "0.1", "index"], "the command comes first; got index after other options"),
        (["show", "runs/mine", "--lr", "0.1"], "unrecognized arguments: --lr 0.1"),
        (["export"], "the following arguments are required: RUN"),
    ],
)
def test_a_command_that_is_not_understood(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


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
        ({"batch_size": -1}, r"--batch-size must be in \[1, 2147483647\]; got -1"),
        ({"lr": 0.0}, r"--lr must be above 0; got 0"),
        ({"lr_steps": (3, 0)}, r"--lr-steps must be at least 1; got 0"),
        ({"saliency": "magic"}, r"--saliency must be one of gradient, .*; got 'magic'"),
        ({"early_head": "auto", "early_weight": -0.1}, r"--early-weight must be at least 0; got -0.1"),
        ({"memory_share": 0.0}, r"--memory-share must be in \(0, 1\]; got 0"),
        ({"memory_grid": 0}, r"--memory-grid must be in \[1, 256\]; got 0"),
        ({"early_weight": 0.5}, r"--early-weight needs an --early-head; got 0.5 with --early-head off"),
        ({"saliency_scale": 0.0}, r"--saliency-scale must be in \(0, 1\]; got 0"),
        ({"crop_scale": (0.9, 0.2)}, r"--crop-scale must be least <= most; got 0\.9 0\.2$"),
        ({"crop_scale": (1e-9, 1.0)}, r"--crop-scale must be in \[1e-06, 1\]; got 1e-09$"),
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
        check(Config(**values))


def test_a_policy_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- [[rotate, 0.5, 3], [equalize, 0.2]]")
    check(Config(policy=str(path)))
    path.write_text("- [[rotate, 5, 3]]")
    with pytest.raises(UserError, match=r"--policy file '.*mine.yaml': sub-policy 1, operation 1, rotate: the prob"):
        check(Config(policy=str(path)))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_legal(name: str) -> None:
    check(Config(method=name))


@pytest.mark.parametrize("name", presets_of(Config))
def test_every_preset_is_legal_and_the_command_line_wins(name: str) -> None:
    config = Config(**parse("--preset", name, "--epochs", "7"))
    preset = Config.from_dict(yaml.safe_load(PRESETS[name].read_text()))
    assert config == dataclasses.replace(preset, epochs=7)
    assert preset.epochs not in (None, 7)
    check(config)
    assert name in build_parser(["train"]).format_help()


def test_the_configuration_of_a_run_is_a_preset(tmp_path: Path) -> None:
    config = Config(lr=0.3, lr_steps=(4, 6), out="elsewhere", crop_scale=(0.5, 1.0))
    write_yaml(tmp_path / "config.yaml", config.to_dict())
    assert Config(**parse("--preset", str(tmp_path / "config.yaml"))) == dataclasses.replace(config, out=None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"--preset must be one of .*keepaugment-cifar.*, or a YAML file; got '.*none\.yaml'"),
        ("lr: [", "cannot be read: while parsing"),
        ("rate: 0.1", r"its keys must be options such as data, val_data, out, epochs; got \['rate'\]"),
        ("- lr", "its keys must be options .* got no mapping"),
    ],
)
def test_a_preset_that_is_none_is_answered(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        parse("--preset", str(path))


@pytest.mark.parametrize("special", ["fifo", "/dev/zero"])
def test_a_preset_that_would_never_end_is_answered(special: str, tmp_path: Path) -> None:
    path = tmp_path / "special.yaml"
    os.mkfifo(path) if special == "fifo" else path.symlink_to(special)
    with pytest.raises(UserError, match=r"--preset .*special\.yaml: cannot be read: it is a .*, not a regular file"):
        parse("--preset", str(path))
    with pytest.raises(UserError, match=r"special\.yaml: not the configuration of a run: .*, not a regular file"):
        ResolvedConfig.load(path)


def test_a_preset_is_read_as_its_options_are_typed(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-3 for text, and off for false."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "lr: 1e-3\nmomentum: 9e-1\nbatch_size: 1e3\nepochs: 12\namp: off\nearly_head: off\ncompile: off\n"
        "crop_scale: [1e-1, 1]\nlr_steps: [3, 1e1]\ndecode_size_hint: null\nmodel: small\ntau: 1\n"
    )
    options = read_preset(str(path))
    assert options == {
        "lr": 0.001, "momentum": 0.9, "batch_size": 1000, "epochs": 12, "amp": "off", "early_head": "off",
        "compile": False, "crop_scale": (0.1, 1), "lr_steps": (3, 10), "decode_size_hint": None, "model": "small",
        "tau": 1,
    }  # fmt: skip
    assert type(options["batch_size"]) is type(options["lr_steps"][1]) is int
    check(Config(**options))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train_images: 3.5", r"train_images must be a whole number or null; got 3\.5$"),
        ("train_images: 35e-1", r"train_images must be a whole number or null; got '35e-1'$"),
        ("lr: fast", r"lr must be a number or null; got 'fast'$"),
        ("lr: true", r"lr must be a number or null; got True$"),
        ("compile: 1", r"compile must be true or false; got 1$"),
        ("amp: on", r"amp must be text; got True$"),
        ("model: 3", r"model must be text; got 3$"),
        ("crop_scale: [0.5]", r"crop_scale must be 2 values, each a number or null; got \[0\.5\]$"),
        ("momentum:", r"momentum must be a number; got None$"),
        ("data: {a: 1}", r"data must be text or null; got \{'a': 1\}$"),
    ],
)
def test_a_preset_of_another_type(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(line)
    with pytest.raises(UserError, match=f"^--preset {path}: {message}"):
        read_preset(str(path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": float("inf")}, "--lr must be a finite number of at least 0; got inf"),
        ({"lr_warmup_epochs": float("inf")}, "--lr-warmup-epochs must be a finite number of at least 0; got inf"),
        ({"clip_grad": float("nan")}, "--clip-grad must be a finite number of at least 0; got nan"),
        ({"batch_size": 2**31}, r"--batch-size must be in \[1, 2147483647\]; got 2147483648"),
        ({"image_size": 10**6}, r"--image-size must be in \[8, 16384\]; got 1000000"),
        ({"workers": 2000}, r"--workers must be in \[1, 1024\]; got 2000"),
        ({"seed": 2**64}, r"--seed must be in \[0, \d+\]; got \d+"),
        ({"max_pixels": 2**63}, r"--max-pixels must be in \[1, \d+\]; got \d+"),
        ({"decode_size_hint": (70000, 3)}, r"--decode-size-hint must be in \[1, 65535\]; got 70000"),
    ],
)
def test_what_is_too_large(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(Config(**values))


@pytest.mark.parametrize("text", ["2001-99-99: 1", "[" * 10_000])
def test_a_preset_that_the_parser_chokes_on_is_answered(text: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="cannot be read: "):
        parse("--preset", str(path))


def test_the_list_of_methods(capsys: pytest.CaptureFixture) -> None:
    assert main(["--list-methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["method", *METHODS]
    for line, (name, entry) in zip(lines[1:], METHODS.items(), strict=True):
        method = entry.build(5)
        maps = [entry.saliency] * method.uses_saliency + [method.own_map] * bool(method.own_map)
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


def test_what_is_stated_wins_over_the_data() -> None:
    given = Config(
        method="keep_autoaugment", policy="autoaugment_svhn", image_size=48, lr=0.7, weight_decay=0.0, epochs=3,
        batch_size=16, crop_scale=(0.3, 0.4), saliency="guided", saliency_target="max",
        saliency_scale=0.25, warmup_epochs=2, region_size=10,
    )  # fmt: skip
    assert given.resolved(side=32, embedded=False, cifar=True).to_dict() == given.to_dict()


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = Config(crop_scale=(0.3, 0.9), data="/a b/ä").resolved(side=64, embedded=False, cifar=False)
    write_yaml(tmp_path / "config.yaml", config.to_dict())
    assert ResolvedConfig.load(tmp_path / "config.yaml") == config
