"""The saliency pass is a pure observer: all that must be the same after it, whatever the model wears."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dali_salaug import WithEarlyHead, saliency_map
from dali_salaug.saliency import observer
from dali_salaug.saliency.maps import METHODS
from dali_salaug.saliency.observer import unwrap


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Counting(nn.Module):
    """Writes into a buffer at each call, in eval mode too, and draws random numbers in eval mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return self.inner(x + 1e-3 * torch.randn_like(x))


class KeepsBatchNormInEval(nn.Module):
    """Overrides train(), as fine-tuning code does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.train()

    def train(self, mode: bool = True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.training = False
        return self

    def forward(self, x):
        return self.inner(x)


def plain(net):
    return net


def frozen(net):
    for p in net.features.parameters():
        p.requires_grad_(False)
    net.features.eval()
    return net


def compiled(net):
    return torch.compile(net, backend="aot_eager")


def compiled_in_place(net):
    net.compile(backend="aot_eager")
    return net


def compiled_part(net):
    net.features = torch.compile(net.features, backend="aot_eager")
    return net


def tied(net):
    net.features.append(copy.deepcopy(net.features[3]))
    net.features[-1].weight = net.features[3].weight
    return net


def weight_normed(net):
    nn.utils.parametrizations.weight_norm(net.classifier)
    return net


def ddp(net):
    return DistributedDataParallel(net)


def ddp_of_compiled(net):
    return DistributedDataParallel(torch.compile(net, backend="aot_eager"))


WRAPPERS = [
    plain,
    Counting,
    KeepsBatchNormInEval,
    frozen,
    compiled,
    compiled_in_place,
    compiled_part,
    tied,
    weight_normed,
    ddp,
    ddp_of_compiled,
]


def snapshot(model):
    return {
        "parameters": {n: (p.detach().clone(), p.requires_grad) for n, p in model.named_parameters()},
        "identities": {n: (id(p), p._version) for n, p in model.named_parameters()},
        "gradients": {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "buffers": {n: b.clone() for n, b in model.named_buffers()},
        "modes": [m.training for m in model.modules()],
        "hooks": [
            [len(hooks) for name, hooks in sorted(vars(m).items()) if name.endswith("_hooks")] for m in model.modules()
        ],
        "random": torch.get_rng_state(),
    }


def assert_same(before, after):
    assert before["identities"] == after["identities"]
    assert before["modes"] == after["modes"]
    assert before["hooks"] == after["hooks"]
    for what in ("parameters", "gradients", "buffers", "random"):
        torch.testing.assert_close(before[what], after[what], rtol=0, atol=0)


# Each two of wrapper, context and method together, beside the plain model, no context, or the gradient.
ACCUMULATIONS = [
    (wrap, context, method)
    for wrap in WRAPPERS
    for context in ("", "no_grad", "inference", "autocast")
    for method in METHODS
    if wrap is plain or context == "" or method == "gradient"
]


def step(model, images, labels):
    nn.functional.cross_entropy(model(images), labels).backward()


@pytest.mark.parametrize(
    ("wrap", "context", "method"), ACCUMULATIONS, ids=lambda value: getattr(value, "__name__", value)
)
def test_changes_nothing_in_the_middle_of_gradient_accumulation(small_net, process_group, wrap, context, method):
    model = wrap(small_net)
    model.train()
    if wrap is frozen:
        unwrap(model).features.eval()
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=context == "autocast"):
        step(model, images, labels)
        before, pixels = snapshot(model), images.clone()
        contexts = {"no_grad": torch.no_grad(), "inference": torch.inference_mode()}
        with contexts.get(context, torch.enable_grad()):
            saliency = saliency_map(model, images, labels, method=method, samples=2)
        assert saliency.max() > 0
        assert saliency.dtype == torch.float32
        assert not saliency.requires_grad
        assert_same(before, snapshot(model))
        assert torch.equal(images, pixels)
        assert images.grad is None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda wrap: wrap.__name__)
def test_the_training_step_after_it_is_the_same_to_the_bit(small_net, process_group, wrap, method):
    """Dropout masks, BatchNorm statistics and gradients of a step with a look before it equal those without."""
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    results = []
    for look in (False, True):
        model = wrap(copy.deepcopy(small_net))
        torch.manual_seed(3)
        for _ in range(2):
            if look:
                saliency_map(model, images, labels, method=method, samples=2)
            step(model, images, labels)
        results.append(snapshot(model))
    for what in ("gradients", "buffers", "random"):
        torch.testing.assert_close(results[0][what], results[1][what], rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "densenet121", "swin_t"])
def test_torchvisions_models_are_only_observed(name, method):
    """Dropout, stochastic depth, in-place activations, layer norms: in real networks."""
    torch.manual_seed(1)  # at some, all evidence speaks against the label
    model = torchvision.models.get_model(name, weights=None, num_classes=4)
    images, labels = torch.randn(2, 3, 64, 64), torch.tensor([0, 3])
    before = snapshot(model)
    if method in ("guided", "deconvnet") and name in ("efficientnet_b0", "swin_t"):
        with pytest.raises(ValueError, match="uses ReLU"):  # they have SiLU and GELU
            saliency_map(model, images, labels, method=method)
    else:
        assert saliency_map(model, images, labels, method=method, samples=2).max() > 0
    assert_same(before, snapshot(model))


@pytest.mark.parametrize("method", ["gradient", "smoothgrad", "guided", "deconvnet", "grad_cam"])
def test_changes_nothing_when_the_model_fails(small_net, method):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small_net

        def forward(self, x):
            self.inner(x)
            raise RuntimeError("out of order")

    model = Failing()
    images = torch.randn(2, 3, 16, 16)
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="out of order"):
        saliency_map(model, images, torch.tensor([0, 1]), method=method, scale=1.0)
    assert_same(before, snapshot(model))


@pytest.mark.parametrize(
    ("method", "passes"),
    [("gradient", 1), ("smoothgrad", 2), ("guided", 1), ("deconvnet", 1), ("grad_cam", 2), ("fine_grained", 0)],
)
def test_computes_no_parameter_gradients(small_net, method, passes):
    """No parameter takes part in the pass's graph, so no gradient of one can have been computed.

    The first of Grad-CAM's two passes finds the layer, once for a size of images.
    """
    seen = []
    for module in small_net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, args, out: seen.append((m.weight.requires_grad, out.requires_grad)))
    saliency_map(small_net, torch.randn(2, 3, 16, 16), torch.tensor([0, 1]), method=method, samples=2)
    assert seen == [(False, True)] * 3 * passes


@pytest.fixture
def without_code_generation(monkeypatch):
    """The compiled pass with the graphs that dynamo and autograd make of it, run by torch's own kernels."""
    torch._dynamo.reset()
    call = torch.compile(lambda module, images: module(images), backend="aot_eager", dynamic=False, fullgraph=True)
    monkeypatch.setattr(observer, "_compiled_call", lambda: call)
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("wrap", "method"),
    [*((wrap, "gradient") for wrap in WRAPPERS), (plain, "smoothgrad"), (ddp_of_compiled, "smoothgrad")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_compiled_pass_is_the_same_and_changes_nothing(
    small_net, process_group, without_code_generation, wrap, method
):
    """In one graph, not compiled anew when the weights have moved or training steps come between."""
    model = wrap(small_net)
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    options = {"method": method, "samples": 2}
    saliency_map(model, images, labels, compiled=True, **options)
    step(model, images, labels)
    with torch._dynamo.config.patch(error_on_recompile=True):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.01 * torch.randn_like(p))
        step(model, images, labels)
        expected = saliency_map(model, images, labels, **options)
        before, pixels = snapshot(model), images.clone()
        got = saliency_map(model, images, labels, compiled=True, **options)
        assert_same(before, snapshot(model))
    assert torch.equal(images, pixels)
    torch.testing.assert_close(got, expected)


def test_the_compiled_pass_computes_no_parameter_gradients(small_net, without_code_generation):
    seen = []

    def backend(graph, inputs):
        seen.append(sum(t.requires_grad for t in inputs))
        return graph.forward

    call = torch.compile(lambda module, images: module(images), backend=backend, dynamic=False, fullgraph=True)
    observer._compiled_call = lambda: call  # put back by the fixture
    saliency_map(small_net, torch.randn(2, 3, 16, 16), torch.tensor([0, 1]), compiled=True)
    assert seen == [1]  # the images alone


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_leaves_the_random_state_of_the_gpu_alone(small_net, method):
    model = Counting(small_net).cuda()
    images, labels = torch.randn(2, 3, 16, 16, device="cuda"), torch.arange(2, device="cuda")
    state = torch.cuda.get_rng_state()
    saliency_map(model, images, labels, method=method)
    assert torch.equal(state, torch.cuda.get_rng_state())


@pytest.mark.parametrize("early", [False, True])
def test_the_compiled_pass_does_not_wait(small_net, inductor, no_waiting, early):
    """With inductor's kernels, under bfloat16 autocast: close to the eager map, whose kernels round differently."""
    device = inductor
    model = small_net.to(device, memory_format=torch.channels_last)
    head = WithEarlyHead(model, 5, after="features").early if early else None
    images, labels = torch.randn(8, 3, 64, 64, device=device), torch.arange(8, device=device) % 5
    with torch.autocast(device, dtype=torch.bfloat16):
        expected = saliency_map(model, images, labels, head=head)
        saliency_map(model, images, labels, head=head, compiled=True)
        with no_waiting():
            got = saliency_map(model, images, labels, head=head, compiled=True)
    assert torch.corrcoef(torch.stack([got.flatten(), expected.flatten()]))[0, 1] > 0.95


def test_the_cache_of_parametrizations_is_left_alone():
    """Weights that the pass had put there would carry no gradient into the step."""
    from torch.nn.utils import parametrizations, parametrize

    torch.manual_seed(0)
    convolution = parametrizations.weight_norm(nn.Conv2d(3, 5, 3))
    net = nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    F.cross_entropy(net(images), labels).backward()
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    with parametrize.cached():
        before = net[0].weight
        saliency_map(net, images, labels)
        assert net[0].weight is before
        F.cross_entropy(net(images), labels).backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, expected[name])
    with parametrize.cached():
        saliency_map(net, images, labels)
        F.cross_entropy(net(images), labels).backward()
    assert all(p.grad is not None for p in net.parameters())
