"""Convolution and BatchNorm with a gradient that is cheap to differentiate once more.

A loss on the pixels' gradient g = ∂f/∂x differentiates a backward pass. PyTorch does that with a convolution as large
as the image for each weight, and a dozen passes over the activations for each BatchNorm. The kernels of the first order
suffice for both. Let dy be the gradient from which the layer computes its g, and u the gradient that arrives at g:

- convolution, g = Wᵀ dy: dy receives W u, a forward pass; W receives the weights' gradient of an ordinary backward
  pass, with u in place of the input;
- BatchNorm on the batch's statistics, g = J dy with J symmetric: dy receives J u, an ordinary backward pass; the sums
  that this pass takes for weight and bias determine what x and the weight receive.

The step therefore has six passes instead of three: forward, to the pixels, the two of its derivative, and the two of an
ordinary backward pass. The result equals PyTorch's, up to rounding.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from ..saliency.gradients import gradient_by

aten = torch.ops.aten


class TwiceDifferentiable(TorchFunctionMode):
    """A context in which a forward pass has a :meth:`pixel_gradient` that is cheap to differentiate.

    It replaces 2-d convolutions and BatchNorm on batch statistics, and leaves everything else to PyTorch. The gradient
    can be differentiated once. An ordinary backward pass through the same graph, before, after or together with that,
    is unaffected.

    Example:
        >>> with TwiceDifferentiable() as second_order:
        ...     logits = model(pixels)
        >>> gradient = second_order.pixel_gradient(logits.sum(), pixels)
        >>> (F.cross_entropy(logits, labels) + gradient.square().sum()).backward()
    """

    def __init__(self) -> None:
        super().__init__()
        # An object, not a thread's variable: on a GPU backward passes run in a thread of their own.
        self._pass = _Pass()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        exchanged: dict[Any, Callable[..., Tensor]] = {
            torch.conv2d: self._conv2d,
            F.batch_norm: self._batch_norm,
            F.hardsigmoid: _hardsigmoid,
        }
        return exchanged.get(function, function)(*args, **(kwargs or {}))

    def pixel_gradient(self, scalar: Tensor, pixels: Tensor, *, differentiable: bool = True) -> Tensor:
        """Return the gradient of ``scalar``, computed inside the context, by ``pixels``, and of their shape.

        Raises:
            ValueError: the pass cannot be differentiated with respect to the pixels.
        """
        self._pass.pixels_only = True
        try:
            return gradient_by(pixels, scalar, keep_graph=True, differentiable=differentiable)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(
                f"model must have second derivatives where the saliency loss is computed: {str(error).splitlines()[0]} "
                "Exchange the layer that has none (checkpointing: use_reentrant=False), or set gamma=0"
            ) from error
        finally:
            self._pass.pixels_only = False

    def _conv2d(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if isinstance(padding, str) or input.ndim != 4:
            return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
        device = input.device.type
        if torch.is_autocast_enabled(device):  # it casts between here and the operator
            dtype = torch.get_autocast_dtype(device)
            input, weight, bias = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        pairs = [[side, side] if isinstance(side, int) else list(side) for side in (stride, padding, dilation)]
        return _Conv2d.apply(input, weight, bias, (*pairs, False, [0, 0], groups), self._pass)

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:  # a factor and a shift for each channel, which is cheap already
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return _BatchNorm.apply(input, weight, bias, running_mean, running_var, momentum, eps, self._pass)


class _Pass:
    # Autograd does not tell a Function that only the pixels' gradient is needed, and would compute all weights' too.
    pixels_only = False


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    return F.relu6(input + 3) / 6  # PyTorch's own has no second derivative


def check_differentiable(gradient: Tensor) -> None:
    """Raise ValueError where an operator in the graph has no derivative: else the user's backward pass would say so."""
    seen, waiting = set(), [gradient.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        # "NotImplemented" stands for an operator without a derivative, "Error" for a `once_differentiable` function.
        if type(node).__name__ in ("NotImplemented", "Error"):
            raise ValueError(
                "model must have second derivatives where the saliency loss is computed: one of its layers has none."
                " Exchange the layer, or set gamma=0"
            )
        waiting += [following for following, _ in node.next_functions]


class _Conv2d(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: tuple, asked: _Pass) -> Tensor:
        ctx.options, ctx.asked, ctx.bias_shape = options, asked, None if bias is None else list(bias.shape)
        ctx.save_for_backward(x, weight)
        return aten.convolution(x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if ctx.asked.pixels_only:
            return _Conv2dPixelGradient.apply(dy, weight, x.detach(), ctx.options), None, None, None, None
        needed = list(ctx.needs_input_grad[:3])
        return *aten.convolution_backward(dy, x, weight, ctx.bias_shape, *ctx.options, needed), None, None


class _Conv2dPixelGradient(Function):
    @staticmethod
    def forward(ctx: Any, dy: Tensor, weight: Tensor, x: Tensor, options: tuple) -> Tensor:
        ctx.options = options
        ctx.save_for_backward(dy, weight)
        return aten.convolution_backward(dy, x, weight, None, *options, [True, False, False])[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        dy, weight = ctx.saved_tensors
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = aten.convolution_backward(dy, u, weight, None, *ctx.options, [False, True, False])[1]
        return aten.convolution(u, weight, None, *ctx.options), to_weight, None, None


class _BatchNorm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        asked: _Pass,
    ) -> Tensor:
        y, mean, invstd = aten.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)
        ctx.eps, ctx.asked = eps, asked
        ctx.save_for_backward(x, weight, mean, invstd)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, invstd = ctx.saved_tensors
        unasked = (None,) * 5
        if ctx.asked.pixels_only:
            return _BatchNormPixelGradient.apply(dy, x, weight, mean, invstd, ctx.eps), None, None, *unasked
        return *_batch_norm_backward(dy, x, weight, mean, invstd, ctx.eps, list(ctx.needs_input_grad[:3])), *unasked


class _BatchNormPixelGradient(Function):
    """g = J dy for each channel, J = w/σ (I − 11ᵀ/N − x̂x̂ᵀ/N), of N values x, x̂ = (x − μ)/σ, and weight w."""

    @staticmethod
    def forward(
        ctx: Any, dy: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, invstd: Tensor, eps: float
    ) -> Tensor:
        gradient, dy_x, dy_1 = _batch_norm_backward(dy, x, weight, mean, invstd, eps, [True, True, True])
        ctx.eps = eps
        ctx.save_for_backward(dy, x, weight, mean, invstd, dy_x, dy_1)
        return gradient

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        # x and w receive the gradient of s = ⟨u, J dy⟩ = w/σ q. The kernel returns all of its sums but one:
        # q = ⟨u, dy⟩ − ⟨u, 1⟩⟨dy, 1⟩/N − ⟨u, x̂⟩⟨dy, x̂⟩/N. With ∂σ/∂x = x̂/N and ∂x̂/∂x = (I − 11ᵀ/N − x̂x̂ᵀ/N)/σ
        # ∂s/∂x = −w/(σ²N) (⟨dy, x̂⟩ (u − ū) + ⟨u, x̂⟩ (dy − mean dy) + x̂ (q − 2 ⟨u, x̂⟩⟨dy, x̂⟩/N)).
        dy, x, weight, mean, invstd, dy_x, dy_1 = ctx.saved_tensors
        to_dy, u_x, u_1 = _batch_norm_backward(u, x, weight, mean, invstd, ctx.eps, [True, True, True])
        count = x.numel() // x.shape[1]
        u_dy = (u * dy).sum([0, *range(2, x.ndim)], dtype=mean.dtype)
        # The sums per channel in few launches: a network has some fifty of these layers.
        q = u_dy.addcmul_(u_1, dy_1, value=-1 / count).addcmul_(u_x, dy_x, value=-1 / count)
        factor = invstd.square().div_(-count)
        if weight is not None:
            factor *= weight
        of_x = torch.addcmul(q, u_x, dy_x, value=-2 / count).mul_(factor).mul_(invstd)
        of_u, of_dy = factor * dy_x, factor * u_x
        constant = torch.addcmul(of_u * u_1, of_dy, dy_1).div_(-count).addcmul_(of_x, mean, value=-1)

        def per_channel(values: Tensor) -> Tensor:
            return values.reshape(-1, *(1,) * (x.ndim - 2))

        # In float32 even under autocast, as the constant is: it and x nearly cancel where the mean is far from 0.
        to_x = torch.addcmul(per_channel(constant), x, per_channel(of_x))
        to_x.addcmul_(u, per_channel(of_u)).addcmul_(dy, per_channel(of_dy))
        return to_dy, to_x.to(x.dtype), None if weight is None else q * invstd, None, None, None


def _batch_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, invstd: Tensor, eps: float, needed: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ordinary gradients of x, weight and bias: J dy, and ⟨dy, x̂⟩ and ⟨dy, 1⟩ for each channel."""
    return aten.native_batch_norm_backward(dy, x, weight, None, None, mean, invstd, True, eps, needed)
