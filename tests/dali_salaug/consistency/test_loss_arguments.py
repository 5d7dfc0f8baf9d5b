"""What the saliency-consistency loss refuses: arguments, layers and models."""

import pytest
import torch
from torch import nn

from dali_salaug import (
    Cutout,
    Draw,
    KeepPaste,
    RandomErasing,
    SaliencyConsistency,
)
from dali_salaug.methods.random_erasing import ErasingDraw

BOXES = torch.zeros(4, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        (["layer9"], "such as 'features', 'dropout', 'classifier'; got 'layer9'"),
        (["features.2", "idle"], r"does not run \['idle'\]"),
        (["twice"], "'twice' runs again"),
        (["pair"], "'pair' gives tuple"),
    ],
)
def test_layers_that_do_not_fit(small_net, layers, match):
    class Odd(type(small_net)):
        def forward(self, x):
            return self.pair(self.twice(self.twice(super().forward(x))))[0]

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    small_net.__class__ = Odd
    small_net.idle, small_net.twice, small_net.pair = nn.Identity(), nn.Identity(), Pair()
    if layers == ["layer9"]:
        match = match.replace("'classifier'", "'classifier', 'idle', 'twice', 'pair'")
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    with pytest.raises(ValueError, match=match):
        SaliencyConsistency(1, 1, 0, layers=layers)(small_net, images, images, labels)
    assert not any(module._forward_hooks for module in small_net.modules())


def test_models_that_cannot_be_differentiated_twice(small_net):
    images, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    compiled = torch.compile(small_net, backend="eager")
    with pytest.raises(
        ValueError, match=r"must not be compiled .* Give the module that was compiled, or a scale below"
    ):
        SaliencyConsistency()(compiled, images, images, labels)
    small_net.features[0].compile(backend="eager")
    with pytest.raises(ValueError, match="must not be compiled"):
        SaliencyConsistency()(small_net, images, images, labels)
    SaliencyConsistency(gamma=0)(small_net, images, images, labels)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(3)))
    for scale in (1, 0.5):
        with pytest.raises(ValueError, match=r"SyncBatchNorm .* Leave BatchNorm2d as it is"):
            SaliencyConsistency(scale=scale)(synchronised, images, images, labels)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"images": torch.zeros(4, 3, 8)}, "images must be"),
        ({"transformed": torch.zeros(4, 3, 8, 9)}, "transformed must be like images"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"labels must be an int64 tensor \(4,\)"),
        ({"matrices": torch.zeros(4, 3, 3)}, r"matrices must be a floating-point tensor \(4, 2, 3\)"),
        ({"method": Cutout()}, "by method and drawn, .* got method"),
        ({"method": Cutout(), "drawn": Draw(), "matrices": torch.zeros(4, 2, 3)}, "got matrices, method, drawn"),
        ({"method": "cutout", "drawn": Draw()}, "must be a Method and its Draw; got 'cutout'"),
        ({"method": KeepPaste(), "drawn": Draw()}, "method must make .* got KeepPaste"),
        (
            {
                "method": RandomErasing(),
                "drawn": ErasingDraw(torch.zeros(4, 4, dtype=torch.int64), torch.zeros(4, 3, 8, 8)),
            },
            "not from noise",
        ),
    ],
)
def test_arguments_of_the_call(small_net, arguments, match):
    images = torch.randn(4, 3, 8, 8)
    arguments = {"images": images, "transformed": images, "labels": torch.arange(4)} | arguments
    with pytest.raises(ValueError, match=match):
        SaliencyConsistency()(small_net, **arguments)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"alpha": -1}, "alpha must be"),
        ({"beta": "1"}, "beta must be"),
        ({"gamma": float("nan")}, "gamma must be"),
        ({"scale": 0}, r"scale must be a number in \(0, 1\]"),
        ({"layers": "layer4"}, "layers must be a list of names"),
        ({"layers": []}, "layers must be a list of names"),
        ({"label_smoothing": 2}, "label_smoothing must be"),
    ],
)
def test_options(options, match):
    with pytest.raises(ValueError, match=match):
        SaliencyConsistency(**options)
