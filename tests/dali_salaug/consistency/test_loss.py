"""The saliency-consistency loss: its value and gradient against a loop over images, and what it leaves behind."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dali_salaug import (
    BoxDraw,
    CutMix,
    Cutout,
    Draw,
    Mixup,
    SaliencyConsistency,
    saliency_map,
)
from dali_salaug.consistency.map_geometry import map_distance, scaled
from dali_salaug.consistency.second_order import TwiceDifferentiable
from dali_salaug.methods.mixing import BoxPairDraw
from dali_salaug.methods.mixup import MixupDraw

FLIP = [[-1.0, 0, 8], [0, 1, 0]]
BOXES = torch.tensor([[0, 0, 3, 4], [2, 2, 6, 8], [1, 1, 1, 1], [0, 0, 6, 2]])


class SmoothNet(nn.Module):
    """Small and smooth; without ``batch_norm`` an image's logits depend on that image alone."""

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if batch_norm else nn.Identity()
        self.second = nn.Conv2d(4, 6, 3, stride=2)
        self.classifier = nn.Linear(6, 5)

    def forward(self, x):
        x = F.softplus(self.norm(self.first(x)), beta=5)
        return self.classifier(F.softplus(self.second(x), beta=5).mean((2, 3)))


def batch(size=(6, 8), count=4):
    images = torch.randn(count, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(count) % 5


def told(kind, images):
    """The transformed images, and how the loss is told of what was done; some matrices and boxes by hand."""
    count = len(images)
    partners = torch.arange(count).roll(1)
    weights = torch.stack([torch.linspace(0, 1, count), 1 - torch.linspace(0, 1, count)], 1)
    if kind == "flip":
        return images.flip(-1), {"matrices": torch.tensor([FLIP] * count)}
    if kind == "contrast":
        return 1.5 * images, {}
    method, drawn = {
        "cutout": (Cutout(4), BoxDraw(BOXES)),
        "cutmix": (CutMix(5), BoxPairDraw(partners=partners, boxes=BOXES)),
        "mixup": (Mixup(5), MixupDraw(partners=partners, weights=weights)),
    }[kind]
    return method.apply(images, drawn, None), {"method": method, "drawn": drawn}


KINDS = ["flip", "contrast", "cutout", "cutmix", "mixup"]


def one_hot(labels):
    return torch.eye(5, dtype=torch.float64)[labels]


def by_a_loop(net, images, transformed, labels, kind, *, alpha, beta, gamma):
    """One image at a time, by PyTorch's own double backward; the net must not couple the images."""

    def saliency(image, weights):
        leaf = image[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad((net(leaf)[0] * weights).sum(), leaf, create_graph=True)
        return gradient[0].abs().max(0).values

    def unit(values):
        return (values - values.min()) / (values.max() - values.min())

    count = len(images)
    soft = one_hot(labels)
    if kind in ("cutmix", "mixup"):
        _, how = told(kind, images)
        drawn = how["drawn"]
        if kind == "mixup":
            own = drawn.weights[:, 0].double()
        else:
            own = torch.tensor(
                [1 - (low - top) * (right - left) / 48 for top, left, low, right in drawn.boxes.tolist()]
            ).double()
        soft = own[:, None] * soft + (1 - own)[:, None] * soft[drawn.partners]
    maps = [unit(saliency(image, weights)) for image, weights in zip(images, one_hot(labels), strict=True)]
    parts = torch.zeros(3, dtype=torch.float64)
    for i in range(count):
        own, other = net(images[i : i + 1])[0], net(transformed[i : i + 1])[0]
        parts[0] -= (one_hot(labels)[i] * own.log_softmax(0)).sum() / (2 * count)
        parts[0] -= (soft[i] * other.log_softmax(0)).sum() / (2 * count)
        parts[1] += (own - other).square().mean() / count
        got = saliency(transformed[i], soft[i])
        expected = maps[i]
        if kind == "flip":
            got = got.flip(-1)
        if kind in ("cutout", "cutmix"):
            expected = expected.clone()
            top, left, bottom, right = told(kind, images)[1]["drawn"].boxes[i].tolist()
            content = 0 if kind == "cutout" else maps[i - 1][top:bottom, left:right]
            expected[top:bottom, left:right] = content
        if kind == "mixup":
            share = i / (count - 1)
            expected = share * expected + (1 - share) * maps[i - 1]
        parts[2] += (unit(expected) - unit(got)).square().mean() / count
    return parts, alpha * parts[0] + beta * parts[1] + gamma * parts[2]


def gradients(net, loss):
    net.zero_grad()
    loss.backward()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in net.parameters()])


@pytest.mark.parametrize("weights", [(1, 0, 1), (0.5, 2, 3), (0, 0, 1)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_a_loop(kind, weights):
    torch.manual_seed(0)
    net = SmoothNet().double()
    images, labels = batch()
    transformed, how = told(kind, images)
    parts, total = by_a_loop(
        net, images, transformed, labels, kind, **dict(zip(("alpha", "beta", "gamma"), weights, strict=True))
    )
    loss = SaliencyConsistency(*weights)(net, images, transformed, labels, **how)
    tolerance = {"rtol": 1e-6, "atol": 1e-8}  # the soft targets are float32
    torch.testing.assert_close(loss.total, total, **tolerance)
    torch.testing.assert_close(loss.classification, parts[0], **tolerance)
    torch.testing.assert_close(loss.saliency, parts[2], **tolerance)
    if weights[1]:
        torch.testing.assert_close(loss.invariance, parts[1], **tolerance)
    else:
        assert loss.invariance is None
    assert not any(part.requires_grad for part in loss[1:] if part is not None)
    expected, got = gradients(net, total), gradients(net, loss.total)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


def test_the_batch_statistics_are_differentiated():
    """With BatchNorm in training mode: against PyTorch's own double backward of the batch, and finite differences."""
    torch.manual_seed(1)
    net = SmoothNet(batch_norm=True).double()
    images, labels = batch()
    consistency, matrices = SaliencyConsistency(0, 0, 1), torch.tensor([FLIP] * 4)

    def reference():
        leaf = torch.cat([images, images.flip(-1) + 0.1]).requires_grad_()
        scalar = net(leaf).gather(1, labels.repeat(2)[:, None]).sum()
        own, other = torch.autograd.grad(scalar, leaf, create_graph=True)[0].abs().amax(1).chunk(2)
        return map_distance(own, other.flip(-1), torch.ones_like(own, dtype=torch.bool))

    def loss():
        return consistency(net, images, images.flip(-1) + 0.1, labels, matrices=matrices).total

    torch.testing.assert_close(loss(), reference())
    got = gradients(net, loss())
    torch.testing.assert_close(got, gradients(net, reference()))
    direction = torch.randn(got.numel(), dtype=torch.float64)
    moved = []
    start = nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    for step in (1e-6, -1e-6):
        nn.utils.vector_to_parameters(start + step * direction, net.parameters())
        moved.append(loss().item())
    assert (moved[0] - moved[1]) / 2e-6 == pytest.approx((got @ direction).item(), rel=1e-4)


def test_a_network_that_turns_with_the_images_has_no_saliency_loss():
    """Flips, of a network that cannot tell them: the maps come back exactly. With the matrix left out, not so."""
    torch.manual_seed(0)
    net = SmoothNet()
    with torch.no_grad():
        for layer in (net.first, net.second):
            layer.weight += layer.weight.flip(-1)
    for scale, width in ((1, 9), (0.5, 18)):  # of the maps' 9 columns the strides are symmetric
        images, labels = (t.float() if t.is_floating_point() else t for t in batch((14, width)))
        matrices = torch.tensor([[[-1.0, 0, width], [0, 1, 0]]] * 4)
        consistency = SaliencyConsistency(scale=scale)
        assert consistency(net, images, images.flip(-1), labels, matrices=matrices).saliency < 1e-8
        assert consistency(net, images, images.flip(-1), labels).saliency > 1e-3


def test_maps_below_scale_1_are_those_of_saliency_map():
    """In eval mode, where saliency_map computes; and the buffers are updated by the full images alone."""
    torch.manual_seed(0)
    net = SmoothNet(batch_norm=True).eval()
    images, labels = (t.float() if t.is_floating_point() else t for t in batch((12, 16)))
    transformed, boxes = images.clone(), torch.tensor([[2, 2, 8, 10]] * 4)
    transformed[:, :, 2:8, 2:10] = 0
    loss = SaliencyConsistency(scale=0.5)(net, images, transformed, labels, method=Cutout(6), drawn=BoxDraw(boxes))
    own, other = saliency_map(net, images, labels, scale=0.5), saliency_map(net, transformed, labels, scale=0.5)
    whole = torch.ones_like(own, dtype=torch.bool)
    own = scaled(own, whole)
    own[:, 1:4, 1:5] = 0
    torch.testing.assert_close(loss.saliency, map_distance(own, other, whole))


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 0, 0)], ids=str)
@pytest.mark.parametrize("scale", [1, 0.5])
def test_the_plain_step_is_the_same_but_for_gradients(small_net, scale, weights):
    """Logits' loss, the statistics of BatchNorm, the random state, hooks and modes: as after the model's forward."""
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    small_net.dropout.p = 0.5 if scale == 1 else 0.0  # a pass of its own draws noise of its own
    state = {name: value.clone() for name, value in small_net.state_dict().items()}
    torch.manual_seed(5)
    expected = F.cross_entropy(small_net(torch.cat([images, 2 * images])), labels.repeat(2), label_smoothing=0.1)
    buffers = {name: value.clone() for name, value in small_net.named_buffers()}
    random_state = torch.get_rng_state()
    small_net.load_state_dict(state)

    before = images.clone()
    torch.manual_seed(5)
    consistency = SaliencyConsistency(*weights, scale=scale, layers=["features", "classifier"], label_smoothing=0.1)
    loss = consistency(small_net, images, 2 * images, labels)
    torch.testing.assert_close(loss.classification, expected)
    loss.total.backward()
    for name, buffer in small_net.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(images, before)
    assert images.grad is None
    assert not any(module._forward_hooks for module in small_net.modules())
    assert all(module.training for module in small_net.modules())
    assert (loss.saliency is None) == (weights[2] == 0)


def test_invariance_compares_the_layers_outputs():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(5)]
    net = nn.Sequential(*layers)
    images, labels = torch.randn(4, 3, 5, 6), torch.tensor([0, 1, 2, 3])
    both = torch.cat([images, images + 1])
    normalised = net[:2](both)
    logits = net[2:](normalised.clone())
    distances = [F.mse_loss(output[:4], output[4:]) for output in (normalised, logits)]
    got = SaliencyConsistency(0, 1, 0, layers=("1", "4"))(net, images, images + 1, labels)
    torch.testing.assert_close(got.invariance, sum(distances) / 2)
    torch.testing.assert_close(got.total, got.invariance)
    torch.testing.assert_close(SaliencyConsistency(0, 1, 0)(net, images, images + 1, labels).invariance, distances[1])


def test_measured_without_a_graph(small_net):
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    small_net.eval()
    consistency, matrices = SaliencyConsistency(1, 1, 1), torch.tensor([FLIP] * 4)
    expected = consistency(small_net, images, images.flip(-1), labels, matrices=matrices)
    with torch.no_grad():
        got = consistency(small_net, images, images.flip(-1), labels, matrices=matrices)
    assert expected.total.requires_grad
    assert not got.total.requires_grad
    torch.testing.assert_close(tuple(got), tuple(part.detach() for part in expected))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1, 0.5])
def test_it_does_not_wait(no_waiting, small_net, device, kind, scale):
    small_net.to(device)
    images, labels = (t.float().to(device) if t.is_floating_point() else t.to(device) for t in batch())
    transformed, how = told(kind, images.cpu())

    def on_device(value):
        if isinstance(value, Draw):
            return type(value)(**{name: part.to(device) for name, part in vars(value).items()})
        return value.to(device) if isinstance(value, torch.Tensor) else value

    transformed, how = transformed.to(device), {name: on_device(value) for name, value in how.items()}
    consistency = SaliencyConsistency(1, 1, 1, scale=scale, layers=["features"])
    consistency(small_net, images, transformed, labels, **how).total.backward()
    with no_waiting():
        consistency(small_net, images, transformed, labels, **how).total.backward()
    assert all(p.grad.isfinite().all() for p in small_net.parameters())


@pytest.mark.parametrize("scale", [1, 0.5])
def test_under_autocast(small_net, device, scale, monkeypatch):
    """The matrices keep their precision; the gradient is as near to float32's as PyTorch's own in bfloat16 is."""
    small_net.to(device).dropout.p = 0.0
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(8, 3, 32, 32, generator=generator).to(device), torch.arange(8, device=device) % 5
    matrices = torch.tensor([[[-1.0, 0, 32], [0, 1, 0]]] * 8, device=device)

    def step(reduced):
        with torch.autocast(device, torch.bfloat16, enabled=reduced):
            consistency = SaliencyConsistency(0, 0, 1, scale=scale)
            loss = consistency(small_net, images, images.flip(-1), labels, matrices=matrices)
        assert loss.total.dtype == torch.float32
        return loss.saliency, gradients(small_net, loss.total)

    (expected, exact), (got, gradient) = step(False), step(True)
    torch.testing.assert_close(got, expected, rtol=0.1, atol=0)
    monkeypatch.setattr(TwiceDifferentiable, "__torch_function__", lambda self, f, t, a=(), k=None: f(*a, **(k or {})))
    _, plain = step(True)
    near, plainly_near = (F.cosine_similarity(exact, other, dim=0) for other in (gradient, plain))
    assert near > plainly_near - 0.05


def test_attention_is_differentiated_twice():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.classifier = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)

        def forward(self, x):
            x = self.embed(x).flatten(2).transpose(1, 2)[:, None]
            return self.classifier(F.scaled_dot_product_attention(x, x, x)[:, 0].mean(1))

    net, images = Attending(), torch.randn(4, 3, 16, 16)
    SaliencyConsistency()(net, images, 2 * images, torch.arange(4)).total.backward()
    assert net.embed.weight.grad.any()


def test_a_compiled_model_below_scale_1(small_net):
    """aot_eager refuses second derivatives as the compilers for machines do, and needs none of them installed."""
    small_net.dropout.p = 0.0
    images, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    consistency = SaliencyConsistency(scale=0.5)
    expected = gradients(small_net, consistency(small_net, images, 2 * images, labels).total)
    compiled = torch.compile(small_net, backend="aot_eager")
    got = gradients(small_net, consistency(compiled, images, 2 * images, labels).total)
    torch.testing.assert_close(got, expected)
