"""Maps from a gradient with another rule for ReLU: guided backpropagation and DeconvNet.

The rule applies to the nodes of the pass's own autograd graph. It therefore holds however the model calls ReLU (a
module, a function, a method, in place). The model stays unchanged, and there is nothing to undo.
"""

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.autograd.graph import Node

from .gradients import Scalar, gradient_by

# From a ReLU's ordinary gradient (zero where its input was not positive) and the incoming gradient.
RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "guided": lambda gradient, incoming: gradient.clamp(min=0),
    "deconvnet": lambda gradient, incoming: incoming.clamp(min=0),
}


def relu_rule_map(scalar: Scalar, pixels: Tensor, rule: str) -> Tensor:
    """Return the largest absolute value over channels of the pixels' gradient under ``rule``: (B, h, w).

    "guided" passes a gradient through a ReLU where it and the ReLU's input are positive (Springenberg et al. 2015,
    arXiv:1412.6806, "Deconvolution"). "deconvnet" passes it where it is positive (Zeiler & Fergus 2014,
    arXiv:1311.2901, §2.1), whatever the ReLU's input. With it, the image enters the map only through the choices of max
    pooling and the like; a network without them has one map per class.

    Args:
        scalar: see :data:`~dali_salaug.saliency.gradients.Scalar`.
        pixels: (B, C, h, w).
        rule: "guided" or "deconvnet".

    Raises:
        ValueError: if the model's forward pass has no ReLU.
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
    return gradient_by(pixels, total).abs().amax(1)


def _nodes(result: Tensor) -> Iterator[Node]:
    """Yield every node of the graph that computed ``result``, once."""
    seen: set[Node] = set()
    pending = [result.grad_fn]
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            pending += [parent for parent, _ in node.next_functions]
