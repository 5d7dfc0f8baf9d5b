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
    on = torch.zeros_like(grey, dtype=torch.float64)
    off = torch.zeros_like(on)
    integral = F.pad(grey.cumsum(1).cumsum(2), (1, 0, 1, 0))
    for reach in REACHES:
        contrast = grey - _surround(grey, integral, reach)
        on += contrast.clamp(min=0)
        off -= contrast.clamp(max=0)
    return (_over_peak(on) + _over_peak(off)).float()


def _intensity(images: Tensor) -> Tensor:
    """Return whole numbers, 0 at the image's darkest pixel and 2²⁴ at its brightest, whose sums are exact.

    A range below 2⁻¹⁸ of the image's values (8-bit pixels step by 2⁻⁸) is rounding error, for example of the reduction,
    and counts as flat: a flat image must have a flat map, not errors stretched to the full range.
    """
    images = finite_or_zero(images.double())
    channels = images.unbind(1)
    weights = LUMA if len(channels) == 3 else [1 / len(channels)] * len(channels)
    intensity = torch.stack([w * channel for w, channel in zip(weights, channels, strict=True)]).sum(0)
    low, high = intensity.amin((1, 2), keepdim=True), intensity.amax((1, 2), keepdim=True)
    rounding = 2**-18 * images.abs().amax((1, 2, 3))[:, None, None]
    extent = torch.where(high - low > rounding, high - low, torch.inf)
    return ((intensity - low) / extent * 2**24).round().long()


def _over_peak(values: Tensor) -> Tensor:
    peak = values.amax((1, 2), keepdim=True)
    return values / torch.where(peak > 0, peak, 1.0)


def _blur(grey: Tensor) -> Tensor:
    """Return 16 times the 3×3 binomial mean, with the border reflected about its last pixel."""
    for dim in (1, 2):
        last = grey.shape[dim] - 1
        index = torch.arange(-1, last + 2, device=grey.device)
        padded = grey.index_select(dim, (last - (last - index.abs()).abs()).clamp(min=0))
        grey = padded.narrow(dim, 0, last + 1) + 2 * grey + padded.narrow(dim, 2, last + 1)
    return grey


def _surround(grey: Tensor, integral: Tensor, reach: int) -> Tensor:
    """Return the mean from ``reach`` − 1 pixels before to ``reach`` after, in both directions, without the pixel."""
    sums, extents = integral, []
    for dim in (1, 2):
        side = grey.shape[dim]
        position = torch.arange(side, device=grey.device)
        start = (position - reach + 1).clamp(min=0)
        stop = (position + reach + 1).clamp(max=side)
        sums = sums.index_select(dim, stop) - sums.index_select(dim, start)
        extents.append(stop - start)
    pixels = extents[0][:, None] * extents[1]
    return (sums - grey).double() / (pixels - 1).clamp(min=1)
