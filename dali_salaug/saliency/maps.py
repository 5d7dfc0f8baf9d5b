"""Saliency maps of the model in training: one function for all methods."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_choice, check_images, check_label_form, check_labels, check_number, check_whole_number
from .._tensors import at_least_float32
from .fine_grained import fine_grained_map
from .grad_cam import grad_cam_map
from .gradients import NOT_DIFFERENTIABLE, Scalar, gradient_map, pixel_gradient, smoothgrad_map
from .observer import Forward, observing, unwrap
from .relu_rules import relu_rule_map

METHODS = ("gradient", "smoothgrad", "guided", "deconvnet", "grad_cam", "fine_grained")
TARGETS = ("label", "max", "loss")
COMPILED = ("gradient", "smoothgrad")

# On the CPU the pass splits a batch into pieces of about this many pixels. A piece's activations stay near the caches,
# in blocks that the allocator reuses: on two CPU cores ResNet-50's full map at 224×224 costs 61 % of a step instead of
# 89 %, an early head's 19 % instead of 38 %. Smaller pieces use the cores less well.
PIECE = 4 * 224 * 224


def saliency_map(
    model: nn.Module | None,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    method: str = "gradient",
    target: str = "label",
    scale: float = 0.5,
    head: nn.Module | None = None,
    samples: int = 25,
    noise: float = 0.15,
    generator: torch.Generator | None = None,
    layer: str | None = None,
    compiled: bool = False,
) -> Tensor:
    """Return the saliency of each pixel.

    ====================  ==========================================================================================
    method                the map
    ====================  ==========================================================================================
    "gradient"            the largest absolute gradient over channels of one scalar per image (Simonyan et al. 2014;
                          KeepAugment §3; SalfMix eq. 2 and 3)
    "smoothgrad"          the mean of the absolute gradient over noisy copies, then the largest over channels
                          (Smilkov et al. 2017); costs ``samples`` times "gradient"
    "guided"              as "gradient", with guided backpropagation's rule for ReLU (Springenberg et al. 2015)
    "deconvnet"           as "gradient", with DeconvNet's rule for ReLU (Zeiler & Fergus 2014); in a network without
                          max pooling it hardly depends on the image
    "grad_cam"            ReLU of the gradient-weighted activations of ``layer``, resized (Selvaraju et al. 2017)
    "fine_grained"        centre-surround contrast over six scales (Montabone & Soto 2010; SaliencyMix); runs no model
    ====================  ==========================================================================================

    With ``scale`` below 1 the map is that of an antialiased bicubic reduction of the images ("low resolution based
    approximation", KeepAugment §3.1), which costs about ``scale²`` of the full map.

    The model is only observed: nothing in it, nor the global random state, is changed (see
    :mod:`dali_salaug.saliency.observer`). It is computed in eval mode, so each map depends on its own image alone,
    unless a BatchNorm keeps no running statistics (``track_running_stats=False``) and so looks at the whole batch.
    Hooks that the user registered on the model run in the pass too. The call never waits for the device, but for the
    first call of "grad_cam" without ``layer``.

    Args:
        model: the live model, images (B, C, H, W) to logits (B, K), whatever wrapper it wears. Below ``scale=1`` it
            must take smaller images too, as networks that end in global average pooling do. Not used, and may be
            None, for "fine_grained".
        images: (B, C, H, W), floating point, normalised as for training.
        labels: (B,), int64, in [0, K); or the classes' shares y, (B, K), floating point, such as soft targets or the
            zeros and ones of several labels. Not needed for target "max" and method "fine_grained".
        method: one of the table.
        target: the scalar: "label", the logit of the true class, or Σ y_k · logit_k, which is the same for a one-hot
            row; "max", the largest logit; "loss", the cross-entropy with the true label or the shares, with a minus
            sign before it, so that the methods to which signs matter ("guided", "deconvnet", "grad_cam") show what
            speaks for the label. Not used by "fine_grained". For labels that are no classes, as in regression, take
            "max".
        scale: side of the map over side of the image, in (0, 1]; sides are rounded to whole pixels.
        head: a module that computes the logits instead of ``model``, for example an early classification head.
        samples: for "smoothgrad", the number of noisy copies, 1 or more.
        noise: for "smoothgrad", the noise's standard deviation over the image's range of values, 0 or more.
        generator: for "smoothgrad", on the images' device. With None, the noise is what the global generator would
            return next, and that generator's state is restored.
        layer: for "grad_cam", the name of a submodule such as "layer4" with an output (B, K, m, n), (B, m, n, K) or
            (B, tokens, K). The images' aspect tells these layouts apart. By default the last feature map before the
            last LayerNorm or global pooling, see ``saliency.feature_maps.last_feature_map``.
        compiled: whether the pass uses ``torch.compile``, for "gradient" and "smoothgrad". The first calls for each
            size of images take the time to compile; the map is the same up to rounding.

    Returns:
        (B, h, w), float32, not negative and without normalisation; detached.

    Raises:
        ValueError: for an argument outside the ranges above, a model that cannot take the reduced size, or one that
            the method does not fit ("guided" and "deconvnet" need ReLU, "grad_cam" a layer of feature maps).
    """
    check_saliency_options(
        method=method,
        target=target,
        scale=scale,
        samples=samples,
        noise=noise,
        layer=layer,
        compiled=compiled,
    )
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"generator must be a torch.Generator or None; got {generator!r}")
    images = check_images("images", images)
    if method == "fine_grained":
        with torch.inference_mode(False), torch.no_grad():
            return fine_grained_map(images if scale == 1 else reduced(images, scale))
    if target == "max":
        labels = None
    elif labels is None:
        raise ValueError(f"labels must be given for target {target!r} (target 'max' does without); got None")
    else:
        labels = check_labels(labels, images)
    network = model if head is None else head
    if not isinstance(network, nn.Module):
        raise ValueError(f"{'model' if head is None else 'head'} must be a torch.nn.Module; got {network!r}")

    with observing(network, images.device, compiled=compiled) as forward:
        pixels = reduced(images, scale)

        def scalar_of(labels: Tensor | None) -> Scalar:
            return lambda pixels: _scalar(logits_of(forward, pixels, images.shape[-2:], scale), labels, target)

        def of_batch(compute: Callable[[Scalar, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
            return lambda pixels: _in_pieces(lambda part, labels: compute(scalar_of(labels), part), pixels, labels)

        if method == "smoothgrad":
            saliency = smoothgrad_map(
                of_batch(pixel_gradient), pixels, samples=samples, noise=noise, generator=generator
            )
        elif method == "grad_cam":
            saliency = of_batch(lambda scalar, part: grad_cam_map(scalar, part, unwrap(network), layer))(pixels)
        elif method in ("guided", "deconvnet"):
            saliency = of_batch(lambda scalar, part: relu_rule_map(scalar, part, method))(pixels)
        else:
            saliency = of_batch(gradient_map)(pixels)
        return saliency.float()


def check_saliency_options(
    *,
    method: str,
    target: str,
    scale: float,
    samples: int = 25,
    noise: float = 0.15,
    layer: str | None = None,
    compiled: bool = False,
) -> None:
    """Raise ValueError for options that :func:`saliency_map` would refuse, whatever the model and the images."""
    check_choice("method", method, METHODS)
    check_choice("target", target, TARGETS)
    check_number("scale", scale, 0, 1, open_low=True)
    check_whole_number("samples", samples, 1)
    check_number("noise", noise, 0, math.inf)
    if layer is not None and not isinstance(layer, str):
        raise ValueError(f"layer must be the name of a submodule or None; got {layer!r}")
    if not isinstance(compiled, bool) or (compiled and method not in COMPILED):
        raise ValueError(
            f"compiled must be False, or True with a method of {', '.join(COMPILED)} (the others look into the model "
            f"as it runs); got {compiled!r} with method {method!r}"
        )


def _in_pieces(compute: Callable[[Tensor, Tensor | None], Tensor], pixels: Tensor, labels: Tensor | None) -> Tensor:
    """Return what ``compute`` returns for each image; on the CPU, compute it for a few images at a time (``PIECE``)."""
    batch, _, height, width = pixels.shape
    count = 1 if pixels.is_cuda else min(batch, math.ceil(batch * height * width / PIECE))
    if count == 1:
        return compute(pixels, labels)
    parts = pixels.tensor_split(count)
    return torch.cat(list(map(compute, parts, (None,) * count if labels is None else labels.tensor_split(count))))


def logits_of(forward: Forward, pixels: Tensor, size: torch.Size, scale: float) -> Tensor:
    """Return the model's logits for ``pixels``, the images of ``size`` reduced by ``scale``."""
    try:
        logits = forward(pixels.clone())  # autograd does not let a first layer work in place on a leaf
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        if pixels.shape[-2:] == size or not _takes(forward, pixels.new_zeros((len(pixels), pixels.shape[1], *size))):
            raise
        raise ValueError(
            f"the model cannot take the images reduced to {pixels.shape[-2]}×{pixels.shape[-1]} pixels "
            f"(scale={scale:g}): {error}. Give scale=1.0, or a model that ends in global (adaptive) pooling."
        ) from error
    _check_logits(logits, len(pixels))
    return logits


def _takes(forward: Forward, images: Tensor) -> bool:
    """Return whether the model runs on ``images``; of an error at the reduced size the size may not be the cause."""
    try:
        with torch.no_grad():
            forward(images)
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


def reduced_size(images: Tensor, scale: float) -> tuple[int, int]:
    """Return the height and width of ``images`` reduced by ``scale``."""
    return max(1, round(images.shape[-2] * scale)), max(1, round(images.shape[-1] * scale))


def reduced(images: Tensor, scale: float) -> Tensor:
    """Return a detached copy of ``images``, reduced by ``scale``, in float32 or more."""
    images = at_least_float32(images.detach())
    size = reduced_size(images, scale)
    if size == images.shape[-2:]:
        return images.clone()
    return F.interpolate(images, size, mode="bicubic", antialias=True)


def _scalar(logits: Tensor, labels: Tensor | None, target: str) -> Tensor:
    """Return the sum of the batch's scalars; a mean would divide the gradients by B, towards underflow."""
    logits = at_least_float32(logits)
    if labels is None:  # target "max"
        return logits.max(1).values.sum()
    check_label_form(labels, logits.shape[1], otherwise="For labels that are no classes, give target='max'")
    if labels.is_floating_point():
        labels = labels.detach().to(logits.dtype)
    if target == "loss":
        return -F.cross_entropy(logits, labels, reduction="sum")
    return (labels * logits).sum() if labels.ndim == 2 else logits.gather(1, labels[:, None]).sum()


def _check_logits(logits: object, batch: int) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != batch:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model must return logits ({batch}, K); got {got}")
    if not logits.requires_grad:
        raise ValueError(NOT_DIFFERENTIABLE)
