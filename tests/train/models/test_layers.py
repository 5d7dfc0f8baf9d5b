"""The head of a model, its layers by depth, and a trunk that does not train."""

import pytest
import torch
import torchvision
from torch import nn

from train.errors import UserError
from train.models.layers import freeze_trunk, head_of, layers_by_depth, set_training
from train.models.registry import build_model


def layer_names(model: nn.Module, num_classes: int) -> list[list[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(p)] for p in layer] for layer in layers_by_depth(model, head_of(model, num_classes))]


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("small", ["12"]),
        ("wrn28_2", ["fc"]),
        ("resnet18", ["fc"]),
        ("squeezenet1_1", ["classifier.1"]),  # a convolution
        ("vit_b_16", ["heads.head"]),
        ("maxvit_t", ["classifier.5"]),
        ("timm/deit_tiny_distilled_patch16_224", ["head", "head_dist"]),
        ("timm/test_efficientnet", ["classifier"]),
    ],
)
def test_the_head(name: str, head: list[str]) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with torch.device("meta"):
        model = build_model(name, 7, None)
    assert head_of(model, 7) == head


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(UserError, match="no linear layer or convolution with 7 outputs"):
        head_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 5)), 7)


@pytest.mark.parametrize(
    "name", ["test_vit", "resnet18", "test_convnext", "test_efficientnet", "swin_tiny_patch4_window7_224"]
)
def test_layers_of_timm_are_timms(name: str) -> None:
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7)
    layers = layers_by_depth(model, head_of(model, 7))
    scales = {id(p): 0.5**depth for depth, layer in enumerate(reversed(layers)) for p in layer}
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    expected = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert scales == expected
    assert len(set(scales.values())) > 3


def test_layers_of_torchvision_are_blocks() -> None:
    with torch.device("meta"):
        resnet, vit = torchvision.models.resnet50(num_classes=7), torchvision.models.vit_b_32(num_classes=7)
        swin, densenet = torchvision.models.swin_t(num_classes=7), torchvision.models.densenet121(num_classes=7)
    layers = layer_names(resnet, 7)
    blocks = [f"layer{stage}.{k}" for stage, count in ((1, 3), (2, 4), (3, 6), (4, 3)) for k in range(count)]
    assert layers[0] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert layers[-1] == ["fc.weight", "fc.bias"]
    assert [{".".join(name.split(".")[:2]) for name in layer} for layer in layers[1:-1]] == [{b} for b in blocks]

    layers = layer_names(vit, 7)
    assert layers[0] == ["class_token", "conv_proj.weight", "conv_proj.bias", "encoder.pos_embedding"]
    assert [layer[0] for layer in layers[1:-1]] == [f"encoder.layers.encoder_layer_{k}.ln_1.weight" for k in range(12)]
    assert layers[-2][-2:] == ["encoder.ln.weight", "encoder.ln.bias"]
    assert (len(layer_names(swin, 7)), len(layer_names(densenet, 7))) == (1 + 12 + 3 + 1, 1 + 58 + 3 + 1)


@pytest.mark.parametrize("name", ["small", "preactresnet18", "pyramidnet110_a64"])
def test_every_parameter_is_in_one_layer(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name, 7, 32)
    names = [name for layer in layer_names(model, 7) for name in layer]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def test_a_frozen_trunk_keeps_its_statistics() -> None:
    model = build_model("small", 5, 16)
    freeze_trunk(model, head_of(model, 5))
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["12.weight", "12.bias"]
    images = torch.randn(4, 3, 16, 16)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    logits = set_training(model, frozen_trunk=True)(images)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    torch.testing.assert_close(logits, model.eval()(images))  # it has no dropout
    set_training(model, frozen_trunk=False)(images)
    assert not any(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(module.training for module in model.modules())
