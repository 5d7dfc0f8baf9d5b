"""The saliency map: what all methods share, and the values of "gradient" against a per-image loop and captum."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dali_salaug import saliency_map
from dali_salaug.saliency import maps as saliency
from dali_salaug.saliency.maps import METHODS


def oracle(model, images, labels, target, scale):
    """One image at a time, in eval mode."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    maps = []
    for image, label in zip(images, labels, strict=True):
        size = [round(side * scale) for side in image.shape[-2:]]
        pixels = image[None]
        if scale != 1:
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
        pixels = pixels.detach().clone().requires_grad_(True)
        logits = model(pixels)[0]
        if target == "label":
            scalar = logits[label]
        elif target == "max":
            scalar = max(logits, key=lambda logit: logit.item())
        else:
            scalar = -(logits[label] - logits.exp().sum().log())
        scalar.backward()
        maps.append(torch.stack([pixels.grad[0, :, i].abs().max(0).values for i in range(size[0])]))
    model.zero_grad()
    for module, mode in modes:
        module.training = mode
    return torch.stack(maps)


@pytest.mark.parametrize("shape", [(16, 16), (15, 22)])
@pytest.mark.parametrize("scale", [1.0, 0.5, 0.3])
@pytest.mark.parametrize("target", ["label", "max", "loss"])
def test_equals_a_loop_over_images_in_float64(small_net, target, scale, shape):
    small_net.double()
    images = torch.randn(6, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    got = saliency_map(small_net, images, labels, target=target, scale=scale)
    expected = oracle(small_net, images, labels, target, scale)
    assert got.dtype == torch.float32
    assert not got.requires_grad
    assert got.shape == (6, round(shape[0] * scale), round(shape[1] * scale))
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-12)


def test_equals_captums_saliency(small_net):
    attr = pytest.importorskip("captum.attr", reason="needs captum, of the test dependencies")
    images = torch.randn(4, 3, 16, 16)
    labels = torch.tensor([3, 0, 2, 1])
    got = saliency_map(small_net, images, labels, scale=1.0)
    small_net.eval()
    expected = attr.Saliency(small_net).attribute(images.clone().requires_grad_(), target=labels, abs=True).amax(1)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("scale", [0.5, 0.3, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_a_map_depends_on_its_own_image_alone(small_net, method, scale):
    def maps():
        generator = torch.Generator().manual_seed(0)
        return saliency_map(small_net, images, labels, method=method, scale=scale, samples=2, generator=generator)

    images, labels = torch.randn(4, 3, 15, 22), torch.tensor([0, 1, 2, 3])
    before = maps()
    assert before.dtype == torch.float32
    assert before.shape == (4, round(15 * scale), round(22 * scale))
    assert before.min() >= 0
    images[1:] = torch.randn(3, 3, 15, 22) * 7 + 3
    after = maps()
    torch.testing.assert_close(after[0], before[0])
    # DeconvNet's rule sees of an image only what max pooling chooses, and this network has none.
    assert torch.allclose(after[1:], before[1:], rtol=1e-4) == (method == "deconvnet")


@pytest.mark.parametrize("target", ["label", "max"])
@pytest.mark.parametrize("method", METHODS)
def test_the_pieces_of_a_batch_on_the_cpu_give_the_maps_of_the_whole(small_net, monkeypatch, method, target):
    def maps(piece):
        monkeypatch.setattr(saliency, "PIECE", piece)
        torch.manual_seed(0)
        passes.clear()
        return saliency_map(small_net, images, labels, method=method, target=target, samples=2)

    images, labels, passes = torch.randn(5, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4]), []
    small_net.features.register_forward_hook(lambda m, args, out: passes.append(len(out)))
    maps(5 * 8 * 8)  # the first search for grad_cam's layer takes a pass of its own
    whole, runs = maps(5 * 8 * 8), len(passes)
    assert set(passes) <= {5}
    pieces = maps(2 * 8 * 8)
    assert passes == [2, 2, 1] * runs
    torch.testing.assert_close(pieces, whole)
    one_each = maps(1)
    assert passes == [1] * 5 * runs
    torch.testing.assert_close(one_each, whole)


@pytest.mark.parametrize("method", METHODS)
def test_max_needs_no_labels(small_net, method):
    saliency = saliency_map(small_net, torch.randn(2, 3, 16, 16), method=method, target="max", samples=2)
    assert saliency.shape == (2, 8, 8)


def test_max_looks_at_no_labels(small_net, monkeypatch):
    monkeypatch.setattr(saliency, "PIECE", 64)
    images = torch.randn(2, 3, 16, 16)
    got = saliency_map(small_net, images, [0, 1], target="max")
    torch.testing.assert_close(got, saliency_map(small_net, images, target="max"))


def test_a_head_computes_the_logits_in_the_models_place(small_net):
    head = nn.Sequential(small_net.features[0], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    images, labels = torch.randn(3, 3, 16, 16), torch.tensor([0, 1, 2])
    got = saliency_map(small_net, images, labels, head=head, scale=1.0)
    torch.testing.assert_close(got, oracle(head, images, labels, "label", 1.0))


def test_a_first_layer_may_work_in_place(small_net):
    images, labels = torch.randn(2, 3, 16, 16), torch.tensor([0, 1])
    before = images.clone()
    got = saliency_map(nn.Sequential(nn.ReLU(inplace=True), small_net), images, labels, scale=1.0)
    expected = saliency_map(nn.Sequential(nn.ReLU(), small_net), images, labels, scale=1.0)
    torch.testing.assert_close(got, expected)
    assert torch.equal(images, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_where_the_model_is_confident(small_net, dtype):
    """Loss gradients of a confident model are under float16's smallest number; the map must not be zero."""
    images, labels = torch.randn(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64)
    with torch.no_grad():
        small_net.classifier.weight *= 1e-3
        small_net.classifier.bias.copy_(torch.tensor([15.0, 0, 0, 0, 0]))
    exact = saliency_map(small_net, images, labels, target="loss")
    assert 0 < exact.max() < 2**-25
    with torch.autocast("cpu", dtype=dtype):
        autocast = saliency_map(small_net, images, labels, target="loss")
    small_net.to(dtype)
    half = saliency_map(small_net, images.to(dtype), labels, target="loss")
    for got in (autocast, half):
        assert got.dtype == torch.float32
        correlation = torch.corrcoef(torch.stack([got.flatten(), exact.flatten()]))[0, 1]
        assert correlation > 0.98


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_of_every_method(small_net, method, dtype):
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 5
    exact = saliency_map(small_net, images, labels, method=method, samples=2)
    with torch.autocast("cpu", dtype=dtype):
        autocast = saliency_map(small_net, images, labels, method=method, samples=2)
    small_net.to(dtype)
    half = saliency_map(small_net, images.to(dtype), labels, method=method, samples=2)
    for got in (autocast, half):
        assert got.dtype == torch.float32
        assert torch.corrcoef(torch.stack([got.flatten(), exact.flatten()]))[0, 1] > 0.98


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: saliency_map(m, x), "labels must be given for target 'label'"),
        (lambda m, x, y: saliency_map(m, x, y[:1]), r"labels must be an int64 tensor \(2,\)"),
        (lambda m, x, y: saliency_map(m, x, y > 1), "labels must be an int64 tensor"),
        (lambda m, x, y: saliency_map(m, x.byte(), y), "images must be floating point and normalised"),
        (lambda m, x, y: saliency_map(m, x, y, method="magic"), "method must be one of 'gradient', .*; got 'magic'"),
        (lambda m, x, y: saliency_map(m, x, y, target="top"), "target must be one of 'label', 'max', 'loss'"),
        (lambda m, x, y: saliency_map(m, x, y, samples=0), "samples must be a whole number, 1 or more; got 0"),
        (lambda m, x, y: saliency_map(m, x, y, samples=2.0), "samples must be a whole number, 1 or more; got 2.0"),
        (lambda m, x, y: saliency_map(m, x, y, noise=-0.1), r"noise must be a number in \[0, inf\]; got -0.1"),
        (lambda m, x, y: saliency_map(m, x, y, generator=3), "generator must be a torch.Generator or None; got 3"),
        (lambda m, x, y: saliency_map(m, x, y, layer=m.features), "layer must be the name of a submodule or None"),
        (lambda m, x, y: saliency_map(m, x, y, compiled="yes"), "compiled must be False, or True with .*; got 'yes'"),
        (
            lambda m, x, y: saliency_map(m, x, y, compiled=True, method="grad_cam"),
            r"a method of gradient, smoothgrad .*; got True with method 'grad_cam'",
        ),
        (lambda m, x, y: saliency_map(m, x[0], method="fine_grained"), "images must be a floating-point tensor"),
        (lambda m, x, y: saliency_map(None, x, y), "model must be a torch.nn.Module; got None"),
        (lambda m, x, y: saliency_map(m, x, y, scale=0), r"scale must be a number in \(0, 1\]; got 0"),
        (lambda m, x, y: saliency_map(m, x, y, scale=2), r"scale must be a number in \(0, 1\]; got 2"),
        (lambda m, x, y: saliency_map(m.forward, x, y), "model must be a torch.nn.Module"),
        (lambda m, x, y: saliency_map(m.features, x, y), r"model must return logits \(2, K\)"),
        (lambda m, x, y: saliency_map(Detached(), x, y), "model must be differentiable"),
        (lambda m, x, y: saliency_map(FixedSize(), x, y), r"reduced to 8×8 pixels \(scale=0.5\).*scale=1.0"),
        (lambda m, x, y: saliency_map(Asserting(), x, y), r"(?s)reduced to 8×8 pixels .* needs 16 pixels.*scale=1.0"),
    ],
)
def test_bad_arguments_are_named(small_net, call, message):
    with pytest.raises(ValueError, match=message):
        call(small_net, torch.randn(2, 3, 16, 16), torch.tensor([0, 1]))


def test_an_error_of_the_model_itself_is_not_blamed_on_the_size():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        saliency_map(FixedSize(side=20), torch.randn(2, 3, 16, 16), torch.tensor([0, 1]), scale=1.0)


class Detached(nn.Module):
    def forward(self, x):
        return x.detach().mean((2, 3))


class FixedSize(nn.Module):
    def __init__(self, side: int = 16) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * side * side, 5)

    def forward(self, x):
        return self.linear(x.flatten(1))


class Asserting(nn.Module):
    def forward(self, x):
        assert x.shape[-1] == 16, "needs 16 pixels"
        return x.mean((2, 3))


@pytest.mark.parametrize("error", [RuntimeError, ValueError, AssertionError])
def test_an_error_that_is_not_of_the_size_is_not_called_one(error):
    """Only where the model runs at the full size is the reduced size to blame."""

    class Broken(nn.Module):
        def __init__(self, smallest):
            super().__init__()
            self.smallest = smallest

        def forward(self, x):
            if x.shape[-1] < self.smallest:
                raise error("the model's own words")
            return x.mean((2, 3)) * 2

    images = torch.randn(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"cannot take the images reduced to 8×8 pixels .*the model's own words"):
        saliency_map(Broken(16), images, target="max")
    with pytest.raises(error, match=r"^the model's own words$"):
        saliency_map(Broken(1000), images, target="max")
