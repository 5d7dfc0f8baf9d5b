"""BatchNorm of the saliency pass, which keeps the memory format: with the outputs and gradients of PyTorch's own."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from dali_salaug import saliency_map
from dali_salaug.saliency import observer
from dali_salaug.saliency.batch_norm import KeepsMemoryFormat


class Layouts(TorchDispatchMode):
    """Notes whether gradients arrive at convolutions channels-last; counts backward passes of PyTorch's BatchNorm."""

    def __init__(self):
        super().__init__()
        self.channels_last, self.own = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split(".")[0]
        if name == "aten::convolution_backward":
            self.channels_last.append(args[0].is_contiguous(memory_format=torch.channels_last))
        self.own += name in ("aten::native_batch_norm_backward", "aten::cudnn_batch_norm_backward")
        return func(*args, **(kwargs or {}))


class Net(nn.Module):
    """Convolutions, and BatchNorm of every kind: with and without weights, running statistics, and images."""

    def __init__(self):
        super().__init__()
        plain = nn.BatchNorm2d(6, eps=1e-3)
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3), plain, nn.ReLU(), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6, affine=False), nn.ReLU(),
            nn.Conv2d(6, 6, 1), plain, nn.ReLU(), nn.Conv2d(6, 6, 3), nn.SyncBatchNorm(6),
        )  # fmt: skip
        self.without = nn.BatchNorm2d(6, track_running_stats=False)
        self.flat = nn.BatchNorm1d(6)
        self.classifier = nn.Linear(6, 5)

    def forward(self, x):
        return self.classifier(self.flat(self.without(self.features(x)).relu().mean((2, 3))))


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = Net().to(memory_format=torch.channels_last)
    for layer in net.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            for tensor in (layer.weight, layer.bias):
                if tensor is not None:
                    nn.init.uniform_(tensor, -2, 2)
            if layer.running_var is not None:
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.2, 3)
    return net


@pytest.fixture
def everywhere(monkeypatch):
    monkeypatch.setattr(observer, "KEEPS_MEMORY_FORMAT", "cpu")


IMAGES = partial(torch.randn, 4, 3, 12, 10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["gradient", "guided", "grad_cam", "smoothgrad"])
def test_the_map_is_that_of_pytorch(net, monkeypatch, method, dtype):
    net, images, labels = net.to(dtype), IMAGES(dtype=dtype).to(memory_format=torch.channels_last), torch.arange(4)
    options = {"method": method, "scale": 1.0, "samples": 2}
    found = []
    for kind in ("cuda", "cpu"):
        monkeypatch.setattr(observer, "KEEPS_MEMORY_FORMAT", kind)
        with Layouts() as layouts:
            generator = torch.Generator().manual_seed(0)
            found.append((saliency_map(net, images, labels, generator=generator, **options), layouts.own))
    (expected, all_layers), (got, others) = found
    torch.testing.assert_close(got, expected)
    passes = 2 if method == "smoothgrad" else 1
    # Two layers have no statistics, or no images. Grad-CAM goes no further back than the last feature map.
    assert (all_layers, others) == ((1, 1) if method == "grad_cam" else (6 * passes, 2 * passes))


@pytest.mark.usefixtures("everywhere")
def test_the_gradients_stay_channels_last(net):
    images = IMAGES().to(memory_format=torch.channels_last)
    for dtype in (None, torch.bfloat16):
        with torch.autocast("cpu", dtype, enabled=dtype is not None), Layouts() as layouts:
            saliency_map(net, images, torch.arange(4), scale=1.0)
        assert layouts.channels_last[-3:] == [True] * 3


def test_outputs_and_gradients_of_the_layers(net):
    net.eval()
    for dtype in (torch.float32, torch.bfloat16):
        results = []
        for exchanged in (False, True):
            images = IMAGES(generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
            images.requires_grad_()
            tensors = {n: t.detach() for n, t in (*net.named_parameters(), *net.named_buffers())}
            mode = KeepsMemoryFormat() if exchanged else nullcontext()
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16), mode:
                logits = torch.func.functional_call(net, tensors, (images,))
            results.append((logits.detach(), torch.autograd.grad(logits[:, 0].sum(), images)[0]))
        (plain, by_plain), (logits, by_pixels) = results
        assert torch.equal(logits, plain)
        tolerance = 2**-6 if dtype == torch.bfloat16 else 1e-6
        assert (by_pixels - by_plain).norm() <= tolerance * by_plain.norm()


class Thrice(nn.Module):
    def forward(self, weight):
        return 3 * weight


class ByOne(nn.BatchNorm2d):
    """The weight counts from 1."""

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, 1 + self.weight, self.bias, eps=self.eps)


class OtherEps(nn.BatchNorm2d):
    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=0.5)


class Wrapped(nn.Sequential):
    def __init__(self, wrap, *layers):
        super().__init__(*layers)
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(super().forward)(x)


def _unusual(kind):
    first, second = (nn.BatchNorm2d(6) for _ in range(2))
    if kind == "parametrized":
        nn.utils.parametrize.register_parametrization(first, "weight", Thrice())
    elif kind == "shared weight":
        second.weight = first.weight
    elif kind == "shared statistics":
        second.running_var = first.running_var
    elif kind in ("other weight", "other eps"):
        second = (ByOne if kind == "other weight" else OtherEps)(6)
    layers = nn.Conv2d(3, 6, 3), first, nn.ReLU(), nn.Conv2d(6, 6, 3), second, nn.ReLU()
    if kind == "checkpoint":
        return Wrapped(lambda body: partial(checkpoint, body, use_reentrant=False), *layers)
    if kind == "vmap":
        return Wrapped(lambda body: lambda x: torch.vmap(body)(torch.stack([x, 2 * x])).sum(0), *layers)
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    "kind",
    [
        "parametrized", "shared weight", "shared statistics", "other weight", "other eps", "checkpoint", "vmap",
    ],
)  # fmt: skip
def test_unusual_layers(monkeypatch, kind):
    torch.manual_seed(0)
    features = _unusual(kind)
    for layer in features:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_var.uniform_(0.2, 3)
            nn.init.uniform_(next(layer.parameters()), -2, 2)
    net = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    net, images = net.to(memory_format=torch.channels_last), IMAGES().to(memory_format=torch.channels_last)
    found = []
    for device in ("cuda", "cpu"):
        monkeypatch.setattr(observer, "KEEPS_MEMORY_FORMAT", device)
        found.append(saliency_map(net, images, torch.arange(4), scale=1.0))
    torch.testing.assert_close(*found)


@pytest.mark.gpu
def test_on_a_gpu_no_gradient_is_transposed(net):
    images, labels = IMAGES(device="cuda").to(memory_format=torch.channels_last), torch.arange(4, device="cuda")
    with torch.autocast("cuda", torch.bfloat16), Layouts() as layouts:
        saliency_map(net.cuda(), images, labels, scale=1.0)
    assert layouts.channels_last[-3:] == [True] * 3
