"""The effect of transformed images on their saliency maps: unwarping, composing, scaling and comparing maps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..methods.base import Draw, Method


def unwarp(maps: Tensor, matrices: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the maps of transformed images, moved back to the places of the originals' pixels.

    Each pixel takes the bilinear value at the place to which the transformation moved it, so no inverse is needed.

    Args:
        maps: those of the transformed images, (B, h, w), floating point, at any resolution.
        matrices: (B, 2, 3), floating point: source to destination, pixels (x, y) of the images, centres at +0.5.
        image_size: (H, W) of the images.

    Returns:
        The maps (B, h, w), and a mask of the originals' pixels that the transformation kept in view, (B, h, w), bool.
    """
    height, width = image_size
    # The same in grid_sample's coordinates, with the borders at −1 and 1; in float64, so that flips are exact.
    a, b, c, d, e, f = matrices.double().flatten(1).unbind(1)
    b, c, d, f = b * height / width, 2 * c / width, d * width / height, 2 * f / height
    x, y = (
        (torch.arange(side, dtype=torch.float64, device=maps.device) * 2 + 1) / side - 1
        for side in (maps.shape[-1], maps.shape[-2])
    )
    y = y[:, None]

    def places(of_x: Tensor, of_y: Tensor, constant: Tensor) -> Tensor:
        return of_x[:, None, None] * x + of_y[:, None, None] * y + constant[:, None, None]

    grid = torch.stack([places(a, b, a + b + c - 1), places(d, e, d + e + f - 1)], 3)
    view = (grid.abs() <= 1).all(3)
    unwarped = F.grid_sample(maps[:, None], grid.to(maps.dtype), padding_mode="border", align_corners=False)
    return unwarped[:, 0], view


def composed(maps: Tensor, method: Method, drawn: Draw, image_size: tuple[int, int]) -> Tensor:
    """Return the maps expected of composed images: the originals' maps, composed by the code that composes the images.

    Args:
        maps: those of the originals, (B, h, w), floating point, at any resolution.
        method, drawn: the method that composed the images, and its draw.
        image_size: (H, W) of the images.

    Returns:
        (B, H, W). What the method itself writes (Cutout's fill) counts as 0.
    """
    maps = at_resolution(maps, image_size)[:, None]
    return (method.apply(maps, drawn, None) - method.apply(torch.zeros_like(maps), drawn, None))[:, 0]


def at_resolution(maps: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the maps (B, h, w) sampled at the resolution (H, W), each pixel at its place: (B, H, W)."""
    if maps.shape[-2:] == image_size:
        return maps
    return F.interpolate(maps[:, None], image_size, mode="nearest-exact")[:, 0]


def scaled(maps: Tensor, view: Tensor) -> Tensor:
    """Scale each map on its own to the range from 0 to 1 within the view; a map that is flat there becomes zeros.

    Args:
        maps: (B, h, w), floating point.
        view: (B, h, w), bool.

    Returns:
        (B, h, w), differentiable; any finite values outside the view.
    """
    low = maps.masked_fill(~view, torch.inf).amin((1, 2), keepdim=True)
    high = maps.masked_fill(~view, -torch.inf).amax((1, 2), keepdim=True)
    flat = high <= low
    # Two calls of where, so that nothing infinite is differentiated (a view may be empty).
    return torch.where(flat, 0, (maps - torch.where(flat, 0, low)) / torch.where(flat, 1, high - low))


def map_distance(first: Tensor, second: Tensor, view: Tensor) -> Tensor:
    """Return the mean squared difference over all pixels in view, of maps scaled to [0, 1] there; 0 for an empty view.

    Args:
        first, second: (B, h, w), floating point.
        view: (B, h, w), bool.
    """
    squared = (scaled(first, view) - scaled(second, view)).square()
    return torch.where(view, squared, 0).sum() / view.sum().clamp(min=1)
