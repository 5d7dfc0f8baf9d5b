"""Fine-grained saliency: centre-surround contrast of the intensity at several scales, without a model."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .._tensors import finite_or_zero

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, of red, green and blue
REACHES = (12, 24, 48, 28, 56, 112)  # of the surrounds, in pixels to each side: 2**i times 3·4 and 7·4


def fine_grained_map(images: Tensor) -> Tensor:
    """Return by how much each pixel is brighter or darker than its surrounds, at six scales: (B, h, w), in [0, 2].

    Montabone & Soto 2010 (doi:10.1016/j.imavis.2009.06.004), in the form of OpenCV's ``StaticSaliencyFineGrained``. A
    3×3 binomial filter blurs the intensity twice. At each scale, the mean of a square around the pixel, clipped at the
    border and without the pixel itself, is subtracted from the pixel. The positive differences ("on") and the negative
    ones ("off") are summed over the scales. Each sum is divided by its largest value in the image, and the two are
    added.

    OpenCV rounds to whole grey values of 0..255 after each of these operations. Here only the intensity is rounded, to
    24 bits. The map is therefore the same for any positive affine change of an image's intensity, and normalised images
    can be passed as they are: the channels' means and a common deviation change nothing, and deviations that differ by
    a few per cent change the luma weights by as much.

    Args:
        images: (B, C, h, w), floating point; three channels are red, green and blue, weighted by luma; any
            other number is weighted equally. Values that are not finite count as 0.
    """
    grey = _blur(_blur(_intensity(images)))
    height, width = grey.shape[1:]
    if height * width == 1:
        return torch.zeros_like(grey, dtype=torch.float32)  # a single pixel has no surroundings
    # Running sums over the images, and over one of ones, which counts the pixels of each square. The zeros around them
    # clip the squares. All are whole numbers, which float64 holds; their order of summing is free in int64 alone.
    counted = F.pad(grey, (0, 0, 0, 0, 0, 1), value=1)
    low, left = (min(max(REACHES), side) for side in (height, width))
    sums = F.pad(counted.long(), (left, left, low, low)).cumsum(1).cumsum(2)

    def squares(reach: int) -> Tensor:
        up, across = min(reach, height), min(reach, width)
        columns = sums[:, low + up :][:, :height] - sums[:, low - up :][:, :height]
        return columns[:, :, left + across :][:, :, :width] - columns[:, :, left - across :][:, :, :width]

    totals, darkers = [], []
    for reaches in (REACHES[:3], REACHES[3:]):  # not all at once, for the memory
        around = torch.stack([squares(reach) for reach in reaches]) - counted  # without the pixel
        count = around[:, -1:]
        # How much brighter the surroundings are than the pixel.
        contrast = around[:, :-1].addcmul_(count, grey, value=-1).div_(count)
        totals.append(contrast.sum(0))
        darkers.append(contrast.clamp_(min=0).sum(0))
    darker = darkers[0] + darkers[1]
    brighter = darker - (totals[0] + totals[1])
    return torch.addcdiv(brighter / _peak(brighter), darker, _peak(darker)).float()


def _intensity(images: Tensor) -> Tensor:
    """Return whole numbers, 0 at the image's darkest pixel and 2²⁴ at its brightest, in float64: (B, h, w).

    A range below 2⁻¹⁸ of the image's values (8-bit pixels step by 2⁻⁸) is rounding error, for example of the reduction,
    and counts as flat: a flat image must have a flat map, not errors stretched to the full range.
    """
    images = finite_or_zero(images.double())
    channels = images.unbind(1)
    weights = LUMA if len(channels) == 3 else [1 / len(channels)] * len(channels)
    intensity = channels[0] * weights[0]
    for weight, channel in zip(weights[1:], channels[1:], strict=True):
        intensity.add_(channel, alpha=weight)
    low, high = intensity.flatten(1).aminmax(dim=1)
    extent = high - low
    rounding = 2**-18 * torch.linalg.vector_norm(images, torch.inf, (1, 2, 3))
    extent = torch.where(extent > rounding, extent, torch.inf)
    return intensity.sub_(low[:, None, None]).div_(extent[:, None, None]).mul_(2**24).round_()


def _peak(values: Tensor) -> Tensor:
    """Return each map's largest value, and more than 0."""
    return values.amax((1, 2), keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)


def _blur(grey: Tensor) -> Tensor:
    """Return 16 times the 3×3 binomial mean, with the border reflected about its last pixel."""
    for dim in (1, 2):
        last = grey.shape[dim] - 1
        first = min(1, last)
        padded = torch.cat([grey.narrow(dim, first, 1), grey, grey.narrow(dim, last - first, 1)], dim)
        grey = padded.narrow(dim, 0, last + 1).add(grey, alpha=2).add_(padded.narrow(dim, 2, last + 1))
    return grey
