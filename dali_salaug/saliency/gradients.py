"""Maps from the gradient with respect to the pixels: of the image, and averaged over noisy copies."""

from collections.abc import Callable

import torch
from torch import Tensor

NOT_DIFFERENTIABLE = (
    "model must be differentiable with respect to the images; its logits carry no gradient from them (a no_grad or "
    "detach inside its forward?)"
)
Scalar = Callable[[Tensor], Tensor]  # pixels (B, C, h, w) to the sum of one scalar per image


def pixel_gradient(scalar: Scalar, pixels: Tensor) -> Tensor:
    """Return the gradient of ``scalar`` with respect to ``pixels``, (B, C, h, w)."""
    pixels = pixels.detach().requires_grad_()
    return gradient_by(pixels, scalar(pixels))


def gradient_by(pixels: Tensor, total: Tensor, *, keep_graph: bool = False, differentiable: bool = False) -> Tensor:
    """Return the gradient of ``total`` with respect to ``pixels``, of their shape.

    Args:
        pixels: (B, C, h, w), from which ``total``, a scalar, was computed.
        keep_graph: whether the graph is needed again.
        differentiable: whether the gradient itself is to be differentiated.

    Raises:
        ValueError: ``total`` depends on parameters, and not on the pixels.
    """
    keep_graph = keep_graph or differentiable
    (gradient,) = torch.autograd.grad(
        total, pixels, create_graph=differentiable, retain_graph=keep_graph, allow_unused=True
    )
    if gradient is None:
        raise ValueError(NOT_DIFFERENTIABLE)
    return gradient


def gradient_map(scalar: Scalar, pixels: Tensor) -> Tensor:
    """Return the largest absolute gradient over channels (Simonyan et al. 2014, arXiv:1312.6034, §3.1): (B, h, w)."""
    return pixel_gradient(scalar, pixels).abs().amax(1)


def smoothgrad_map(
    gradient: Callable[[Tensor], Tensor],
    pixels: Tensor,
    *,
    samples: int,
    noise: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Return the mean absolute gradient over noisy copies, then the largest over channels: (B, h, w).

    Smilkov et al. 2017, arXiv:1706.03825, §2. The copies are processed one after the other, in the memory of a single
    pass.

    Args:
        gradient: pixels to the gradient with respect to them, both (B, C, h, w).
        pixels: (B, C, h, w).
        samples: number of copies.
        noise: the standard deviation of the Gaussian noise, as a fraction of each image's largest minus smallest
            value.
        generator: on the pixels' device; None for the global one.
    """
    extent = pixels.amax((1, 2, 3), keepdim=True) - pixels.amin((1, 2, 3), keepdim=True)
    total = torch.zeros_like(pixels)
    for _ in range(samples):
        normal = torch.randn(pixels.shape, generator=generator, dtype=pixels.dtype, device=pixels.device)
        total += gradient(pixels + noise * extent * normal).abs()
    return (total / samples).amax(1)
