"""The options of re-identification: what is refused and why, the defaults, the preset, resuming."""

from pathlib import Path
from typing import Any

import pytest

from dali_salaug import METHODS
from train.__main__ import main as program
from train.cli.checks import check
from train.cli.presets import presets_of, read_preset
from train.config import ResolvedConfig
from train.config.run import ResolvedRun
from train.distributed import World
from train.errors import UserError
from train.programs.reid import with_defaults
from train.tasks.reid.config import ReidConfig, ResolvedReidConfig
from train.tasks.reid.task import Reidentification

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"method": "cutmix"}, r"--method of re-identification must not mix two images, .*; got cutmix"),
    ({"consistency": (1.0, 0.0, 0.0), "method": "cutout"}, r"--consistency is not for re-identification"),
    ({"freeze_trunk": True, "pretrained": True, "model": "resnet18"}, r"--freeze-trunk is not for re-identification"),
    ({"accept_changed_data": True}, r"--accept-changed-data is not for re-identification; got True"),
    ({"train_images": 5}, r"--train-images is not for re-identification; got 5"),
    ({"batch_size": 48}, r"--batch-size is --batch-identities times --batch-images here, 16 × 4; got 48"),
    ({"batch_images": 1}, r"--batch-images must be at least 2 for the triplet loss .*; got 1"),
    ({"batch_identities": 1}, r"--batch-identities must be in \[2, 65536\]; got 1"),
    (
        {"triplet_weight": 0.0, "triplet_margin": 0.5},
        r"--triplet-margin has no effect with --triplet-weight 0; got 0.5",
    ),
    ({"center_lr": 0.1}, r"--center-lr has no effect without --center-weight; got 0.1"),
    ({"crop": "random_resized", "padding": 3}, r"--padding is of --crop pad; got 3 with --crop random_resized"),
    ({"crop": "auto"}, r"--crop must be one of pad, random_resized; got 'auto'"),
    ({"image_size": (4, 32)}, r"--image-size must be in \[8, 16384\]; got 4"),
    ({"image_size": 32}, r"--image-size must be 2 values, each a whole number or null; got 32"),
    ({"last_stride": 3}, r"--last-stride must be in \[1, 2\]; got 3"),
    ({"distance": "l1"}, r"--distance must be one of cosine, euclidean; got 'l1'"),
    ({"triplet_margin": -1.0}, r"--triplet-margin must be at least 0; got -1.0"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(ReidConfig(**options))


def test_the_methods() -> None:
    for name, entry in METHODS.items():
        config = ReidConfig(method=name)
        if entry.kind == "two images":
            with pytest.raises(UserError, match="--method"):
                check(config)
        else:
            check(config)


def test_defaults() -> None:
    embedded, other = ReidConfig().resolved_for(embedded=True), ReidConfig().resolved_for(embedded=False)
    assert (embedded.image_size, embedded.epochs, embedded.padding) == ((64, 32), 20, 2)
    assert (other.image_size, other.epochs, other.padding) == ((256, 128), 120, 10)
    assert (other.batch_size, other.optimizer, other.lr, other.weight_decay) == (64, "adam", 3.5e-4, 5e-4)
    assert (other.region_size, other.size, other.size_in_words) == (28, (256, 128), "256 128")
    larger = ReidConfig(batch_identities=32).resolved_for(embedded=False)
    assert (larger.batch_size, larger.lr) == (128, pytest.approx(7e-4))
    assert ReidConfig(lr_per_256=0.01).resolved_for(embedded=False).lr == pytest.approx(0.0025)
    assert with_defaults({}) == {"lr": 0.001, "lr_warmup_epochs": 2.0}
    assert with_defaults({"lr_per_256": 0.1}) == {"lr_per_256": 0.1, "lr_warmup_epochs": 2.0}
    assert with_defaults({"data": "x", "lr": 1.0}) == {"data": "x", "lr": 1.0}


def test_the_configuration_comes_back() -> None:
    config = ReidConfig(data="x", center_weight=5e-4).resolved_for(embedded=False)
    for of in (ResolvedRun, ResolvedConfig, ResolvedReidConfig):
        assert of.from_dict(config.to_dict()) == config
    check(config)
    again = ReidConfig(**{name: getattr(config, name) for name in ReidConfig.options()})
    check(again)
    assert again.resolved_for(embedded=False) == config


def test_the_recipe() -> None:
    """Luo et al. 2019, §4: 16 × 4 images of 256 × 128, Adam, ten warm-up epochs, a tenth at 40 and at 70 of 120."""
    assert presets_of(ReidConfig) == ["reid-market1501"]
    config = ReidConfig(**read_preset("reid-market1501", ReidConfig))
    check(config)
    resolved = config.resolved_for(embedded=False)
    assert (resolved.batch_identities, resolved.batch_images, resolved.image_size) == (16, 4, (256, 128))
    assert (resolved.optimizer, resolved.lr, resolved.weight_decay) == ("adam", 3.5e-4, 5e-4)
    assert (resolved.epochs, resolved.lr_steps, resolved.lr_warmup_epochs) == (120, (40, 70), 10)
    assert (resolved.padding, resolved.horizontal_flip, resolved.center_weight) == (10, 0.5, 5e-4)
    assert METHODS[resolved.method].build(2).probability == 0.5  # type: ignore[attr-defined]


@pytest.mark.parametrize(("size", "accumulate", "identities"), [(2, 1, 5), (2, 2, 4), (1, 3, 4), (4, 1, 4)])
def test_processes_share_identities(size: int, accumulate: int, identities: int) -> None:
    config = ReidConfig(batch_identities=identities, accumulate=accumulate)
    with pytest.raises(
        UserError, match=rf"--batch-identities must be a multiple .* {size} × {accumulate}.*got {identities}"
    ):
        Reidentification.resolve(config, None, World(size=size))


def test_errors_of_the_program(figures: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for options, said in (
        (["--data", str(shapes)], "has no layout of re-identification. Legal are Market-1501's layout"),
        (["--data", str(figures)], "--batch-identities must be at most 8, the training identities of"),
        (["--image-size", "32"], "expected 2 arguments"),
        (["--consistency", "1", "0", "0"], "unrecognized arguments: --consistency 1 0 0"),
        (["--data", str(figures), "--batch-identities", "4", "--model", "densenet121", "--last-stride", "1"],
         "--last-stride 1 needs a model whose stages are called layer1"),
        (["--preset", "uda-cifar-4000"], "--preset uda-cifar-4000 is for the command semi; got reid"),
    ):  # fmt: skip
        try:
            status = program(["reid", "--out", str(tmp_path / "run"), *options])
        except SystemExit as error:
            status = error.code
        said_here = " ".join(capsys.readouterr().err.split())
        assert status == 2, options
        assert said in said_here
    assert not (tmp_path / "run").exists()


def test_the_help(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        program(["reid", "--help"])
    text = capsys.readouterr().out
    for word in ("--image-size HEIGHT WIDTH", "--batch-identities", "--center-weight", "presets: reid-market1501"):
        assert word in text
    for word in ("--consistency", "--val-data", "--train-images", "--batch-size"):
        assert word not in text
