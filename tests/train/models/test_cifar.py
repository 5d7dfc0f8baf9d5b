"""The CIFAR forms: published sizes, any image size, timm's logits where timm has the same blocks, the early head."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dali_salaug import WithEarlyHead, saliency_map
from train.models.cifar import (
    CIFAR_MODELS,
    PreActBlock,
    PyramidBlock,
    preactresnet,
    pyramidnet,
    resnet_thin,
    wide_resnet,
)
from train.models.registry import build_model


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet18_cifar", 11_173_962),
        ("resnet110_cifar", 1_727_962),  # He et al.'s 1.7 M
        ("preactresnet18", 11_172_170),  # SalfMix's 11 M
        ("preactresnet50", 23_513_162),  # 24 M
        ("preactresnet101", 42_505_290),  # 43 M
        ("wrn28_2", 1_467_610),  # UDA's 1.5 M
        ("wrn28_10", 36_479_194),  # Zagoruyko & Komodakis' 36.5 M
        ("pyramidnet110_a64", 1_696_410),  # CutMix's 1.7 M
        ("pyramidnet200_a240", 26_752_702),  # Han et al.'s 26.8 M
    ],
)
def test_sizes_are_the_published_ones(name: str, published: int) -> None:
    with torch.device("meta"):
        assert parameters(build_model(name, 10, 32)) == published


@pytest.mark.parametrize(
    ("model", "published"),
    [
        (lambda: pyramidnet(10, 110, 48, False), 1_772_706),  # 1.7 M
        (lambda: pyramidnet(10, 110, 84, False), 3_904_446),  # 3.8 M
        (lambda: pyramidnet(10, 110, 270, False), 28_485_477),  # 28.3 M
        (lambda: pyramidnet(10, 164, 270, True), 27_216_021),  # 27.0 M
        (lambda: wide_resnet(10, 16, 10), 17_116_634),  # 17.1 M
        (lambda: wide_resnet(10, 40, 2), 2_243_546),  # 2.2 M
        (lambda: resnet_thin(10, 56), 853_018),  # 0.85 M
    ],
)
def test_sizes_of_their_relatives(model, published: int) -> None:
    with torch.device("meta"):
        assert parameters(model()) == published


@pytest.mark.parametrize("name", CIFAR_MODELS)
def test_image_sizes(name: str) -> None:
    """Shapes alone, on the meta device."""
    with torch.device("meta"):
        model = build_model(name, 200, 64).eval()
        for side in (8, 16, 31, 32, 64):
            seen: list[int] = []
            hooks = [
                stage.register_forward_hook(lambda m, args, out, seen=seen: seen.append(out.shape[-1]))
                for stage_name, stage in model.named_children()
                if stage_name.startswith("layer")
            ]
            assert model(torch.empty(2, 3, side, side)).shape == (2, 200)
            sides = [side]
            for _ in seen[1:]:
                sides.append((sides[-1] + 1) // 2)
            assert seen == sides
            assert len(seen) == (4 if "resnet18" in name or name.startswith("preact") else 3)
            for hook in hooks:
                hook.remove()


@pytest.mark.parametrize("name", CIFAR_MODELS)
def test_the_early_head_runs_the_first_block_alone(name: str) -> None:
    model = build_model(name, 4, 16)
    network = WithEarlyHead(model, 4)
    assert network.after == "layer1"
    images, labels = torch.randn(2, 3, 16, 16), torch.tensor([0, 3])
    started: list[str] = []
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, path=path: started.append(path))
    with torch.no_grad():
        assert model.eval()(images).isfinite().all()
    beginning = started[: started.index("layer2")]
    assert {path.split(".")[0] for path in beginning} <= {"", "stem", "conv1", "bn1", "relu", "maxpool", "layer1"}
    started.clear()
    assert saliency_map(model, images, labels, head=network.early).max() > 0
    assert started == beginning


@pytest.mark.parametrize("depth", [18, 50])
def test_preactresnet_is_timms_with_another_stem(depth: int) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(f"resnetv2_{depth}", num_classes=7)
    theirs.stem = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False))
    ours = preactresnet(7, depth)

    parts = [(ours.stem[0], theirs.stem[0]), (ours.end[0], theirs.norm)]
    for number, stage in enumerate(theirs.stages, 1):
        for mine, block in zip(ours.get_submodule(f"layer{number}"), stage.blocks, strict=True):
            layers = [block.norm1, block.conv1, block.norm2, block.conv2]
            layers += [block.norm3, block.conv3] if depth == 50 else []
            parts += zip([mine.preact[0], *(m for m in mine.body if not isinstance(m, nn.ReLU))], layers, strict=True)
            assert (mine.projection is None) == (block.downsample is None)
            if mine.projection is not None:
                parts.append((mine.projection, block.downsample.conv))
    ours.fc.load_state_dict({k: v.flatten(1) if v.ndim > 1 else v for k, v in theirs.head.fc.state_dict().items()})
    for mine, their in parts:
        mine.load_state_dict(their.state_dict())
    copied = sum(parameters(mine) for mine, _ in parts) + parameters(ours.fc)
    assert copied == parameters(ours)
    images = torch.randn(4, 3, 20, 28)
    torch.testing.assert_close(ours.train()(images), theirs.train()(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_pyramid_block_by_hand(bottleneck: bool, stride: int) -> None:
    block = PyramidBlock(6, 8, stride, bottleneck).eval()
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 9, 9)
    norms = [m for m in block.body if isinstance(m, nn.BatchNorm2d)]
    convs = [m for m in block.body if isinstance(m, nn.Conv2d)]
    branch = norms[0](x)
    for conv, norm in zip(convs, norms[1:], strict=True):
        branch = norm(F.conv2d(branch, conv.weight, None, conv.stride, conv.padding))
        branch = branch if conv is convs[-1] else branch.clamp(min=0)
    expected = branch.clone()
    for i in range(branch.shape[2]):
        for j in range(branch.shape[3]):
            window = x[:, :, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride]
            expected[:, :6, i, j] += window.mean((2, 3))  # the other channels get nothing
    assert expected.shape[1] == (32 if bottleneck else 8)
    torch.testing.assert_close(block(x), expected)


def test_pyramidnet_widens_by_as_much_at_each_block() -> None:
    with torch.device("meta"):
        model = pyramidnet(10, 110, 64, False)
    blocks = [m for m in model.modules() if isinstance(m, PyramidBlock)]
    assert [b.body[-1].num_features for b in blocks] == [round(16 + 64 * k / 54) for k in range(1, 55)]
    assert [k for k, b in enumerate(blocks) if b.body[1].stride == (2, 2)] == [18, 36]


def test_shortcuts_without_parameters() -> None:
    first = resnet_thin(10, 20).layer2[0]  # 16 to 32 channels
    x = torch.randn(2, 16, 7, 8)
    assert torch.equal(first.downsample(x), torch.cat([x[:, :, ::2, ::2], torch.zeros(2, 16, 4, 4)], 1))


def test_wide_resnet_projects_the_activated_input() -> None:
    """The first block of each stage, the first stage's too, where only the width changes."""
    with torch.device("meta"):
        blocks = [m for m in wide_resnet(10, 28, 10).modules() if isinstance(m, PreActBlock)]
    assert [k for k, b in enumerate(blocks) if b.projection is not None] == [0, 4, 8]
    block = PreActBlock(4, 6, 2, False).eval()
    x = torch.randn(2, 4, 8, 8)
    activated = x.clamp(min=0) / (1 + 1e-5) ** 0.5  # BatchNorm as it begins
    expected = F.conv2d(activated, block.projection.weight, stride=2) + block.body(activated)
    torch.testing.assert_close(block(x), expected)
