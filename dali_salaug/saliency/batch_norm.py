"""BatchNorm in eval mode with a backward pass that keeps the memory format.

On a GPU the gradient that PyTorch's own returns is channels-first even where images and gradient are channels-last
(`batch_norm_elementwise_backward_eval`, in 2.11 at least), and the layer before has to transpose it again.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode


class KeepsMemoryFormat(TorchFunctionMode):
    """A context in which the gradient of BatchNorm in eval mode is channels-last where its images are.

    The outputs are PyTorch's own, and the gradients by the images equal its own up to rounding. There are no gradients
    by weight and bias, nor second derivatives. Calls with another weight or ε than their layer's are left to PyTorch;
    so are those inside a checkpoint, which compares what was saved, and inside ``torch.func``'s transforms.

    Args:
        module: whose layers are meant.
        tensors: its parameters and buffers by their names, with which it is called.
    """

    def __init__(self, module: nn.Module, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        variances, weights, eps = [], [], []
        for name, layer in module.named_modules():
            variance = tensors.get(f"{name}.running_var" if name else "running_var")
            # Of reduced precision, PyTorch computes in float32.
            if (
                isinstance(layer, _BatchNorm)
                and variance is not None
                and variance.dtype in (torch.float32, torch.float64)
            ):
                variances.append(variance)
                weights.append(tensors.get(f"{name}.weight" if name else "weight"))
                eps.append(layer.eps)
        factors = _factors(variances, weights, eps) if variances else []
        known = zip(variances, factors, weights, eps, strict=True)
        self._factors = {id(variance): (factor, weight, own) for variance, factor, weight, own in known}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        called = self._batch_norm if function is F.batch_norm else function
        return called(*args, **(kwargs or {}))

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
        factor, own_weight, own_eps = self._factors.get(id(running_var), (None, None, None))
        # A subclass may change them; those of a parametrized or shared weight are not known by the layer's name.
        own = factor is not None and weight is own_weight and eps == own_eps
        if training or not own or _is_watched() or not _is_channels_last(input):
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return _InEvalMode.apply(input, factor, running_mean, running_var, weight, bias, eps)


def _is_watched() -> bool:
    """Return whether a hook sees what is saved for the backward pass, or a transform of functorch is active."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None or torch._C._are_functorch_transforms_active()


def _is_channels_last(images: Tensor) -> bool:
    return images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)


def _factors(variances: list[Tensor], weights: list[Tensor | None], eps: list[float]) -> list[Tensor]:
    """Return w/σ of each channel of each layer, in five launches for all of them."""
    factors = torch._foreach_add(variances, eps)
    torch._foreach_sqrt_(factors)
    torch._foreach_reciprocal_(factors)
    pairs = [(factor, weight) for factor, weight in zip(factors, weights, strict=True) if weight is not None]
    if pairs:
        torch._foreach_mul_([factor for factor, _ in pairs], [weight for _, weight in pairs])
    return list(factors)


class _InEvalMode(Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        factor: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(factor)
        return F.batch_norm(input, running_mean, running_var, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (factor,) = ctx.saved_tensors
        result = torch.empty_like(gradient, memory_format=torch.channels_last)
        # Computed in the factor's precision, and rounded to the gradient's.
        torch.mul(gradient, factor.view(-1, 1, 1), out=result)
        return result, None, None, None, None, None, None
