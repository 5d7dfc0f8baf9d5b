"""The options of detection: what is refused and why, the defaults, the presets."""

from typing import Any

import pytest

from train.cli.checks import check
from train.cli.commands import build_parser
from train.cli.presets import presets_of, read_preset
from train.config import Config
from train.config.options import restated
from train.config.run import ResolvedRun, RunConfig
from train.errors import UserError
from train.tasks.detection.config import DetectionConfig, ResolvedDetectionConfig

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"detector": "yolo"}, r"--detector must be one of fasterrcnn_fpn, fasterrcnn_c4, retinanet; got 'yolo'"),
    ({"trainable_layers": -1}, r"--trainable-layers must be at least 0; got -1"),
    ({"batch_norm": "off"}, r"--batch-norm must be one of frozen, trained; got 'off'"),
    ({"short_sides": (4,)}, r"--short-sides must be in \[8, 16384\]; got 4"),
    ({"short_sides": (64, 80), "long_side": 60}, r"--long-side must be at least 64, a short side; got 60"),
    ({"iterations": 10, "epochs": 3}, r"--iterations must be a multiple of --epochs, .*; got 10 with 3"),
    ({"lr_per_256": 0.1}, r"--lr-per-256 is not for detection, .* use --lr; got 0.1"),
    ({"lr": 0.0}, r"--lr must be above 0; got 0"),
    ({"compile": True}, r"--compile is not for detection; got True"),
    ({"more_data": ("a",)}, r"--more-data and --annotations need --data"),
    ({"data": "a", "annotations": "b", "more_data": ("c",)}, r"--annotations .* does not go with --more-data"),
    ({"data": "a", "annotations": "b"}, r"--annotations needs validation images too"),
    ({"mean": (0.5, 0.5, 0.5)}, r"--mean needs --std too"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(DetectionConfig(**options))


def test_the_defaults_follow_from_the_data_and_the_backbone() -> None:
    embedded = DetectionConfig().resolved(None, None)
    assert (embedded.short_sides, embedded.batch_size, embedded.batch_norm) == ((80, 88, 96), 8, "trained")
    assert embedded.trainable_layers is None
    own = DetectionConfig(data="voc", backbone="run", detector="retinanet").resolved((0.1,) * 3, (0.2,) * 3)
    assert (own.short_sides[-1], own.long_side, own.proposals, own.pyramid_channels) == (800, 1333, 512, 256)
    assert (own.lr, own.batch_size, own.batch_norm, own.trainable_layers) == (0.01, 16, "frozen", 3)
    assert (own.mean, own.std) == ((0.1,) * 3, (0.2,) * 3)
    assert DetectionConfig(data="voc", batch_size=4).resolved(None, None).lr == 0.005


def test_a_configuration_comes_back() -> None:
    config = DetectionConfig(more_data=("a", "b"), data="c").resolved(None, None)
    for of in (ResolvedRun, ResolvedDetectionConfig):
        assert of.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="of a run of the command detect, which this command does not take"):
        Config.from_dict(config.to_dict())


def test_an_option_stated_again_inherits_the_rest() -> None:
    inherited, own = RunConfig.options()["std"], DetectionConfig.options()["std"]
    assert own.metadata == {**inherited.metadata, "by_data": "that of --backbone, else ImageNet's"}
    assert (own.default, own.type) == (inherited.default, inherited.type)
    assert DetectionConfig.options()["vertical_flip"].default is None
    with pytest.raises(TypeError, match="unexpected keyword argument 'help'"):
        restated(RunConfig, "std", help="none")


def test_iterations_are_shared_out_among_the_epochs() -> None:
    config = DetectionConfig(data="c", iterations=60, epochs=4, batch_size=8).resolved(None, None)
    assert config.samples(1000) == 15 * 8
    assert DetectionConfig(data="c").resolved(None, None).samples(1000) == 1000


RECIPES = {  # Detectron2's and SalfMix's: batch, rate, iterations, where the rate drops, warm-up
    "coco-c4-3x": (16, 0.02, 270_000, (210_000, 250_000), 1000),
    "coco-fpn-3x": (16, 0.02, 270_000, (210_000, 250_000), 1000),
    "coco-retinanet-3x": (16, 0.01, 270_000, (210_000, 250_000), 1000),
    "salfmix-voc": (8, 0.02, 24_000, (18_000, 22_000), 1000),
}


def test_presets_are_the_recipes() -> None:
    assert presets_of(DetectionConfig) == sorted(RECIPES)
    for name, recipe in RECIPES.items():
        config = DetectionConfig(**read_preset(name, DetectionConfig), data="data", backbone="run")
        check(config)
        resolved = config.resolved(None, None)
        each = recipe[2] // resolved.epochs  # iterations
        drops = tuple(epoch * each for epoch in resolved.lr_steps or ())
        warmup = resolved.lr_warmup_epochs * each
        assert (resolved.batch_size, resolved.lr, resolved.iterations, drops, warmup) == recipe
        assert name.split("-")[1] in resolved.detector or name == "salfmix-voc"
    with pytest.raises(UserError, match="--preset coco-fpn-3x is for the command detect; got train"):
        read_preset("coco-fpn-3x")


def test_the_help_has_all_options_and_no_others() -> None:
    text = build_parser(["detect"]).parse_args(["detect", "--short-sides", "8", "9", "--more-data", "a", "b"])
    assert (text.short_sides, text.more_data) == ([8, 9], ["a", "b"])
    with pytest.raises(SystemExit):
        build_parser(["detect"]).parse_args(["detect", "--method", "cutout"])
