"""The stage's side of a memory of saliency maps: which crops a batch shows, and how its gradient reaches the memory."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ._checks import check_indices, check_matrices, check_views
from ._tensors import at_least_float32
from .consistency.map_geometry import unwarp
from .methods.base import Method
from .saliency.grad_cam import submodule
from .saliency.memory import SaliencyMemory
from .saliency.observer import any_compiled, unwrap

MEMORY = "memory"  # as the stage's saliency
FIRST = "first"  # as its layer: the first convolution
PATIENCE = 8  # batches that the stage may be called for in a row without a forward pass of the model
T = TypeVar("T")


class Crops:
    """The crops of a batch, and the memory that keeps the maps of their samples.

    Args:
        memory: it is moved to the device of ``images``.
        images, indices, views, matrices: as :class:`~dali_salaug.SaliencyStage` is called.
        layer: whose output's gradient is remembered; None: that of the inputs.
        previous: of the last batch, which no longer listens to the layer.

    Raises:
        ValueError: for arguments of another form, or ones that are missing.
    """

    def __init__(
        self,
        memory: SaliencyMemory,
        images: Tensor,
        indices: Tensor | None,
        views: Tensor | None,
        matrices: Tensor | None,
        layer: nn.Module | None = None,
        previous: "Crops | None" = None,
    ) -> None:
        self.indices = check_indices("indices", _given("indices", indices), images)
        self.views = _given("views", views)
        check_views(self.views, self.indices)
        if matrices is not None:
            check_matrices(matrices, images)
        self.matrices = matrices
        self.size = (images.shape[-2], images.shape[-1])
        self.layer = layer
        self._listening: RemovableHandle | None = None
        self._unheard = 0  # batches before this one, in a row, that no forward pass has seen
        if previous is not None and previous._listening is not None:
            previous._forget()
            self._unheard = previous._unheard + 1
        if self._unheard == PATIENCE:
            raise ValueError(
                f"layer must be None, or part of a model that is trained as it is: in the last {PATIENCE} batches it "
                "has not been called in training mode and with gradients enabled (torch.compile would hide its calls)"
            )
        self.memory = memory if memory.device == images.device else memory.to(images.device)

    def maps(self, size: tuple[int, int]) -> Tensor:
        """Return the remembered maps, (B, *size), float32."""
        return self.memory.read(self.indices, self.views, size)

    def remembering(self, inputs: Tensor, own: Tensor | None = None, *, augmented: bool = False) -> Tensor:
        """Return the network's inputs, whose gradient is written to the memory as soon as there is one.

        Without a layer they are a leaf. With one, the next forward pass in training is listened to.

        Args:
            inputs: (B, C, H, W).
            own: see :meth:`~dali_salaug.methods.base.Method.own_pixels`.
            augmented: whether the other pixels are those of the augmented images, where the matrices put them.
        """
        if not torch.is_grad_enabled():
            return inputs

        def write(gradient: Tensor) -> None:
            weights = own
            if augmented and own is not None and self.matrices is not None:
                gradient, weights = _unwarped(gradient, own, self.matrices)
            self.memory.write(self.indices, self.views, gradient, weights)

        if self.layer is None:
            inputs = inputs.detach().requires_grad_()
            inputs.register_hook(write)
        else:
            self._listening = self.layer.register_forward_hook(functools.partial(self._listen, write))
        return inputs

    def _listen(self, write: Callable[[Tensor], None], layer: nn.Module, _: tuple, output: Any) -> None:
        """Have the gradient of the layer's output written, once; validation and saliency passes are left alone."""
        if not (torch.is_grad_enabled() and layer.training):
            return
        self._forget()
        count = len(self.indices)
        if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != count or not output.requires_grad:
            form = f"{tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"layer must be one that is trained, with an output (B, C, h, w) for all {count} images of the batch; "
                f"got {form}"
            )
        output.register_hook(lambda gradient: write(_in_pixels(gradient, self.size)))

    def _forget(self) -> None:
        if self._listening is not None:
            self._listening.remove()
            self._listening = None


@torch.no_grad()
def _unwarped(gradient: Tensor, own: Tensor, matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the map of the clean images, (B, 1, H, W), and its weights: of their own pixels and of the moved ones."""
    with torch.autocast(gradient.device.type, enabled=False):
        saliency = at_least_float32(gradient).abs().amax(1)
        own = own.to(saliency.dtype)
        size = (own.shape[-2], own.shape[-1])
        moved, view = unwarp((1 - own) * saliency, matrices, size)
        weights, _ = unwarp(1 - own, matrices, size)
        moved, weights = moved * view, own + weights * view
        return ((own * saliency + moved) / weights.clamp(min=1e-6))[:, None], weights.clamp(max=1)


@torch.no_grad()
def _in_pixels(gradient: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the sum over channels of a gradient's absolute value, (B, 1, *size), at least float32."""
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    saliency = torch.linalg.vector_norm(gradient, 1, 1, keepdim=True, dtype=dtype)
    return F.interpolate(saliency, size, mode="nearest-exact")


def layer_of(model: nn.Module, layer: str | None) -> nn.Module | None:
    """Return the layer of the stage's option: a submodule, FIRST, or None for none.

    Raises:
        ValueError: the model has no such submodule, or is compiled.
    """
    if layer is None:
        return None
    if any_compiled(model):
        raise ValueError(f"layer must be None for a compiled model, whose layers cannot be listened to; got {layer!r}")
    network = unwrap(model)
    if layer != FIRST:
        return submodule(network, layer, others=f"None, {FIRST!r} or ")
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise ValueError(f"layer must be the name of a submodule for a model without a convolution; got {layer!r}")
    return first


def check_memory(method: Method[Any], memory: object, *, head: nn.Module | None, options: dict[str, Any]) -> None:
    """Check the stage's arguments where its saliency is a memory."""
    if not isinstance(memory, SaliencyMemory):
        raise ValueError(f"memory must be a SaliencyMemory where saliency is 'memory'; got {memory!r}")
    if not method.uses_saliency:
        raise ValueError(f"method must be one that uses saliency maps where saliency is 'memory'; got {method!r}")
    layer = options.get("layer")
    if layer is not None and not isinstance(layer, str):
        raise ValueError(f"layer must be None, 'first' or the name of a submodule; got {layer!r}")
    unused = sorted(options.keys() - {"layer"}) + ["head"] * (head is not None)
    if unused:
        raise ValueError(f"{unused[0]} must not be given where saliency is 'memory', which makes no map of the model")


def _given(name: str, value: T | None) -> T:
    if value is None:
        raise ValueError(
            f"{name} must be given where saliency is 'memory', such as the {name} of a loader's batch "
            "(image_loader(with_views=True)); got None"
        )
    return value
