"""The sizes that models take, without computing anything: found on the meta device, compared with the models' own."""

from typing import Any

import pytest
import torch
import torchvision

from train.config import Config
from train.models import registry
from train.models.sizes import map_scale, only_side, takes


def tiny_vit(num_classes: int) -> torch.nn.Module:
    sizes: dict[str, int] = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    return torchvision.models.VisionTransformer(image_size=96, num_classes=num_classes, **sizes)


def only_own_sizes(num_classes: int) -> torch.nn.Module:
    """A model whose weights cannot be without values."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, num_classes))
    float(model[1].weight.detach().sum())
    return model


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.OWN, "tiny", tiny_vit)
    monkeypatch.setitem(registry.OWN, "unknown", only_own_sizes)


@pytest.mark.parametrize(
    ("name", "side"),
    [("tiny", 96), ("vit_b_32", 224), ("small", None), ("resnet18", None), ("alexnet", None), ("unknown", None)],
)
def test_the_only_side(name: str, side: int | None) -> None:
    before = torch.get_rng_state()
    assert only_side(name) == side
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "side"), [("vit_tiny_patch16_224", 224), ("test_vit", None)])
def test_the_only_side_of_timms(name: str, side: int | None) -> None:
    """The second is built with `dynamic_img_size`."""
    pytest.importorskip("timm")
    assert only_side(f"timm/{name}") == side


def test_what_is_taken() -> None:
    model = tiny_vit(3).eval()
    assert [side for side in (32, 64, 96, 128) if takes(model, (side, side))] == [96]
    assert not model.training
    with torch.device("meta"):
        alexnet = torchvision.models.alexnet(num_classes=3)
    assert [side for side in (32, 62, 63, 96) if takes(alexnet, (side, side))] == [63, 96]


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({"model": "tiny", "image_size": 96}, 1.0),
        ({"model": "tiny", "image_size": 96, "saliency_scale": 0.5}, 0.5),  # as stated; the trial refuses it
        ({"model": "tiny", "image_size": 64}, 0.5),  # the size is at fault, which the trial tells
        ({"model": "small", "image_size": 32}, 0.5),
        ({"model": "unknown", "image_size": 16}, 0.5),
        ({"model": "alexnet", "image_size": 64}, 1.0),  # which needs 63 pixels
        ({"model": "small", "image_size": 32, "method": "snapmix"}, 1.0),  # the method's own
    ],
)
def test_the_scale_of_the_map(options: dict[str, Any], scale: float) -> None:
    config = Config(**options)
    assert map_scale(config, config.resolved(side=64, embedded=False, cifar=False)) == scale
