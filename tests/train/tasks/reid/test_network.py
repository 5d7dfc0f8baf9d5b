"""The network: what each mode returns, the neck, the last stage's resolution, and which models have one."""

import pytest
import torch
from torch import nn

from dali_salaug import saliency_map
from train.errors import UserError
from train.models.registry import build_model
from train.tasks.reid.network import ReidModel, build_reid_model


def _model(name: str = "small", **options: int | None) -> ReidModel:
    return build_reid_model(name, 7, (32, 16), **({"last_stride": None} | options))


def test_each_mode() -> None:
    torch.manual_seed(0)
    model, images = _model(), torch.randn(4, 3, 32, 16)
    features, logits = model.train()(images)
    assert features.shape == (4, model.features)
    assert model.features == 128
    assert logits.shape == (4, 7)
    normal = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(logits, normal @ model.classifier.weight.mT, rtol=1e-3, atol=1e-5)
    model.eval()
    after = model.embed(images)
    torch.testing.assert_close(model(images), after @ model.classifier.weight.mT)
    assert saliency_map(model, images, torch.tensor([0, 1, 2, 3]), scale=0.5).shape == (4, 16, 8)


def test_neck_and_classifier_have_no_bias() -> None:
    model = _model().train()
    assert model.classifier.bias is None
    assert not model.neck.bias.requires_grad
    features, logits = model(torch.randn(4, 3, 32, 16))
    (features.sum() + logits.square().sum()).backward()
    assert model.neck.weight.grad is not None
    assert model.neck.bias.grad is None


@pytest.mark.parametrize(
    ("name", "last", "ratio"),
    [
        *(("resnet18", "layer4", 16), ("resnet50", "layer4", 16), ("resnet18_cifar", "layer4", 4), ("small", "9", 4)),
        *(("wrn28_2", "layer3", 2), ("resnet110_cifar", "layer3", 2), ("pyramidnet110_a64", "layer3", 2)),
    ],
)
def test_the_last_stage_keeps_its_resolution(name: str, last: str, ratio: int) -> None:
    for stride, by in ((1, ratio), (None, ratio), (2, 2 * ratio)):
        with torch.device("meta"):
            backbone = _model(name, last_stride=stride).backbone
        seen: list[torch.Size] = []
        backbone.get_submodule(last).register_forward_hook(
            lambda module, given, output, seen=seen: seen.append(output.shape)
        )
        backbone(torch.zeros(2, 3, 64, 32, device="meta"))
        assert seen[0][2:] == (64 // by, 32 // by)


def test_weights_are_as_many_as_without() -> None:
    """The stride alone changes, as in the authors' network, so that published weights fit."""
    ours, theirs = _model("resnet18").backbone.state_dict(), build_model("resnet18", 7, None).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in theirs.items() if not name.startswith("fc.")
    }


def test_other_models() -> None:
    model = _model("densenet121").eval()
    assert model.embed(torch.randn(2, 3, 64, 32)).shape == (2, 1024)
    with pytest.raises(UserError, match=r"--last-stride 1 needs a model whose stages are called layer1.*densenet121"):
        _model("densenet121", last_stride=1)
    with pytest.raises(UserError, match="squeezenet1_1 has a Conv2d as its head; re-identification needs"):
        _model("squeezenet1_1")
    with pytest.raises(UserError, match="--model resnet5000: no such model"):
        _model("resnet5000")
    assert not any(isinstance(module, nn.Linear) for module in _model().backbone.modules())
