"""Saliency maps of the model that is being trained."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._checks import check_choice, check_images, check_labels, check_number
from .observer import observing

METHODS = ("gradient",)
TARGETS = ("label", "max", "loss")


def saliency_map(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    method: str = "gradient",
    target: str = "label",
    scale: float = 0.5,
    head: nn.Module | None = None,
) -> Tensor:
    """The saliency of each pixel: the largest absolute gradient over channels of one scalar per image.

    Simonyan et al. 2014, as used by KeepAugment (§3, eq. 1), SalfMix (eq. 2) and the saliency-consistency loss. With
    ``scale`` below 1 the map is that of an antialiased bicubic reduction of the images ("low resolution based
    approximation", KeepAugment §3.1), which costs about ``scale²`` of the full map.

    The model is only observed: nothing in it, nor the global random state, is changed (see
    :mod:`dali_salaug.observer`). It is computed in eval mode, so each map depends on its own image alone. The call
    never waits for the device.

    Args:
        model: the live model, images (B, C, H, W) to logits (B, K), whatever wrapper it wears. Below ``scale=1`` it
            must take smaller images too, as networks that end in global average pooling do.
        images: (B, C, H, W), floating point, normalised as for training.
        labels: (B,), int64, in [0, K); not needed for target "max".
        method: "gradient".
        target: the scalar: "label", the logit of the true class; "max", the largest logit; "loss", the
            cross-entropy with the true label.
        scale: side of the map over side of the image, in (0, 1]; sides are rounded to whole pixels.
        head: a module to compute the logits in the place of ``model``, an early classification head for example.

    Returns:
        (B, h, w), float32, not negative and without normalisation; detached.

    Raises:
        ValueError: for an argument outside of what is said above, or a model that cannot take the reduced size.
    """
    check_saliency_options(method=method, target=target, scale=scale)
    images = check_images("images", images)
    if target != "max":
        if labels is None:
            raise ValueError(f"labels must be given for target {target!r} (target 'max' does without); got None")
        labels = check_labels(labels, images)
    network = model if head is None else head
    if not isinstance(network, nn.Module):
        raise ValueError(f"{'model' if head is None else 'head'} must be a torch.nn.Module; got {network!r}")

    with observing(network, images.device) as forward:
        pixels = _reduce(images, scale).requires_grad_()
        try:
            logits = forward(pixels.clone())  # autograd forbids a first layer to work in place on a leaf
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, AssertionError) as error:
            if pixels.shape == images.shape:
                raise
            raise ValueError(
                f"the model cannot take the images reduced to {pixels.shape[-2]}×{pixels.shape[-1]} pixels "
                f"(scale={scale:g}): {error}. Give scale=1.0, or a model that ends in global (adaptive) pooling."
            ) from error
        _check_logits(logits, len(images))
        scalar = _scalar(logits, labels, target)
        (gradient,) = torch.autograd.grad(scalar, pixels)
        return gradient.abs().amax(1).float()


def check_saliency_options(*, method: str, target: str, scale: float) -> None:
    """Raise ValueError for options that :func:`saliency_map` would refuse."""
    check_choice("method", method, METHODS)
    check_choice("target", target, TARGETS)
    check_number("scale", scale, 0, 1, open_low=True)


def _reduce(images: Tensor, scale: float) -> Tensor:
    """A detached copy of ``images``, reduced by ``scale``, in float32 or more."""
    images = images.detach().to(torch.promote_types(images.dtype, torch.float32))
    size = tuple(max(1, round(side * scale)) for side in images.shape[-2:])
    if size == images.shape[-2:]:
        return images.clone()
    return F.interpolate(images, size, mode="bicubic", antialias=True)


def _scalar(logits: Tensor, labels: Tensor | None, target: str) -> Tensor:
    """The batch's scalars, summed: a mean would divide the gradients by B, towards underflow."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if labels is None or target == "max":
        return logits.max(1).values.sum()
    if target == "label":
        return logits.gather(1, labels[:, None]).sum()
    return F.cross_entropy(logits, labels, reduction="sum")


def _check_logits(logits: object, batch: int) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != batch:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model must return logits ({batch}, K) in eval mode; got {got}")
    if not logits.requires_grad:
        raise ValueError(
            "model must be differentiable with respect to the images; its logits carry no gradient "
            "(a no_grad or detach inside its forward?)"
        )
