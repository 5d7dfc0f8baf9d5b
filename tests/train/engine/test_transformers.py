"""Models that take images of one size: every default works, and what cannot is refused with what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from dali_salaug import saliency_map
from train.__main__ import main as program
from train.config import Config, ResolvedConfig
from train.data.loaders import resolve_for_data
from train.engine import checkpoint
from train.engine.run import Run
from train.errors import UserError
from train.models import registry


def torchvisions_vit(num_classes: int) -> nn.Module:
    sizes: dict[str, int] = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    return torchvision.models.VisionTransformer(image_size=32, num_classes=num_classes, **sizes)


def timms_vit(num_classes: int) -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=num_classes
    )


def timms_swin(num_classes: int) -> nn.Module:
    timm = pytest.importorskip("timm")
    sizes: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4}
    return timm.models.SwinTransformer(img_size=32, patch_size=4, num_classes=num_classes, **sizes)


def torchvisions_swin(num_classes: int) -> nn.Module:
    """It pads images of any size."""
    sizes: dict[str, Any] = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": [4, 4]}
    return torchvision.models.SwinTransformer([4, 4], num_classes=num_classes, **sizes)


MODELS = {
    "torchvision-vit": torchvisions_vit,
    "timm-vit": timms_vit,
    "timm-swin": timms_swin,
    "torchvision-swin": torchvisions_swin,
}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, build in MODELS.items():
        monkeypatch.setitem(registry.OWN, name, build)


@pytest.mark.parametrize("name", MODELS)
def test_every_default(name: str, shapes: Path) -> None:
    """The images are of 64×64 pixels; of a model that takes any size, the map is reduced."""
    config = resolve_for_data(Config(data=str(shapes), model=name))
    fixed = name != "torchvision-swin"
    assert (config.image_size, config.saliency_scale) == ((32, 1) if fixed else (64, 0.5))
    assert resolve_for_data(Config(data=str(shapes), model=name, saliency_scale=0.25)).saliency_scale == 0.25


@pytest.mark.parametrize("early_head", ["off", "auto"])
@pytest.mark.parametrize("name", MODELS)
def test_a_step(name: str, early_head: str, run_of: Callable[..., Run]) -> None:
    run = run_of(model=name, image_size=32, device="cpu", method="keep_cutout", early_head=early_head, layer_decay=0.9)
    batch = next(iter(run.train_loader))
    before = [p.detach().clone() for p in run.network.module.parameters()]
    assert run.train_step(iter([batch]))["loss"].isfinite()
    assert sum(not torch.equal(p, q) for p, q in zip(run.network.module.parameters(), before, strict=True)) > 10
    scale = run.config.saliency_scale
    saliency = saliency_map(run.model, batch.images, batch.labels, head=run.network.early, scale=scale)
    assert saliency.shape == (8, round(32 * scale), round(32 * scale))
    assert saliency.amax((1, 2)).min() > 0


def test_a_run_says_that_its_maps_are_of_full_size(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """With a picture, and a log of the share in the regions; then `show` draws another method."""
    words = ["--data", str(shapes), "--model", "torchvision-vit", "--epochs", "1", "--batch-size", "24"]
    assert program([*words, "--device", "cpu", "--out", str(tmp_path / "run")]) == 0
    output = capsys.readouterr()
    line = "torchvision-vit takes no smaller images: its maps have full resolution (--saliency-scale 1)"
    assert line in output.out.splitlines()
    assert "warning" not in output.err
    config = ResolvedConfig.load(tmp_path / "run" / "config.yaml")
    assert (config.image_size, config.saliency_scale) == (32, 1)
    picture = str(tmp_path / "picture.png")
    assert program(["show", str(tmp_path / "run"), "--method", "salfmix", "--count", "1", "--out", picture]) == 0
    assert checkpoint.load(tmp_path / "run" / "best.pt")["resize_to"] == 32


def test_what_a_model_of_one_size_cannot_do(run_of: Callable[..., Run]) -> None:
    options = {"model": "timm-vit", "device": "cpu", "method": "keep_cutout"}
    with pytest.raises(
        UserError, match=r"on images of --image-size 48: .* Choose another --image-size \(it takes 32\)"
    ):
        run_of(**options, image_size=48)
    with pytest.raises(UserError, match="a larger --saliency-scale such as 1, another --saliency"):
        run_of(**options, image_size=32, saliency_scale=0.5)
    with pytest.raises(UserError, match=r"--early-head head: it must name a module that puts out .* tokens"):
        run_of(**options, image_size=32, early_head="head")
    with pytest.raises(UserError, match=r"auto: --image-size must be a size that the model takes; it does not take 48"):
        run_of(**options, image_size=48, early_head="auto")
