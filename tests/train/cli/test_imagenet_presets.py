"""The recipes for ImageNet: one for all methods, fit for ResNet-50, and what a run of one writes gives it again."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dali_salaug import METHODS
from train.cli import presets
from train.config import Config, ResolvedConfig
from train.models.registry import build_model
from train.programs.train import main
from train.tasks.classification.stage import make_stage

PRESETS: dict[str, dict[str, Any]] = {
    name.removeprefix("imagenet-"): yaml.safe_load(path.read_text())
    for name, path in presets.PRESETS.items()
    if name.startswith("imagenet-")
}
OF_THE_METHOD = ("method", "region_size", "tau", "color_jitter", "saliency_scale")


def test_they_share_the_recipe_and_cover_every_kind_of_method() -> None:
    recipes = [{k: v for k, v in preset.items() if k not in OF_THE_METHOD} for preset in PRESETS.values()]
    assert all(recipe == recipes[0] for recipe in recipes)
    assert {METHODS[preset["method"]].kind for preset in PRESETS.values()} == {"one image", "two images", "policy"}
    assert (recipes[0]["epochs"], recipes[0]["batch_size"], recipes[0]["lr_per_256"]) == (300, 256, 0.1)


@pytest.mark.parametrize("name", PRESETS)
def test_the_stage_makes_the_inputs_of_a_resnet50(name: str) -> None:
    config = Config.from_dict(PRESETS[name]).resolved(side=224, embedded=False, cifar=False)
    stage = make_stage(config, 1000, seed=0, warmup_epochs=0)
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    augmented = images.flip(3) if config.policy else None
    trace = stage.trace(build_model(config.model, 1000, 224), images, torch.tensor([3, 7, 1, 9]), augmented)
    assert trace.inputs.shape == images.shape
    assert not torch.equal(trace.inputs, images)
    if stage.method.uses_saliency:
        assert trace.saliency is not None
        assert trace.saliency.shape == (4, 112, 112)


def test_the_config_of_a_run_repeats_it(shapes: Path, tmp_path: Path) -> None:
    """All but the size is the preset's: 48 images, two epochs, one drop of the learning rate within."""
    small: dict[str, Any] = {"model": "small", "image_size": 32, "batch_size": 16, "epochs": 2, "lr_steps": (1,)}
    given = PRESETS["keepautoaugment"] | small | {"region_size": 8, "device": "cpu", "data": str(shapes)}
    assert main(given | {"out": str(tmp_path / "one")}, resuming=False) == 0
    written = ResolvedConfig.load(tmp_path / "one" / "config.yaml").to_dict()
    written = {k: tuple(v) if isinstance(v, list) else v for k, v in written.items() if k != "task"}
    assert main(written | {"out": str(tmp_path / "two")}, resuming=False) == 0
    states = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("one", "two")]
    assert states[0]["config"] == states[1]["config"] | {"out": str(tmp_path / "one")}
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name
