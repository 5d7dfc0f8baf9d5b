"""Grad-CAM: where one layer's feature maps hold the evidence for the scalar."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .gradients import Scalar


class Activation(NamedTuple):
    """A layer's output as it left the layer; a later layer may have written into the tensor since."""

    values: Tensor  # (B, K, m, n), a copy
    edge: GradientEdge  # its place in the autograd graph
    output: Tensor
    version: int


def grad_cam_map(scalar: Scalar, pixels: Tensor, network: nn.Module, layer: str | None) -> Tensor:
    """Return the ReLU of a layer's activations, weighted by their gradients' spatial means and resized: (B, h, w).

    Selvaraju et al. 2017, arXiv:1610.02391, eq. 1 and 2.

    Args:
        scalar: see :data:`~dali_salaug.saliency.gradients.Scalar`; it calls ``network``.
        pixels: (B, C, h, w).
        network: the module that ``layer`` names a part of.
        layer: name of a submodule with output (B, K, m, n), as in ``network.named_modules()`` without what
            ``torch.compile`` adds to it. None means the last feature map before global pooling: the last output, in the
            order in which submodules finish, with four dimensions and more than one position, except adaptive
            pooling's.

    Raises:
        ValueError: for an unknown name, or a layer that has no feature map or no influence on the scalar.
    """
    layers = {name.replace("_orig_mod.", "").removesuffix("._orig_mod"): m for name, m in network.named_modules()}
    del layers[""]
    if layer is not None and layer not in layers:
        close = difflib.get_close_matches(layer, layers, n=3) or list(layers)[:3]
        raise ValueError(
            f"layer must be the name of a submodule of the model, such as {', '.join(map(repr, close))}; got {layer!r}"
        )
    if layer is None:
        watched = [m for m in layers.values() if not isinstance(m, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d)]
    else:
        watched = [layers[layer]]
    with _last_feature_map(watched, smallest=2 if layer is None else 1) as found:
        total = scalar(pixels.detach().requires_grad_())
    if not found:
        raise ValueError(
            "layer must be given for this model: none of its submodules has an output (B, K, m, n) with m·n > 1"
            if layer is None
            else f"layer must be one with an output (B, K, m, n) that depends on the images; {layer!r} has none"
        )
    (gradient,) = torch.autograd.grad(total, found[0].edge, allow_unused=True)
    if gradient is None:
        raise ValueError(f"layer must be one that the logits depend on; {layer or 'the one found'!r} is not")
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    weights = gradient.to(dtype).mean((2, 3), keepdim=True)
    weighted = (weights * found[0].values.to(dtype)).sum(1, keepdim=True).relu()
    return F.interpolate(weighted, pixels.shape[-2:], mode="bilinear").squeeze(1)


@contextmanager
def _last_feature_map(watched: list[nn.Module], smallest: int) -> Iterator[list[Activation]]:
    """Yield a list that a forward pass inside the context fills with the last feature map among ``watched``'s outputs.

    It stays empty if no output has four dimensions, at least ``smallest`` positions and a gradient.
    """
    found: list[Activation] = []

    def keep(module: nn.Module, args: object, output: object) -> None:
        if not isinstance(output, Tensor) or output.ndim != 4 or not output.requires_grad:
            return
        if output.shape[-2] * output.shape[-1] < smallest:
            return
        if found and found[0].output is output and found[0].version == output._version:
            return  # a container returns its last layer's output
        found[:] = [Activation(output.detach().clone(), get_gradient_edge(output), output, output._version)]

    handles = [module.register_forward_hook(keep) for module in watched]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
