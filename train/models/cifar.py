"""Residual networks in their CIFAR forms: a 3×3 stem of stride 1, no max-pooling, global average pooling.

They take images of any size from 8×8 on. Their stages are called layer1, layer2, …, as in torchvision. The plain
ResNets use torchvision's blocks. Neither torchvision nor timm has pre-activation, wide or pyramidal networks of this
form.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


def _conv(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)


def _norm_relu(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _body(channels_in: int, channels: int, stride: int, bottleneck: bool) -> list[nn.Module]:
    """Return the convolutions of a residual branch, with BatchNorm and ReLU between them.

    A bottleneck has 4 · `channels` outputs.
    """
    if not bottleneck:
        return [_conv(channels_in, channels, 3, stride), *_norm_relu(channels), _conv(channels, channels)]
    first, middle = _conv(channels_in, channels, 1), _conv(channels, channels, 3, stride)
    return [first, *_norm_relu(channels), middle, *_norm_relu(channels), _conv(channels, 4 * channels, 1)]


class PreActBlock(nn.Module):
    """x + f(ReLU(BN(x))); where the shape changes, a 1×1 convolution of ReLU(BN(x)) replaces x.

    He et al. 2016, arXiv:1603.05027, fig. 4(e) and appendix.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        channels_out = 4 * channels if bottleneck else channels
        self.preact = nn.Sequential(*_norm_relu(channels_in))
        self.body = nn.Sequential(*_body(channels_in, channels, stride, bottleneck))
        changes = stride != 1 or channels_in != channels_out
        self.projection = _conv(channels_in, channels_out, 1, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        activated = self.preact(x)
        shortcut = x if self.projection is None else self.projection(activated)
        return shortcut + self.body(activated)


class PadChannels(nn.Module):
    """Appends channels of zeros: (B, C, H, W) to (B, C + more, H, W)."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, self.more))


class PyramidBlock(nn.Module):
    """x + BN(f(BN(x))), without a first ReLU; x is average-pooled at stride 2, and padded with channels of zeros.

    Han et al. 2017, arXiv:1610.02915, fig. 6(d).
    """

    def __init__(self, channels_in: int, channels: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        channels_out = 4 * channels if bottleneck else channels
        body = _body(channels_in, channels, stride, bottleneck)
        self.body = nn.Sequential(nn.BatchNorm2d(channels_in), *body, nn.BatchNorm2d(channels_out))
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(stride, stride, ceil_mode=True), PadChannels(channels_out - channels_in)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


def _network(stem: list[nn.Module], stages: list[nn.Sequential], end: list[nn.Module], linear: nn.Linear) -> nn.Module:
    layers: list[tuple[str, nn.Module]] = [("stem", nn.Sequential(*stem))]
    layers += [(f"layer{number}", stage) for number, stage in enumerate(stages, 1)]
    layers += [("end", nn.Sequential(*end, nn.AdaptiveAvgPool2d(1), nn.Flatten())), ("fc", linear)]
    model = nn.Sequential(OrderedDict(layers))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def _preact(num_classes: int, stem: int, widths: list[int], blocks: list[int], bottleneck: bool) -> nn.Module:
    stages, channels = [], stem
    for number, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        stage = nn.Sequential()
        for k in range(count):
            stage.append(PreActBlock(channels, width, 2 if number and not k else 1, bottleneck))
            channels = 4 * width if bottleneck else width
        stages.append(stage)
    return _network([_conv(3, stem)], stages, _norm_relu(channels), nn.Linear(channels, num_classes))


def preactresnet(num_classes: int, depth: int) -> nn.Module:
    """Build PreActResNet-18, -50 or -101 (He et al. 2016) with the four stages of ImageNet's: 11.2, 23.5, 42.5 M."""
    blocks = {18: [2, 2, 2, 2], 50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}[depth]
    return _preact(num_classes, 64, [64, 128, 256, 512], blocks, depth >= 50)


def wide_resnet(num_classes: int, depth: int, width: int) -> nn.Module:
    """Build WRN-depth-width, depth = 6 n + 4, without dropout.

    Zagoruyko & Komodakis 2016, arXiv:1605.07146, table 1.
    """
    return _preact(num_classes, 16, [16 * width, 32 * width, 64 * width], 3 * [(depth - 4) // 6], False)


def pyramidnet(num_classes: int, depth: int, alpha: int, bottleneck: bool) -> nn.Module:
    """Build a PyramidNet of additive widening: block k of N has 16 + k·α/N channels, rounded as in the authors' code.

    Han et al. 2017, §2.1. The depth is 6 n + 2, or 9 n + 2 with bottlenecks, for n blocks in each of three stages.
    """
    count = (depth - 2) // (9 if bottleneck else 6)
    stages, channels = [], 16
    for number in range(3):
        stage = nn.Sequential()
        for k in range(count):
            width = round(16 + alpha * (number * count + k + 1) / (3 * count))
            stage.append(PyramidBlock(channels, width, 2 if number and not k else 1, bottleneck))
            channels = 4 * width if bottleneck else width
        stages.append(stage)
    stem = [_conv(3, 16), nn.BatchNorm2d(16)]
    return _network(stem, stages, _norm_relu(channels), nn.Linear(channels, num_classes))


def resnet_thin(num_classes: int, depth: int) -> nn.Module:
    """Build ResNet-20, -56, -110 …, depth = 6 n + 2, with 16, 32, 64 channels and parameter-free shortcuts ("A").

    He et al. 2016, arXiv:1512.03385, §4.2. The blocks are torchvision's.
    """
    from torchvision.models.resnet import BasicBlock

    stages: list[nn.Sequential] = [nn.Sequential(), nn.Sequential(), nn.Sequential()]
    channels = 16
    for stage, width in zip(stages, (16, 32, 64), strict=True):
        for _ in range((depth - 2) // 6):
            stride = width // channels
            # An average over one pixel is strided subsampling.
            shortcut = nn.Sequential(nn.AvgPool2d(1, 2), PadChannels(width - channels)) if stride == 2 else None
            stage.append(BasicBlock(channels, width, stride, shortcut))
            channels = width
    return _network([_conv(3, 16), *_norm_relu(16)], stages, [], nn.Linear(64, num_classes))


def resnet18_cifar(num_classes: int) -> nn.Module:
    """Build torchvision's ResNet-18 in its CIFAR form: 3×3 stem of stride 1 (He et al. §4.2), no max-pooling."""
    from torchvision.models import resnet18

    model = resnet18(weights=None, num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
    model.maxpool = nn.Identity()
    return model


CIFAR_MODELS: dict[str, Callable[[int], nn.Module]] = {
    "resnet18_cifar": resnet18_cifar,
    "resnet110_cifar": functools.partial(resnet_thin, depth=110),
    "preactresnet18": functools.partial(preactresnet, depth=18),
    "preactresnet50": functools.partial(preactresnet, depth=50),
    "preactresnet101": functools.partial(preactresnet, depth=101),
    "wrn28_2": functools.partial(wide_resnet, depth=28, width=2),
    "wrn28_10": functools.partial(wide_resnet, depth=28, width=10),
    # CutMix's and SalfMix's tables give 1.7 M, which are bottlenecks; basic blocks would be 2.6 M.
    "pyramidnet110_a64": functools.partial(pyramidnet, depth=110, alpha=64, bottleneck=True),
    "pyramidnet200_a240": functools.partial(pyramidnet, depth=200, alpha=240, bottleneck=True),
}
