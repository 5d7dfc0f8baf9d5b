"""Grad-CAM: where one layer's feature maps hold the evidence for the scalar."""

import difflib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .feature_maps import Layout, last_feature_map, last_output, layouts
from .gradients import Scalar


def grad_cam_map(scalar: Scalar, pixels: Tensor, network: nn.Module, layer: str | None) -> Tensor:
    """Return the ReLU of a layer's activations, weighted by their gradients' spatial means and resized: (B, h, w).

    Selvaraju et al. 2017, arXiv:1610.02391, eq. 1 and 2. Of tokens, those before the grid (class token, registers) are
    dropped.

    Args:
        scalar: see :data:`~dali_salaug.saliency.gradients.Scalar`; it calls ``network``.
        pixels: (B, C, h, w).
        network: the module that ``layer`` names a part of.
        layer: name of a submodule with output (B, K, m, n), (B, m, n, K) or (B, tokens, K), as in
            ``network.named_modules()`` without what ``torch.compile`` adds to it. None means the layer that
            :func:`~dali_salaug.saliency.feature_maps.last_feature_map` finds.

    Raises:
        ValueError: for an unknown name, or a layer that has no feature map or no influence on the scalar.
    """
    name = last_feature_map(scalar, pixels, network) if layer is None else layer
    module = network.get_submodule(name) if layer is None else submodule(network, name)
    with last_output(module) as found:
        total = scalar(pixels.detach().requires_grad_())
    if not found:
        raise ValueError(
            f"layer must be one with an output (B, K, m, n) that depends on the images; {layer!r} has none"
        )
    layout = _layout(found[0].values.shape, (pixels.shape[-2], pixels.shape[-1]), layer)
    (gradient,) = torch.autograd.grad(total, found[0].edge, allow_unused=True)
    if gradient is None:
        raise ValueError(f"layer must be one that the logits depend on; {layer or 'the one found'!r} is not")
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    weights = layout.maps(gradient).to(dtype).mean((2, 3), keepdim=True)
    weighted = (weights * layout.maps(found[0].values).to(dtype)).sum(1, keepdim=True).relu()
    return F.interpolate(weighted, pixels.shape[-2:], mode="bilinear").squeeze(1)


def submodule(network: nn.Module, layer: str, *, others: str = "") -> nn.Module:
    """Return the submodule of this name, without what ``torch.compile`` adds to it.

    Args:
        others: legal values that are no submodule, for the message: "'first' or ".

    Raises:
        ValueError: there is none.
    """
    layers = {name.replace("_orig_mod.", "").removesuffix("._orig_mod"): m for name, m in network.named_modules()}
    if layer not in layers.keys() - {""}:
        names = [name for name in layers if name]
        close = difflib.get_close_matches(layer, names, n=3) or names[:3]
        raise ValueError(
            f"layer must be {others}the name of a submodule of the model, such as {', '.join(map(repr, close))}; got"
            f" {layer!r}"
        )
    return layers[layer]


def _layout(shape: torch.Size, image_size: tuple[int, int], layer: str | None) -> Layout:
    """Return how to read a layer's output. In doubt, four dimensions are those of torch's own layers."""
    fitting = layouts(shape, image_size)
    if len(fitting) == 1:
        return fitting[0]
    if len(shape) == 4:
        return Layout("channels first", (shape[2], shape[3]))
    raise ValueError(
        f"layer must be one whose positions are a grid over images of {image_size[0]}×{image_size[1]} pixels;"
        f" {layer!r} has an output {tuple(shape)}"
    )
