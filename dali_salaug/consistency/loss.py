"""The saliency-consistency loss: the same pixels should matter to the network before and after an augmentation."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._checks import check_class_indices, check_images, check_like_images, check_matrices, check_number
from .._tensors import at_least_float32
from ..methods.base import Draw, Method
from ..saliency.maps import logits_of, reduced
from ..saliency.observer import any_compiled, copied_buffers, unwrap
from .activations import layer_outputs
from .map_geometry import at_resolution, composed, map_distance, scaled, unwarp
from .second_order import TwiceDifferentiable, check_differentiable


class ConsistencyLoss(NamedTuple):
    """The loss of one step and, for the log, its unweighted parts. All are scalars on the images' device."""

    total: Tensor  # attached to the graph: α · classification + β · invariance + γ · saliency
    classification: Tensor  # detached, like the other parts
    invariance: Tensor | None  # None where β is 0
    saliency: Tensor | None  # None where γ is 0


class SaliencyConsistency:
    """The loss of images and of an augmented copy of them: class, equal activations, and equal saliency maps.

    "Saliency Map Based Data Augmentation" (Al-afandi et al. 2022, arXiv:2205.14686), §4, eq. 7 and 8:
    α · class + β · invariance + γ · saliency.

    - Class: the mean cross-entropy over both halves.
    - Invariance (§3.2, eq. 6): the mean squared distance between the halves' activations.
    - Saliency: the mean squared difference between the halves' maps. A map is the largest absolute gradient over
      channels of the label's logit; where labels are mixed, of the logits weighted likewise. It is computed with the
      model as it is (in training mode, with the batch's statistics), in the forward pass of the class loss, and
      differentiated exactly. This costs about 2.5 times a plain step (ResNet-18 and ResNet-50 on two cores of an AMD
      EPYC); :mod:`dali_salaug.consistency.second_order` explains how.

    The map of a moved image is unwarped by its matrix. Both maps are scaled to [0, 1] over the pixels that the
    transformation kept in view, so that what only one of them shows does not matter, and the loss is 0 for a network
    to which the same pixels matter. For Cutout, CutMix and Mixup, the originals' maps, each scaled to [0, 1], are
    composed as the images were; the result and the map of the composed image are scaled once more. On a GPU, the
    backward pass of unwarping has no deterministic form: with matrices, PyTorch raises there under
    ``torch.use_deterministic_algorithms(True)``.

    Args:
        alpha, beta, gamma: α, β, γ, the weights of the three parts, 0 or more. A part of weight 0 is not computed,
            except the class.
        scale: side of the maps over side of the images, in (0, 1]. Below 1 the maps are those of reduced images, as
            :func:`saliency_map` reduces them, in a separate pass that does not change the buffers (BatchNorm's). Half
            costs about 1.7 times a plain step, measured likewise.
        layers: names of submodules, without a wrapper's "module.", whose outputs invariance compares, averaged over
            them. By default the logits.
        label_smoothing: of the cross-entropy, in [0, 1].

    Raises:
        ValueError: for an argument outside the ranges above.

    Example:
        >>> consistency = SaliencyConsistency(gamma=1)
        >>> for batch in image_loader(..., policy=..., with_matrices=True):
        ...     loss = consistency(model, batch.images, batch.augmented, batch.labels, matrices=batch.matrices)
        ...     loss.total.backward()
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 0.0,
        gamma: float = 1.0,
        *,
        scale: float = 1.0,
        layers: tuple[str, ...] | list[str] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        for name, weight in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            check_number(name, weight, 0, math.inf)
        check_number("scale", scale, 0, 1, open_low=True)
        check_number("label_smoothing", label_smoothing, 0, 1)
        if layers is not None and not (
            isinstance(layers, list | tuple) and layers and all(isinstance(name, str) for name in layers)
        ):
            raise ValueError(f"layers must be a list of names of submodules, or None for the logits; got {layers!r}")
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.scale = scale
        self.layers = () if layers is None else tuple(layers)
        self.label_smoothing = label_smoothing
        self._checked = False  # once: it takes a walk over the graph

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        transformed: Tensor,
        labels: Tensor,
        *,
        matrices: Tensor | None = None,
        method: Method | None = None,
        drawn: Draw | None = None,
    ) -> ConsistencyLoss:
        """Return the loss of one training step; ``total.backward()`` computes the parameters' gradients, once.

        The transformation is described by ``matrices``, or by ``method`` and ``drawn``, or by neither where no pixel
        moved (contrast, colour). Under ``torch.no_grad()`` the parts are measured, and no graph is kept.

        Args:
            model: images (2B, C, H, W) to logits (2B, K), bare or in DistributedDataParallel, which sees one forward
                pass and one backward pass. Autocast to bfloat16 is allowed.
            images: the clean images (B, C, H, W), floating point, normalised.
            transformed: their augmented copies, like ``images``.
            labels: (B,), int64, in [0, K).
            matrices: (B, 2, 3), floating point: from ``images`` to ``transformed``, in pixels (x, y) with centres at
                +0.5, like ``matrices`` of the loader's batches.
            method, drawn: the method that made ``transformed`` from ``images``, and its draw, ``method.draw(...)``.
                It may be any method that cuts, fills or mixes the images themselves.

        Raises:
            ValueError: for an argument outside the ranges above; with γ above 0, for a model that cannot be
                differentiated twice (compiled, with ``scale=1``; SyncBatchNorm; a layer without a second derivative),
                or whose wrapper cannot (``static_graph``), and in float16.
        """
        images = check_images("images", images)
        transformed = check_like_images("transformed", transformed, images)
        labels = check_class_indices(labels, images)
        _check_transformation(images, matrices, method, drawn)
        in_one_pass = self.gamma > 0 and self.scale == 1
        if self.gamma > 0:
            _check_twice_differentiable(model, self.scale)
            _check_precision(images)
        size = (images.shape[-2], images.shape[-1])
        targets = labels
        if method is not None and drawn is not None:
            targets = method.targets(labels, drawn, size)

        second_order = TwiceDifferentiable()
        pixels = torch.cat([images, transformed]).detach()
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            layers = self.layers if self.beta > 0 else ()
            with layer_outputs(unwrap(model), layers) as outputs, ExitStack() as stack:
                if in_one_pass:
                    stack.enter_context(_twice(second_order))
                    pixels.requires_grad_()
                logits = logits_of(model, pixels, images.shape[-2:], 1)
            classification = self._classification(logits, labels, targets)
            total = self.alpha * classification
            invariance = saliency = None
            if self.beta > 0:
                invariance = torch.stack([_half_distance(output) for output in outputs.values() or [logits]]).mean()
                total = total + self.beta * invariance
            if self.gamma > 0:
                if not in_one_pass:
                    logits, pixels = self._reduced_pass(model, pixels, second_order)
                scalar = _label_logits(logits, labels, targets)
                gradient = second_order.pixel_gradient(scalar, pixels, differentiable=differentiable)
                if differentiable and not self._checked:
                    check_differentiable(gradient)
                    self._checked = True
                # Autocast would compute places in reduced precision, off by whole pixels.
                with torch.autocast(images.device.type, enabled=False):
                    maps = at_least_float32(gradient).abs().amax(1)
                    saliency = _disagreement(maps, size, matrices, method, drawn)
                total = total + self.gamma * saliency
        parts = [part if part is None else part.detach() for part in (classification, invariance, saliency)]
        return ConsistencyLoss(total if differentiable else total.detach(), *parts)  # type: ignore[arg-type]

    def _classification(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        clean, transformed = (
            F.cross_entropy(half, wanted, label_smoothing=self.label_smoothing)
            for half, wanted in zip(at_least_float32(logits).chunk(2), (labels, targets), strict=True)
        )
        return (clean + transformed) / 2

    def _reduced_pass(
        self, model: nn.Module, images: Tensor, second_order: TwiceDifferentiable
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of the reduced images, from live parameters and copies of the buffers, and those images."""
        network = unwrap(model)
        pixels = reduced(images, self.scale).to(images.dtype).requires_grad_()
        buffers = copied_buffers(network)

        def forward(pixels: Tensor) -> Tensor:
            return functional_call(network, buffers, (pixels,))

        with _twice(second_order), ExitStack() as stack:
            if any_compiled(network):
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            return logits_of(forward, pixels, images.shape[-2:], self.scale), pixels

    def __repr__(self) -> str:
        return (
            f"SaliencyConsistency(alpha={self.alpha:g}, beta={self.beta:g}, gamma={self.gamma:g}, "
            f"scale={self.scale:g}, layers={list(self.layers) or None}, label_smoothing={self.label_smoothing:g})"
        )


def _disagreement(
    maps: Tensor, image_size: tuple[int, int], matrices: Tensor | None, method: Method | None, drawn: Draw | None
) -> Tensor:
    """Return the mean squared difference between the halves of the maps (2B, h, w)."""
    own, other = maps.chunk(2)
    whole = torch.ones_like(own, dtype=torch.bool)
    if matrices is not None:
        other, view = unwarp(other, matrices, image_size)
        return map_distance(own, other, view)
    if method is not None and drawn is not None:
        own = composed(scaled(own, whole), method, drawn, image_size)
        other = at_resolution(other, image_size)
        whole = torch.ones_like(own, dtype=torch.bool)
    return map_distance(own, other, whole)


def _label_logits(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of the labels' logits; in the transformed half, weighted as its labels are mixed."""
    clean, transformed = at_least_float32(logits).chunk(2)
    total = clean.gather(1, labels[:, None]).sum()
    if targets.ndim == 1:
        return total + transformed.gather(1, targets[:, None]).sum()
    return total + (targets.to(transformed.dtype) * transformed).sum()


def _half_distance(output: Tensor) -> Tensor:
    clean, transformed = at_least_float32(output).chunk(2)
    return F.mse_loss(transformed, clean)


@contextmanager
def _twice(second_order: TwiceDifferentiable) -> Iterator[None]:
    # Only the attention made of plain operators can be differentiated twice.
    with second_order, sdpa_kernel(SDPBackend.MATH):
        yield


def _check_transformation(images: Tensor, matrices: Tensor | None, method: Method | None, drawn: Draw | None) -> None:
    if matrices is not None:
        check_matrices(matrices, images)
    given = {"matrices": matrices, "method": method, "drawn": drawn}
    if (method is None) != (drawn is None) or (method is not None and matrices is not None):
        raise ValueError(
            "the transformation must be described by matrices, or by method and drawn, or by none if no pixel moved; "
            f"got {', '.join(name for name, value in given.items() if value is not None)}"
        )
    if method is None or drawn is None:
        return
    if not isinstance(method, Method) or not isinstance(drawn, Draw):
        raise ValueError(f"method and drawn must be a Method and its Draw; got {method!r} and {type(drawn).__name__}")
    if method.uses_augmented or not method.traceable:
        raise ValueError(
            "method must make the transformed images from the clean ones alone, such as Cutout, CutMix or Mixup, and "
            f"not from noise or an augmented copy, which have no map; got {method!r}"
        )


def _check_precision(images: Tensor) -> None:
    device = images.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else images.dtype
    if dtype == torch.float16:
        raise ValueError(
            "images and autocast must be in float32 or bfloat16 where the saliency loss is computed, because gradients "
            "of gradients underflow in float16; got float16. Use bfloat16, or set gamma=0"
        )


def _check_twice_differentiable(model: nn.Module, scale: float) -> None:
    if scale == 1 and any_compiled(model):
        raise ValueError(
            "model must not be compiled where the saliency loss is taken at scale 1: torch.compile gives no second "
            "derivatives. Give the module that was compiled, or a scale below 1, whose maps take a pass of their own"
        )
    if scale == 1 and getattr(model, "static_graph", False):  # DistributedDataParallel's
        raise ValueError(
            "model must not be in DistributedDataParallel with static_graph=True where the saliency loss is taken at "
            "scale 1: it would take the maps' backward pass for the step's, and share gradients too early. Leave "
            "static_graph out, or give a scale below 1"
        )
    if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        raise ValueError(
            "model must not hold SyncBatchNorm where the saliency loss is computed: it has no second derivative. Leave "
            "BatchNorm2d as it is (each process then uses its own batch's statistics), or set gamma=0"
        )
