"""SmoothGrad, guided backpropagation and DeconvNet: against loops in float64, and captum."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dali_salaug import saliency_map

LABELS = torch.tensor([3, 0, 2, 1])


def draw_images(dtype=torch.float32, shape=(4, 3, 16, 16)):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def scalar_of(logits, label, target):
    """For one image. The cross-entropy has a minus sign: evidence for the label is positive."""
    return {"label": logits[label], "max": max(logits), "loss": logits.log_softmax(0)[label]}[target]


class Rectified(torch.autograd.Function):
    """ReLU with the backward rules as the papers write them."""

    @staticmethod
    def forward(ctx, x, rule):
        ctx.save_for_backward(x)
        ctx.rule = rule
        return x * (x > 0)

    @staticmethod
    def backward(ctx, incoming):
        (x,) = ctx.saved_tensors
        passed = incoming * (incoming > 0)
        return (passed * (x > 0) if ctx.rule == "guided" else passed), None


class Rectifier(nn.Module):
    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, x):
        return Rectified.apply(x, self.rule)


class ResidualNet(nn.Module):
    """ReLU after convolutions, after a sum, between linear layers; each by a function that is given."""

    def __init__(self, first, second, third):
        super().__init__()
        torch.manual_seed(5)
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.block = nn.Conv2d(6, 6, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(6, 8)
        self.classifier = nn.Linear(8, 4)
        self.first, self.second, self.third = first, second, third

    def forward(self, x):
        x = self.first(self.stem(x))
        x = self.pool(self.second(x + self.block(x)))
        return self.classifier(self.third(self.hidden(x.mean((2, 3)))))


def relu_net(relu=nn.ReLU):
    return ResidualNet(relu(), relu(), relu())


@pytest.mark.parametrize("scale", [0.5, 1.0])
@pytest.mark.parametrize("target", ["label", "max", "loss"])
@pytest.mark.parametrize("method", ["guided", "deconvnet"])
def test_relu_rules_equal_a_loop_in_float64(method, target, scale):
    images = draw_images(torch.float64, (4, 3, 14, 18))
    reference = relu_net(lambda: Rectifier(method)).double().eval()
    expected = []
    for image, label in zip(images, LABELS, strict=True):
        pixels = image[None]
        if scale != 1:
            pixels = F.interpolate(pixels, (7, 9), mode="bicubic", antialias=True)
        pixels = pixels.clone().requires_grad_()
        scalar_of(reference(pixels)[0], label, target).backward()
        expected.append(pixels.grad[0].abs().max(0).values)
    got = saliency_map(relu_net().double(), images, LABELS, method=method, target=target, scale=scale)
    torch.testing.assert_close(got.double(), torch.stack(expected), rtol=1e-6, atol=1e-12)
    plain = saliency_map(relu_net().double(), images, LABELS, target=target, scale=scale)
    assert not torch.allclose(got, plain, rtol=0.1)


@pytest.mark.parametrize(("method", "name"), [("guided", "GuidedBackprop"), ("deconvnet", "Deconvolution")])
def test_relu_rules_equal_captums(method, name):
    attr = pytest.importorskip("captum.attr", reason="needs captum, of the test dependencies")
    net, images = relu_net(), draw_images()
    got = saliency_map(net, images, LABELS, method=method, scale=1.0)
    with pytest.warns(UserWarning, match="Setting .*hooks on ReLU"):
        expected = getattr(attr, name)(net).attribute(images.clone().requires_grad_(), target=LABELS)
    torch.testing.assert_close(got, expected.abs().amax(1))


@pytest.mark.parametrize(
    "relu",
    [
        nn.ReLU(inplace=True),
        F.relu,
        lambda x: F.relu(x, inplace=True),
        torch.relu,
        torch.relu_,
        lambda x: x.relu(),
        lambda x: x.relu_(),
        torch.ops.aten.relu,
    ],
    ids=["in_place", "F.relu", "F.relu_in_place", "torch.relu", "torch.relu_", "relu", "relu_", "aten"],
)
@pytest.mark.parametrize("method", ["guided", "deconvnet"])
def test_relu_is_found_however_it_is_called(method, relu):
    """One module or function in three places, too."""
    images = draw_images()
    got = saliency_map(ResidualNet(relu, relu, relu), images, LABELS, method=method)
    torch.testing.assert_close(got, saliency_map(relu_net(), images, LABELS, method=method))


@pytest.mark.parametrize("method", ["guided", "deconvnet"])
def test_a_model_without_relu_is_refused(method):
    with pytest.raises(ValueError, match=f"method '{method}' needs a model that uses ReLU"):
        saliency_map(relu_net(nn.ReLU6), draw_images(), LABELS, method=method)


@pytest.mark.parametrize("scale", [0.5, 1.0])
@pytest.mark.parametrize("target", ["label", "max", "loss"])
def test_smoothgrad_equals_a_loop_in_float64(small_net, target, scale):
    """The noise is injected by the generator: one draw of the map's shape for each sample."""
    images = draw_images(torch.float64, (4, 3, 14, 18))
    small_net.double()
    got = saliency_map(
        small_net, images, LABELS, method="smoothgrad", target=target, scale=scale, samples=3, noise=0.2,
        generator=torch.Generator().manual_seed(7),
    )  # fmt: skip
    small_net.eval()
    pixels = images if scale == 1 else F.interpolate(images, (7, 9), mode="bicubic", antialias=True)
    generator = torch.Generator().manual_seed(7)
    noises = [torch.randn(pixels.shape, dtype=torch.float64, generator=generator) for _ in range(3)]
    expected = []
    for i, image in enumerate(pixels):
        sigma = 0.2 * (image.max() - image.min())
        total = torch.zeros_like(image)
        for normal in noises:
            copy = (image + sigma * normal[i]).requires_grad_()
            scalar_of(small_net(copy[None])[0], LABELS[i], target).backward()
            total += copy.grad.abs()
            copy.grad = None
        expected.append((total / 3).max(0).values)
    torch.testing.assert_close(got.double(), torch.stack(expected), rtol=1e-6, atol=1e-12)


def test_smoothgrad_equals_captums_noise_tunnel(small_net):
    """Captum draws the noise of all samples of an image in one go from the global generator: the same numbers."""
    attr = pytest.importorskip("captum.attr", reason="needs captum, of the test dependencies")
    for image, label in zip(draw_images(), LABELS, strict=True):
        got = saliency_map(
            small_net, image[None], label[None], method="smoothgrad", scale=1.0, samples=6, noise=0.1,
            generator=torch.Generator().manual_seed(2),
        )  # fmt: skip
        small_net.eval()
        torch.manual_seed(2)
        expected = attr.NoiseTunnel(attr.Saliency(small_net)).attribute(
            image[None].clone().requires_grad_(),
            nt_type="smoothgrad",
            nt_samples=6,
            stdevs=(0.1 * (image.max() - image.min())).item(),
            target=int(label),
        )
        torch.testing.assert_close(got, expected.amax(1).detach())


def test_smoothgrad_without_noise_is_the_gradient(small_net):
    images = draw_images()
    got = saliency_map(small_net, images, LABELS, method="smoothgrad", samples=2, noise=0.0)
    torch.testing.assert_close(got, saliency_map(small_net, images, LABELS))


def test_smoothgrads_generator_goes_on_and_the_global_one_stays(small_net):
    def smooth(generator=None):
        return saliency_map(small_net, images, LABELS, method="smoothgrad", samples=2, generator=generator)

    images, generator = draw_images(), torch.Generator().manual_seed(4)
    state = torch.get_rng_state()
    first, second = smooth(generator), smooth(generator)
    assert not torch.equal(first, second)
    assert torch.equal(first, smooth(torch.Generator().manual_seed(4)))
    by_global = smooth()
    assert torch.equal(by_global, smooth())
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(1)
    assert not torch.equal(by_global, smooth())
