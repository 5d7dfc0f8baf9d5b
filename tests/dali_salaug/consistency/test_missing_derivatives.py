"""Layers without a second derivative: exchanged where there is a form that has one, else refused by a sentence."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from dali_salaug import SaliencyConsistency

LABELS = torch.arange(4)


class Activated(nn.Module):
    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.features, self.classifier, self.function = nn.Conv2d(3, 6, 3), nn.Linear(6, 4), function

    def forward(self, x):
        return self.classifier(self.function(self.features(x)).mean((2, 3)))


class Checkpointed(Activated):
    def forward(self, x):
        return self.classifier(checkpoint(self.features, x, use_reentrant=True).relu().mean((2, 3)))


class Detached(Activated):
    def forward(self, x):
        return super().forward(x.detach())


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


def test_hardsigmoid_has_one():
    """PyTorch's has none; MobileNetV3 is made of it."""
    images, gradients = torch.randn(4, 3, 8, 8), []
    for function in (F.hardsigmoid, lambda x: (x + 3).clamp(0, 6) / 6):
        net = Activated(function)
        SaliencyConsistency()(net, images, images.flip(3), LABELS).total.backward()
        gradients.append([p.grad for p in net.parameters()])
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected)
    net = torchvision.models.mobilenet_v3_small(num_classes=4)
    SaliencyConsistency()(net, torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32), LABELS).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_model_without_one_is_answered_with_what_to_do():
    images = torch.randn(4, 3, 8, 8)
    once = Activated(Square.apply)
    without = Activated(torch.ops.aten.hardsigmoid.default)  # past the exchange
    for net in (once, without):
        with pytest.raises(
            ValueError, match=r"model must have second derivatives .* Exchange the layer, or set gamma=0"
        ):
            SaliencyConsistency()(net, images, images, LABELS)
    with pytest.raises(ValueError, match=r"model must have second derivatives .*use_reentrant=False.*gamma=0"):
        SaliencyConsistency()(Checkpointed(F.relu), images, images, LABELS)
    SaliencyConsistency(gamma=0, beta=1)(without, images, images, LABELS).total.backward()


def test_a_model_that_detaches_the_images_is_not_said_to_lack_second_derivatives():
    images = torch.randn(4, 3, 8, 8)
    with pytest.raises(ValueError, match=r"model must be differentiable with respect to the images; .* detach"):
        SaliencyConsistency()(Detached(F.relu), images, images, LABELS)


@pytest.mark.parametrize("scale", [1, 0.5])
def test_float16_is_refused_where_it_would_be_differentiated_twice(scale):
    net, images = Activated(F.relu), torch.randn(4, 3, 16, 16)
    consistency, message = SaliencyConsistency(scale=scale), "float16. Use bfloat16, or set gamma=0"
    with torch.autocast("cpu", torch.float16), pytest.raises(ValueError, match=message):
        consistency(net, images, images, LABELS)
    with pytest.raises(ValueError, match=message):
        consistency(net.half(), images.half(), images.half(), LABELS)
    loss = SaliencyConsistency(gamma=0, beta=1)(net, images.half(), images.half(), LABELS)
    assert loss.total.isfinite()
    with torch.autocast("cpu", torch.bfloat16):
        assert consistency(net.float(), images, images, LABELS).total.isfinite()
