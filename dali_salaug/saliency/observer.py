"""Running a model in training without leaving a trace in it.

A saliency map observes the live model in the middle of a training step. This must change nothing: parameters, buffers,
accumulated gradients, ``requires_grad`` flags, the mode of each submodule, random state.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils import parametrize

from .batch_norm import KeepsMemoryFormat

Forward = Callable[[Tensor], Tensor]
KEEPS_MEMORY_FORMAT = "cuda"  # the type of device on which PyTorch's own BatchNorm does not


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside any nesting of DistributedDataParallel, DataParallel and ``torch.compile``.

    DDP's wrapper would arm its gradient reducer. A compiled module computes the gradients of all its parameters even
    where only the input's is needed.
    """
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:  # torch.compile's OptimizedModule
            model = model._modules["_orig_mod"]  # type: ignore[assignment]
        else:
            return model


@contextmanager
def observing(model: nn.Module, device: torch.device, *, compiled: bool = False) -> Iterator[Forward]:
    """Yield ``model``'s forward as a pure observer, for images on ``device``.

    Inside the context the model computes in eval mode, in which an image's result depends on that image alone (unless
    a BatchNorm keeps no running statistics), with gradients enabled, on detached copies of its parameters and buffers.
    Gradients reach only the images, and a layer that writes into a buffer writes into a copy. Afterwards everything in
    the model, and the global random state of the CPU and of ``device``, is as it was, also if the body raises.

    With ``compiled``, the forward pass, and so the backward pass to the images, uses ``torch.compile``. Without it,
    compiled parts of the model run eagerly too, because compiled code would compute more than is needed.

    Reduced precision: float16 weights and float16 autocast compute in bfloat16, because a float16 gradient underflows
    to zero where the model is confident.
    """
    module = unwrap(model)
    training = [m for m in module.modules() if m.training]
    with ExitStack() as stack:
        # While a CUDA graph is captured, the GPU's state is neither read nor set; who captures keeps it.
        gpus = [device] if device.type == "cuda" and not torch.cuda.is_current_stream_capturing() else []
        stack.enter_context(torch.random.fork_rng(devices=gpus))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type) == torch.float16:
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
        if not compiled and any_compiled(module):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_parametrizations_not_cached())
        # The attribute is the mode; a model may override train() and eval(), and leave some layers unchanged.
        for m in training:
            stack.callback(setattr, m, "training", True)
            m.training = False
        tensors = {name: _safe_dtype(p.detach()) for name, p in module.named_parameters()}
        tensors |= {name: _safe_dtype(buffer) for name, buffer in copied_buffers(module).items()}
        weights = [tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()]

        called: nn.Module = _Compiled(module) if compiled else module
        if compiled:
            tensors = {f"module.{name}": tensor for name, tensor in tensors.items()}

        exchanged = device.type == KEEPS_MEMORY_FORMAT and not compiled
        context = KeepsMemoryFormat() if exchanged else nullcontext()

        def forward(images: Tensor) -> Tensor:
            with context:
                return functional_call(called, tensors, (images.to(weights[0] if weights else images.dtype),))

        yield forward


def copied_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the module's buffers by their names, without gradients."""
    buffers = {name: buffer.detach() for name, buffer in module.named_buffers()}
    copies = {name: torch.empty_like(buffer) for name, buffer in buffers.items()}
    copy_together(list(copies.values()), list(buffers.values()))
    return copies


def copy_together(copies: list[Tensor], tensors: list[Tensor]) -> None:
    """Copy each of the tensors into the one of its place, in one launch for all of a dtype and device."""
    groups: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for place, tensor in enumerate(tensors):
        groups.setdefault((tensor.dtype, tensor.device), []).append(place)
    for places in groups.values():
        torch._foreach_copy_([copies[place] for place in places], [tensors[place] for place in places])


@contextmanager
def _parametrizations_not_cached() -> Iterator[None]:
    """Leave alone what ``parametrize.cached()`` keeps around a step: weights from here would have no gradient there."""
    enabled, kept = parametrize._cache_enabled, parametrize._cache
    parametrize._cache_enabled, parametrize._cache = 0, {}
    try:
        yield
    finally:
        parametrize._cache_enabled, parametrize._cache = enabled, kept


class _Compiled(nn.Module):
    """``module`` by way of ``torch.compile``; ``functional_call`` exchanges the weights from outside."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        return _compiled_call()(self.module, images)


@cache
def _compiled_call() -> Callable[[nn.Module, Tensor], Tensor]:
    # Created when first needed, because torch.compile takes seconds to import. Not dynamic: there are few shapes (whole
    # batches, the last one), and kernels for fixed shapes are faster.
    return torch.compile(lambda module, images: module(images), dynamic=False)


def _safe_dtype(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if tensor.dtype == torch.float16 else tensor


def any_compiled(module: nn.Module) -> bool:
    """Return whether a part of ``module`` was compiled, by ``torch.compile(part)`` or ``part.compile()``."""
    if "torch._dynamo" not in sys.modules:  # then nothing was compiled; the import takes seconds
        return False
    return any(m._compiled_call_impl is not None or "_orig_mod" in m._modules for m in module.modules())
