"""The stage's side of a memory of saliency maps: which crops a batch shows, and how its gradient reaches the memory."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ._checks import check_indices, check_matrices, check_views
from ._tensors import at_least_float32
from .consistency.map_geometry import unwarp
from .methods.base import Method
from .saliency.memory import SaliencyMemory

MEMORY = "memory"  # as the stage's saliency
T = TypeVar("T")


class Crops:
    """The crops of a batch, and the memory that keeps the maps of their samples.

    Args:
        memory: it is moved to the device of ``images``.
        images, indices, views, matrices: as :class:`~dali_salaug.SaliencyStage` is called.

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
    ) -> None:
        self.indices = check_indices("indices", _given("indices", indices), images)
        self.views = _given("views", views)
        check_views(self.views, self.indices)
        if matrices is not None:
            check_matrices(matrices, images)
        self.matrices = matrices
        self.memory = memory if memory.device == images.device else memory.to(images.device)

    def maps(self, size: tuple[int, int]) -> Tensor:
        """Return the remembered maps, (B, *size), float32."""
        return self.memory.read(self.indices, self.views, size)

    def remembering(self, inputs: Tensor, own: Tensor | None = None, *, augmented: bool = False) -> Tensor:
        """Return the network's inputs as a leaf whose gradient is written to the memory, as soon as there is one.

        Args:
            inputs: (B, C, H, W).
            own: see :meth:`~dali_salaug.methods.base.Method.own_pixels`.
            augmented: whether the other pixels are those of the augmented images, where the matrices put them.
        """
        if not torch.is_grad_enabled():
            return inputs
        inputs = inputs.detach().requires_grad_()

        def write(gradient: Tensor) -> None:
            weights = own
            if augmented and own is not None and self.matrices is not None:
                gradient, weights = _unwarped(gradient, own, self.matrices)
            self.memory.write(self.indices, self.views, gradient, weights)

        inputs.register_hook(write)
        return inputs


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


def check_memory(method: Method[Any], memory: object, *, head: nn.Module | None, options: dict[str, Any]) -> None:
    """Check the stage's arguments where its saliency is a memory."""
    if not isinstance(memory, SaliencyMemory):
        raise ValueError(f"memory must be a SaliencyMemory where saliency is 'memory'; got {memory!r}")
    if not method.uses_saliency:
        raise ValueError(f"method must be one that uses saliency maps where saliency is 'memory'; got {method!r}")
    unused = sorted(options) + ["head"] * (head is not None)
    if unused:
        raise ValueError(f"{unused[0]} must not be given where saliency is 'memory', which makes no map of the model")


def _given(name: str, value: T | None) -> T:
    if value is None:
        raise ValueError(
            f"{name} must be given where saliency is 'memory', such as the {name} of a loader's batch "
            "(image_loader(with_views=True)); got None"
        )
    return value
