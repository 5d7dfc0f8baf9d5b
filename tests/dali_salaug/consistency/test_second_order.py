"""The derivatives of TwiceDifferentiable's pixel gradient are those of PyTorch's own, and cost fewer operators."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dali_salaug.consistency.second_order import TwiceDifferentiable


class EveryKind(nn.Module):
    """Convolutions strided, dilated, grouped, with and without bias or "same"; BatchNorms of all forms; smooth."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(3, 4, 3, 2, 1, bias=False),
                nn.BatchNorm2d(4),
                nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2),
                nn.BatchNorm2d(8, affine=False, eps=0.3),
                nn.Conv2d(8, 8, (1, 3), padding="same", groups=8),
                nn.BatchNorm2d(8, track_running_stats=False),
                nn.Conv2d(8, 4, 1, padding=1, padding_mode="circular"),
                nn.BatchNorm2d(4).eval(),
            ]
        )
        self.classifier = nn.Linear(4, 3)

    def forward(self, x):
        for layer in self.layers:
            x = F.softplus(layer(x))
        return self.classifier(x.mean((2, 3)))


class Plain:
    """PyTorch's own derivatives, with the same interface."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def pixel_gradient(self, scalar, pixels):
        return torch.autograd.grad(scalar, pixels, create_graph=True)[0]


def gradients(net, pixels, second_order, *, class_weight=0.7):
    net.zero_grad()
    pixels = pixels.clone().requires_grad_()
    with second_order as context:
        logits = net(pixels)
    gradient = context.pixel_gradient(logits[:, 0].sum(), pixels)
    weights = torch.linspace(-1, 1, pixels.numel(), dtype=pixels.dtype, device=pixels.device).view_as(pixels)
    loss = (weights * gradient).sum() + gradient.square().sum()
    labels = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)
    (loss + class_weight * F.cross_entropy(logits, labels)).backward()
    # Copies: a network that is moved or cast takes its gradients along.
    found = {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}
    return found | {"pixels": pixels.grad, "gradient": gradient.detach()}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("class_weight", [0, 0.7])
def test_derivatives_are_those_of_pytorch(class_weight, layout):
    torch.manual_seed(0)
    net = EveryKind().double().to(memory_format=layout)
    pixels = (2 * torch.randn(4, 3, 9, 10, dtype=torch.float64) + 1).to(memory_format=layout)
    expected = gradients(net, pixels, Plain(), class_weight=class_weight)
    got = gradients(net, pixels, TwiceDifferentiable(), class_weight=class_weight)
    assert got.keys() == expected.keys()
    for name in expected:
        if expected[name] is None:  # the last bias, without the class loss
            assert got[name] is None or not got[name].any()
        else:
            torch.testing.assert_close(
                got[name], expected[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_gradgradcheck():
    torch.manual_seed(0)
    net = EveryKind().double()
    names, values = zip(*net.named_parameters(), strict=True)
    pixels = torch.randn(2, 3, 5, 4, dtype=torch.float64)

    def pixel_gradient(*values):
        leaf = pixels.clone().requires_grad_()
        with TwiceDifferentiable() as second_order:
            logits = torch.func.functional_call(net, dict(zip(names, values, strict=False)), (leaf,))
        return second_order.pixel_gradient((logits * torch.tensor([1.0, -2.0, 0.5])).sum(), leaf)

    values = tuple(value.detach().clone().requires_grad_() for value in values[:-1])  # the last bias moves no gradient
    torch.autograd.gradcheck(pixel_gradient, values)


def test_derivatives_by_other_means(small_net):
    """An ordinary backward pass, and one with a graph that autograd is asked for elsewhere, are what they are."""
    net = small_net.double()
    net.dropout.p = 0.0
    pixels, labels = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    weight = net.features[0].weight

    def penalty(context):
        with context:
            loss = F.cross_entropy(net(pixels.clone().requires_grad_()), labels)
        (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
        return gradient, torch.autograd.grad(gradient.square().sum(), weight)[0]

    for got, expected in zip(penalty(TwiceDifferentiable()), penalty(Plain()), strict=True):
        torch.testing.assert_close(got, expected)


def test_a_third_derivative_is_refused(small_net):
    pixels = torch.randn(4, 3, 8, 8, requires_grad=True)
    with TwiceDifferentiable() as second_order:
        logits = small_net(pixels)
    gradient = second_order.pixel_gradient(logits.sum(), pixels)
    (second,) = torch.autograd.grad(gradient.square().sum(), small_net.features[0].weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()


def test_statistics_are_updated_as_ever(small_net):
    pixels = torch.randn(4, 3, 8, 8)
    before = {name: buffer.clone() for name, buffer in small_net.named_buffers()}
    small_net(pixels)
    expected = {name: buffer.clone() for name, buffer in small_net.named_buffers()}
    small_net.load_state_dict(before, strict=False)
    with TwiceDifferentiable():
        small_net(pixels)
    for name, buffer in small_net.named_buffers():
        assert torch.equal(buffer, expected[name])


@pytest.mark.parametrize("mean", [0, 300])
def test_autocast(device, mean):
    """In bfloat16, also where a channel's mean is far from 0, as near to float64 as PyTorch's own derivatives are."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Softplus(), nn.Conv2d(8, 4, 3), nn.Flatten())
    net[0].bias.data += mean
    pixels = torch.randn(8, 3, 6, 6)
    exact = gradients(net.double(), pixels.double(), Plain(), class_weight=0)
    net, pixels = net.float().to(device), pixels.to(device)

    def error(second_order):
        with torch.autocast(device, torch.bfloat16):
            got = gradients(net, pixels, second_order, class_weight=0)
        names = [name for name, value in exact.items() if value is not None and name != "gradient"]
        return {n: (got[n].cpu().double() - exact[n]).norm() / exact[n].norm() for n in names if exact[n].norm() > 1e-9}

    ours, plain = error(TwiceDifferentiable()), error(Plain())
    assert ours.keys() == plain.keys()
    for name in ours:
        assert ours[name] < 1.5 * plain[name] + 0.02, (name, ours[name], plain[name])
