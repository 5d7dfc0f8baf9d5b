"""Models by name: shapes at both resolutions, sizes, and the answer to an unknown name."""

import importlib.util

import pytest
import torch

from dali_salaug import WithEarlyHead
from train.errors import UserError
from train.models.registry import FIRST_BLOCK, build_model
from train.models.small import Residual


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "side"), [("small", 32), ("small", 64), ("resnet18_cifar", 32), ("resnet18", 64)])
def test_logits_at_both_resolutions(name: str, side: int) -> None:
    model = build_model(name, 7, side).eval().to(memory_format=torch.channels_last)
    for size in (side, side // 2):
        images = torch.randn(2, 3, size, size).to(memory_format=torch.channels_last)
        assert model(images).shape == (2, 7)


def test_sizes() -> None:
    assert parameters(build_model("resnet18_cifar", 10, 32)) == 11_173_962  # the literature's 11.17 M
    assert parameters(build_model("small", 10, 32)) == 486_938
    assert parameters(build_model("resnet18", 1000, 224)) == 11_689_512  # torchvision's documentation


def test_resnet18_cifar_keeps_the_resolution_in_its_stem() -> None:
    model = build_model("resnet18_cifar", 10, 32)
    stem = torch.nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool, model.layer1)
    assert stem(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 32, 32)


@pytest.mark.parametrize("name", ["googlenet", "vit_b_16"])
def test_models_with_a_form_of_their_own(name: str) -> None:
    model = build_model(name, 3, 64)
    assert model.train()(torch.randn(2, 3, 64, 64)).shape == (2, 3)


def test_an_unknown_name_is_answered_with_the_closest() -> None:
    with pytest.raises(UserError, match=r"--model resnet_50: no such model.*resnet50.*small, resnet18_cifar"):
        build_model("resnet_50", 10, 224)


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_a_missing_timm_is_named() -> None:
    with pytest.raises(UserError, match="pip install timm"):
        build_model("timm/resnet10t", 10, 64)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize("name", ["timm/resnet18", "resnet10t"])
def test_timm(name: str) -> None:
    assert build_model(name, 5, 64).eval()(torch.randn(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize(("name", "channels"), [("small", 32), ("resnet18_cifar", 64)])
def test_where_the_first_block_of_the_own_models_ends(name: str, channels: int) -> None:
    network = WithEarlyHead(build_model(name, 7, 32), 7, FIRST_BLOCK.get(name))
    assert network.classifier.in_features == channels
    if name == "small":
        assert isinstance(network.model.get_submodule(network.after), Residual)
