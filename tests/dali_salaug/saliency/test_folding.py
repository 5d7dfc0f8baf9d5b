"""BatchNorm folded into convolutions: the same maps, the fewer operators, and what is left alone."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from dali_salaug import saliency_map
from dali_salaug.saliency import folding, observer

IMAGES = torch.randn(4, 3, 12, 10, generator=torch.Generator().manual_seed(1))


class Norms(TorchDispatchMode):
    """Counts the operators of BatchNorm, forwards and backwards."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "batch_norm" in func.name()
        return func(*args, **(kwargs or {}))


class Body(nn.Sequential):
    """Layers with a body of its own around their forward pass."""

    def __init__(self, body, *layers):
        super().__init__(*layers)
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def layers(**of_first):
    first = nn.BatchNorm2d(6, **{"eps": 1e-3} | of_first)
    return [nn.Conv2d(3, 6, 3, bias=False), first, nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, groups=2),
            nn.BatchNorm2d(6), nn.ReLU()]  # fmt: skip


def plain(self, x):
    return nn.Sequential.forward(self, x)


def used_twice(self, x):
    conv, norm, *rest = self
    x = conv(x)
    return nn.Sequential(*rest)(norm(x) + x)


def between(self, x):
    conv, norm, *rest = self
    return nn.Sequential(*rest)(norm(conv(x) * 2))


def repeated(self, x):
    conv, norm, relu, *rest = self
    return nn.Sequential(*rest)(relu(norm(conv(x))) + relu(norm(conv(x.flip(3)))))


def checkpointed(self, x):
    return checkpoint(partial(nn.Sequential.forward, self), x, use_reentrant=False)


def mapped(self, x):
    return torch.vmap(partial(nn.Sequential.forward, self))(torch.stack([x, 2 * x])).sum(0)


def other_weight(self, x):
    conv, norm, *rest = self
    return nn.Sequential(*rest)(
        F.batch_norm(conv(x), norm.running_mean, norm.running_var, 1 + norm.weight, norm.bias, eps=norm.eps)
    )


def net_of(body, *, dtype=torch.float32, **of_first):
    torch.manual_seed(0)
    net = nn.Sequential(Body(body, *layers(**of_first)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            if layer.weight is not None:
                nn.init.uniform_(layer.weight, -2, 2)
                nn.init.normal_(layer.bias)
            if layer.running_var is not None:
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.2, 3)
    return net.to(dtype).to(memory_format=torch.channels_last).train()


def map_of(net, images=IMAGES, **options):
    with Norms() as norms:
        dtype = next(net.parameters()).dtype
        return saliency_map(net, images.to(dtype), torch.arange(len(images)) % 4, scale=1.0, **options), norms.count


@pytest.mark.parametrize(
    ("body", "of_first", "left"),
    [
        (plain, {}, 0), (plain, {"affine": False}, 0), (plain, {"track_running_stats": False}, 2), (repeated, {}, 0),
        (used_twice, {}, 2), (between, {}, 2), (other_weight, {}, 2), (checkpointed, {}, 6), (mapped, {}, 4),
    ],
)  # fmt: skip
def test_the_map_is_that_without(monkeypatch, body, of_first, left):
    """Of each kind of use; `left` counts the operators of BatchNorm that stay, of two layers forwards and backwards."""
    net = net_of(body, dtype=torch.float64, **of_first)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    map_of(net)  # finds the pairs
    folded, count = map_of(net)
    assert count == left
    monkeypatch.setattr(observer, "FOLDS", False)
    expected, whole = map_of(net)
    assert whole > left or left >= 4
    torch.testing.assert_close(folded, expected)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_bias_that_batch_norm_adds(monkeypatch, dtype):
    """As on a GPU: its kernel runs forwards, never backwards."""
    net = net_of(plain)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        map_of(net)
        monkeypatch.setattr(folding, "ADDS_APART", "cpu")
        folded, count = map_of(net)
        monkeypatch.setattr(observer, "FOLDS", False)
        expected, _ = map_of(net)
    assert count == 2
    assert (folded - expected).norm() < (1e-5 if dtype is None else 0.02) * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_reduced_precision_nothing_is_folded(dtype):
    net = net_of(plain, dtype=dtype)
    map_of(net)
    assert (map_of(net)[1] == 0) == (dtype == torch.float32)


def test_under_autocast(monkeypatch):
    """A layer that leaves autocast, too, gets weights of the type that its images have."""
    net = net_of(partly_outside)
    found = []
    with torch.autocast("cpu", torch.bfloat16):
        for folds in (True, False):
            monkeypatch.setattr(observer, "FOLDS", folds)
            map_of(net)
            found.append(map_of(net)[0])
    folded, expected = found
    assert (folded - expected).norm() < 0.02 * expected.norm()


def partly_outside(self, x):
    inside, outside = nn.Sequential(*list(self)[:3]), nn.Sequential(*list(self)[3:])
    x = inside(x)
    with torch.autocast("cpu", enabled=False):
        return outside(x.float())


def test_published_networks(monkeypatch):
    for name, layers_of_it in (("resnet18", 20), ("mobilenet_v2", 52), ("densenet121", 59)):
        torch.manual_seed(0)
        net, images = torchvision.models.get_model(name, num_classes=4).double(), torch.randn(2, 3, 64, 64)
        monkeypatch.setattr(observer, "FOLDS", True)
        map_of(net, images)
        assert len(folding._PAIRS[net]) == layers_of_it, name
        found = []
        for folds in (True, False):
            monkeypatch.setattr(observer, "FOLDS", folds)
            found.append(map_of(net, images)[0])
        torch.testing.assert_close(*found)


def test_the_first_map_is_as_the_next(monkeypatch):
    """A resumed run, whose first pass is another run's tenth, has the same map to the last bit."""
    net = net_of(plain)
    assert torch.equal(map_of(net)[0], map_of(net)[0])


def test_a_hook_sees_what_each_layer_returns():
    net, seen = net_of(plain), []
    with torch.no_grad():
        expected = net.eval()[0][0](IMAGES)
    handle = net[0][0].register_forward_hook(lambda layer, inputs, output: seen.append(output.detach()))
    assert map_of(net)[1] > 0
    [output] = seen
    torch.testing.assert_close(output, expected)
    handle.remove()
    map_of(net)
    assert map_of(net)[1] == 0
    assert len(seen) == 1


def test_another_path_than_before_is_noticed(monkeypatch):
    """The output of the first convolution now goes elsewhere too: nothing is folded any more."""
    net = net_of(plain, dtype=torch.float64)
    map_of(net)
    net[0].body = between
    got, count = map_of(net)
    monkeypatch.setattr(observer, "FOLDS", False)
    torch.testing.assert_close(got, map_of(net)[0])
    assert count > 0
    assert folding._PAIRS[net] == []


def test_the_random_state_and_the_draws_of_dropout_stay():
    net = nn.Sequential(*layers(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    map_of(net)
    assert torch.equal(torch.get_rng_state(), before)
