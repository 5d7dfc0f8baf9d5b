"""Maps from a gradient in which ReLU is differentiated by another rule: guided backpropagation and DeconvNet.

The rule is put on the nodes of the pass's own autograd graph. So it holds however the model calls ReLU (a module, a
function, a method, in place), the model is left alone, and there is nothing to undo.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd.graph import Node

from .gradients import Scalar

# From a ReLU's ordinary gradient (zero where its input was not positive) and the gradient that came in from above.
RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "guided": lambda gradient, incoming: gradient.clamp(min=0),
    "deconvnet": lambda gradient, incoming: incoming.clamp(min=0),
}


def relu_rule_map(scalar: Scalar, pixels: Tensor, rule: str) -> Tensor:
    """The largest absolute value over channels of the pixels' gradient under ``rule``: (B, h, w).

    "guided" lets a gradient through a ReLU where it and the ReLU's input are positive (Springenberg et al. 2015,
    arXiv:1412.6806, "Deconvolution"); "deconvnet" where it is positive (Zeiler & Fergus 2014, arXiv:1311.2901,
    §2.1). The latter asks nothing about the ReLU's input: of the image, only the choices of max pooling and the like
    enter the map, and in a network without them it is one map per class.

    Args:
        scalar: see :data:`~dali_salaug.saliency.gradients.Scalar`.
        pixels: (B, C, h, w).
        rule: "guided" or "deconvnet".

    Raises:
        ValueError: where the model's pass has no ReLU.
    """
    pixels = pixels.detach().requires_grad_()
    total = scalar(pixels)
    relus = [node for node in _nodes(total) if node.name() == "ReluBackward0"]
    if not relus:
        raise ValueError(
            f"method {rule!r} needs a model that uses ReLU (torch.nn.ReLU, relu or relu_); its forward pass has none. "
            "ReLU6, leaky ReLU, GELU, SiLU and the like are not meant by the rule"
        )
    rectify = RULES[rule]
    for node in relus:
        node.register_hook(lambda gradients, incoming: (rectify(gradients[0], incoming[0]),))
    (gradient,) = torch.autograd.grad(total, pixels)
    return gradient.abs().amax(1)


def _nodes(result: Tensor) -> Iterator[Node]:
    """Every node of the graph that ``result`` was computed by, once."""
    assert result.grad_fn is not None
    seen, pending = {result.grad_fn}, [result.grad_fn]
    while pending:
        node = pending.pop()
        yield node
        for parent, _ in node.next_functions:
            if parent is not None and parent not in seen:
                seen.add(parent)
                pending.append(parent)
