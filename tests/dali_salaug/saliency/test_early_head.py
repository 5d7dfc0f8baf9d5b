"""The early head: its map, its training, and that it leaves the model as it was."""

import copy
import gc
import weakref

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dali_salaug import KeepCutout, SaliencyStage, WithEarlyHead, saliency_map
from dali_salaug.saliency import observer

LABELS = torch.tensor([0, 1, 2, 3])


class Block(nn.Sequential):
    """Its last layer, a BatchNorm, is overwritten in place by the ReLU that follows."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))


def plain_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        Block(), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )


def with_a_spare_layer() -> nn.Sequential:
    class Spared(Block):
        def forward(self, x):
            return self[1](self[0](x))

    net = plain_net()
    net[0] = Spared()
    net[0].spare = nn.Conv2d(3, 3, 3)
    return net


@pytest.fixture
def network() -> WithEarlyHead:
    return WithEarlyHead(plain_net(), 5, after="0")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def total_loss(outputs, labels=LABELS):
    logits, early = outputs
    return F.cross_entropy(logits, labels) + 0.3 * F.cross_entropy(early, labels)


def by_hand(network: WithEarlyHead, images: torch.Tensor):
    """Both logits of a network made of `plain_net`, layer by layer, nothing in place."""
    block, _, conv, _, _, linear = network.model
    features = block(images)
    pooled = torch.stack([torch.stack([channel.sum() / channel.numel() for channel in f]) for f in features])
    early = pooled @ network.classifier.weight.T + network.classifier.bias
    return linear(conv(features.relu()).mean((2, 3))), early


def gradients(module: nn.Module):
    return [p.grad.clone() for p in module.parameters()]


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("target", ["label", "max", "loss"])
def test_the_map_is_that_of_a_network_cut_off_by_hand(target, scale):
    model = torchvision.models.resnet18(num_classes=5).double()
    network = WithEarlyHead(model, 5)
    model(torch.randn(8, 3, 32, 32).double())  # running statistics other than the initial ones
    images = torch.randn(3, 3, 32, 24, dtype=torch.float64)
    labels = torch.tensor([4, 0, 2])
    got = saliency_map(model, images, labels, target=target, scale=scale, head=network.early)

    cut_off = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool, model.layer1).eval()
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        pixels = image[None]
        if scale != 1:
            pixels = F.interpolate(pixels, (16, 12), mode="bicubic", antialias=True)
        pixels = pixels.clone().requires_grad_()
        features = cut_off(pixels)[0]
        pooled = features.sum((1, 2)) / features[0].numel()
        logits = network.classifier.weight @ pooled + network.classifier.bias
        scalar = {"label": logits[label], "max": max(logits), "loss": torch.logsumexp(logits, 0) - logits[label]}
        (gradient,) = torch.autograd.grad(scalar[target], pixels)
        torch.testing.assert_close(got[index].double(), gradient[0].abs().max(0).values, rtol=1e-6, atol=1e-12)


def test_the_total_loss_has_the_gradients_of_a_network_by_hand(network, images):
    """Two batches accumulated; the layer behind the head's module overwrites its output in place."""
    network.double()
    batches = images.double().split(2)
    for x, y in zip(batches, LABELS.split(2), strict=True):
        total_loss(network(x), y).backward()
    got = gradients(network)
    network.zero_grad()
    for x, y in zip(batches, LABELS.split(2), strict=True):
        total_loss(by_hand(network, x), y).backward()
    torch.testing.assert_close(got, gradients(network), rtol=1e-9, atol=1e-12)


def test_maps_and_validation_between_forward_and_backward_disturb_no_step(network, images):
    results = []
    for disturbed in (False, True):
        net = copy.deepcopy(network)
        net.model[0][1].momentum = 0.0  # other forward passes in training mode leave no trace of their own
        outputs = net(images)
        if disturbed:
            saliency_map(net, images + 1, LABELS, head=net.early)
            saliency_map(net, images + 1, LABELS)
            net.model(images + 1)
            with torch.no_grad():
                net(images + 1)
            assert isinstance(net.eval()(images + 1), torch.Tensor)
            net.train()
        total_loss(outputs).backward()
        results.append((gradients(net), net(images)))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_the_pass_changes_nothing(network, images):
    total_loss(network(images)).backward()
    network.model[2].eval()

    def state():
        return (
            {k: v.clone() for k, v in network.state_dict().items()},
            gradients(network),
            [m.training for m in network.modules()],
            [len(hooks) for m in network.modules() for k, hooks in vars(m).items() if k.endswith("_hooks")],
            [p.requires_grad for p in network.parameters()],
            torch.get_rng_state(),
        )

    before = state()
    saliency_map(network, images, LABELS, head=network.early)
    torch.testing.assert_close(before, state(), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="2 channels"):
        saliency_map(network, images[:, :2], LABELS, head=network.early, scale=1.0)
    torch.testing.assert_close(before, state(), rtol=0, atol=0)


def test_no_activation_outlives_its_step(network, images):
    seen = []
    network.model[0].register_forward_hook(lambda m, args, out: seen.append(weakref.ref(out)))
    gc.disable()
    try:
        total_loss(network(images)).backward()
        network(images)
        network.model(images)
        network.eval()(images)
        network.train()
        failing = network.model[2].register_forward_hook(lambda *_: {}["fails"])
        with pytest.raises(KeyError):
            network(images)
        failing.remove()
        assert len(seen) == 5
        assert [ref() for ref in seen[:4]] == [None] * 4
        torch.testing.assert_close(network(images), by_hand(network, images))  # what the failed pass saw is forgotten
    finally:
        gc.enable()


def test_the_live_weights_make_the_map(network, images):
    head = network.early
    before = saliency_map(network, images, LABELS, head=head)
    with torch.no_grad():
        network.classifier.weight.mul_(2)
        network.model[0][0].weight.mul_(3)
    after = saliency_map(network, images, LABELS, head=head)
    torch.testing.assert_close(after, 6 * before)


def test_the_stage_takes_the_heads_map(network, images, device, no_waiting):
    network.to(device)
    images, labels = images.to(device), LABELS.to(device)
    stage = SaliencyStage(KeepCutout(6), head=network.early)
    expected = saliency_map(network, images, labels, head=network.early)
    with no_waiting():
        trace = stage.trace(network, images, labels)
    torch.testing.assert_close(trace.saliency, expected)
    assert "head=EarlyLogits" in repr(stage)
    with pytest.raises(ValueError, match=r"head must be a torch\.nn\.Module"):
        SaliencyStage(KeepCutout(6), head="layer1")


def test_a_copy_has_a_head_of_its_own(network, images):
    copied = copy.deepcopy(network)
    total_loss(copied(images)).backward()
    assert all(p.grad is None for p in network.parameters())
    total_loss(network(images)).backward()
    torch.testing.assert_close(gradients(network), gradients(copied))


def test_the_state_goes_round(network, images):
    total_loss(network(images)).backward()
    names = [f"model.{name}" for name in plain_net().state_dict()]
    assert list(network.state_dict()) == [*names, "classifier.weight", "classifier.bias"]
    restored = WithEarlyHead(plain_net(seed=9), 5, after="0")
    restored.load_state_dict(network.state_dict())
    torch.testing.assert_close(restored(images), network(images), rtol=0, atol=0)
    assert torch.equal(
        saliency_map(restored, images, LABELS, head=restored.early),
        saliency_map(network, images, LABELS, head=network.early),
    )


def test_the_exported_model_is_free_of_it(network, images):
    model = network.detach()
    assert type(model) is nn.Sequential
    assert list(model.state_dict()) == list(plain_net().state_dict())
    assert not any(hooks for m in model.modules() for k, hooks in vars(m).items() if k.endswith("_hooks"))
    fresh = plain_net(seed=9)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(images), model.eval()(images))
    with pytest.raises(RuntimeError, match=r"'0' must run once .* seen 0 times \(after detach"):
        network(images)
    with pytest.raises(RuntimeError, match="early head is no longer on the model"):
        saliency_map(network, images, LABELS, head=network.early, scale=1.0)


@pytest.mark.parametrize("whole", [True, False], ids=["compiled together", "compiled model"])
def test_compiled(images, whole):
    """One graph, no recompilation by the maps in between, and the same gradients."""
    torch._dynamo.reset()
    plain = WithEarlyHead(plain_net(), 5, after="0")
    if whole:
        network = copy.deepcopy(plain)
        step = torch.compile(network, backend="aot_eager", fullgraph=True)
    else:
        network = step = WithEarlyHead(torch.compile(plain_net(), backend="aot_eager", fullgraph=True), 5, after="0")
        network.classifier.load_state_dict(plain.classifier.state_dict())
    for training in (True, False):  # both modes are compiled
        step.train(training)(images)
        plain.train(training)(images)
    network.zero_grad()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for shift in (0, 1):
            x = images + shift
            for net, call in ((plain, plain), (network, step)):
                saliency_map(call, x, LABELS, head=net.early)
                total_loss(call.train()(x)).backward()
            torch.testing.assert_close(step.eval()(x), plain.eval()(x))
    torch.testing.assert_close(gradients(network), gradients(plain))
    expected = saliency_map(plain, images, LABELS, head=plain.early)
    torch.testing.assert_close(saliency_map(step, images, LABELS, head=network.early), expected)


def test_its_compiled_pass_is_one_graph_that_ends_at_the_head(network, images, monkeypatch):
    torch._dynamo.reset()
    nodes = []

    def backend(graph, inputs):
        nodes.append([node.target for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    call = torch.compile(lambda module, images: module(images), backend=backend, dynamic=False, fullgraph=True)
    monkeypatch.setattr(observer, "_compiled_call", lambda: call)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            got = saliency_map(network, images, LABELS, head=network.early, compiled=True)
            expected = saliency_map(network, images, LABELS, head=network.early)
            torch.testing.assert_close(got, expected)
            total_loss(network(images)).backward()
            with torch.no_grad():
                network.classifier.weight.mul_(2)
    ((*operators,),) = nodes
    assert [operator.__name__ for operator in operators] == ["conv2d", "batch_norm", "linear"]


def test_under_autocast(network, images):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        saliency = saliency_map(network, images, LABELS, head=network.early)
        logits, early = network(images)
        assert (logits.dtype, early.dtype, saliency.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
        total_loss((logits, early)).backward()
    exact = saliency_map(network, images, LABELS, head=network.early)
    assert torch.corrcoef(torch.stack([saliency.flatten(), exact.flatten()]))[0, 1] > 0.98
    half = WithEarlyHead(plain_net().half(), 5, after="0")
    assert half.classifier.weight.dtype == torch.float16
    assert saliency_map(half, images.half(), LABELS, head=half.early).max() > 0


def test_in_distributed_data_parallel(network, images, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        alone = copy.deepcopy(network)
        ddp = DistributedDataParallel(network)
        for _ in range(2):
            inputs, targets = SaliencyStage(KeepCutout(6), head=network.early)(ddp, images, LABELS)
            total_loss(ddp(inputs), targets).backward()
            total_loss(alone(inputs), targets).backward()
        torch.testing.assert_close(gradients(network), gradients(alone))
        with pytest.raises(ValueError, match=r"DistributedDataParallel\(WithEarlyHead"):
            WithEarlyHead(DistributedDataParallel(plain_net()), 5, after="0")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet18", 5), "model must be a torch.nn.Module"),
        ((plain_net(), 5, "0", 0), "image_size must be a whole number, 1 or more; got 0"),
        ((plain_net(), 0, "0"), "num_classes must be a whole number, 1 or more; got 0"),
        ((plain_net(), True, "0"), "num_classes must be a whole number, 1 or more; got True"),
        ((plain_net(), 5.0, "0"), "num_classes must be a whole number, 1 or more; got 5.0"),
        (
            (plain_net(), 5),
            r"after must name the module .* not known for Sequential with its 0, 1, 2, 3, 4, 5; got None",
        ),
        ((plain_net(), 5, "layer1"), r"after must name a module of the model, such as 0, 1, .*; got 'layer1'"),
        ((torchvision.models.resnet18(), 5, "layr1"), r"such as layer1.*; got 'layr1'"),
        ((torchvision.models.resnet18(), 5, ""), "after must name a module of the model"),
        ((plain_net(), 5, "5"), r"tokens \(B, tokens, channels\); '5' puts out \(1, 5\) for an image of \(64, 64\)"),
        (
            (torchvision.models.vit_b_32(), 5, "conv_proj"),
            r"images of any size as far as 'conv_proj'.*Wrong image height",
        ),
        ((with_a_spare_layer(), 5, "0.spare"), r"forward pass runs; it does not run '0\.spare'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        WithEarlyHead(*arguments[:3], image_size=None if len(arguments) < 4 else arguments[3])
