"""The stage between a loader and a model: saliency of the live model, the method's draw, the compositing."""

from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from ._checks import (
    check_choice,
    check_images,
    check_label_dictionary,
    check_labels,
    check_like_images,
    check_number,
    check_whole_number,
    is_whole,
)
from .cuda_graphs import CudaGraphs
from .generators import check_generator_state, restore
from .methods.base import BoxDraw, Draw, Method
from .methods.hybridmix import HybridMixDraw
from .remembering import MEMORY, Crops, check_memory, layer_of
from .saliency.maps import METHODS, check_saliency_options, reduced_size, saliency_map
from .saliency.memory import SaliencyMemory
from .saliency.observer import unwrap

GRAPHS_ON = "cuda"  # the type of device that has CUDA graphs
LabelsT = TypeVar("LabelsT", Tensor, dict[str, Tensor])


class StageTrace(NamedTuple):
    """The results of one pass through the stage, for pictures and measurements."""

    inputs: Tensor  # (B, C, H, W), the network's inputs
    targets: Any  # the labels, a tensor or a dictionary; (B, K), floating point, from a method that mixes labels
    saliency: Tensor | None  # (B, h, w), float32; None where the method uses none, or in warm-up
    drawn: Draw  # of the method's own type; an empty Draw in warm-up

    @property
    def boxes(self) -> Tensor | None:
        """Each image's region, (B, 4), int64: top, left, bottom, right; None where a region is not one box."""
        drawn = self.drawn.second if isinstance(self.drawn, HybridMixDraw) else self.drawn
        return drawn.boxes if isinstance(drawn, BoxDraw) else None


class SaliencyStage:
    """The step between a loader and a model: it makes the network's inputs from a batch of any loader.

    The stage never waits for the device. Its random numbers come from its own generator, which the first call creates
    on the images' device; :meth:`state_dict` returns its state for the checkpoint. In a trace of ``torch.profiler``
    the stage appears as the ranges "saliency" and "compositing".

    With ``saliency="memory"`` the maps are those that ``memory`` keeps, and no pass of the model is made for them. The
    inputs that the stage returns then require a gradient: where the user's backward pass reaches them, the memory is
    written.

    With ``cuda_graph=True`` a CUDA graph replays the whole stage: the host launches a few kernels for each batch where
    it otherwise launches hundreds. Results and random numbers are the same.

    - The second batch of each form (shape, dtype, memory format) is captured, which waits for the device; so do
      weights that have moved in memory, and other modes of autocast. Weights updated in place, as by all optimizers,
      are used as they are at each step.
    - The graph keeps its memory, about that of the saliency pass and of three batches of images.
    - Python code and hooks in the model run in the capture only. A model that draws random numbers in eval mode moves
      the GPU's global random state.
    - It excludes ``saliency="memory"``, whose hooks run in each backward pass, and ``compiled``. In warm-up, and within
      a capture of your own, the stage runs as without it.

    Args:
        method: what to do to the images: :class:`KeepCutout`, :class:`KeepPaste`, :class:`Cutout`, ...
        saliency: the method of the saliency map: "gradient", "smoothgrad", "guided", "deconvnet", "grad_cam" or
            "fine_grained", see :func:`saliency_map`; or "memory".
        scale: side of the saliency map over side of the image, in (0, 1] (KeepAugment §3.1). The default is that of
            its §4, "Settings".
        target: the scalar whose gradient the map is: "label", "max" or "loss", see :func:`saliency_map`.
        warmup_epochs: the number of first epochs in which the images pass unchanged, because the map of an untrained
            model carries no information. By default as the method's authors do: 1 for SalfMix and HybridMix, else 0.
            :meth:`set_epoch` sets the epoch.
        seed: of the stage's generator. Give each of several processes its own, such as seed + rank.
        head: the module that replaces the model in the saliency pass: the ``early`` of a :class:`WithEarlyHead`, or a
            teacher.
        memory: the maps of the samples, with ``saliency="memory"``. It is part of :meth:`state_dict`, and is moved to
            the images' device by the first call.
        cuda_graph: whether a CUDA graph replays the stage, see above; only for images on a GPU.
        options: ``samples``, ``noise``, ``layer`` and ``compiled`` of :func:`saliency_map`; the stage's generator draws
            the noise. With a memory, ``layer`` alone: the submodule whose output's gradient is remembered in place of
            the inputs', or "first", the first convolution. That gradient costs nothing, as the backward pass computes
            it anyway. The next forward pass in training after each call must be one of all inputs, not compiled.

    Raises:
        ValueError: for an argument outside the ranges above.

    Example:
        >>> stage = SaliencyStage(KeepPaste())
        >>> for batch in loader:
        ...     inputs, targets = stage(model, batch.images, batch.labels, batch.augmented)
        ...     loss = F.cross_entropy(model(inputs), targets)
    """

    def __init__(
        self,
        method: Method,
        *,
        saliency: str = "gradient",
        scale: float = 0.5,
        target: str = "label",
        warmup_epochs: int | None = None,
        seed: int = 0,
        head: nn.Module | None = None,
        memory: SaliencyMemory | None = None,
        cuda_graph: bool = False,
        **options: Any,
    ) -> None:
        if not isinstance(method, Method):
            raise ValueError(f"method must be a dali_salaug Method such as KeepCutout(); got {method!r}")
        if warmup_epochs is None:
            warmup_epochs = method.default_warmup_epochs
        check_whole_number("warmup_epochs", warmup_epochs, 0, of=" of epochs")
        if not is_whole(seed) or not 0 <= seed < 2**63:
            raise ValueError(f"seed must be a whole number in [0, 2**63); got {seed!r}")
        self._saliency_options = {"method": saliency, "target": target, "scale": scale, **options}
        check_choice("saliency", saliency, (*METHODS, MEMORY))
        if saliency == MEMORY:
            check_memory(method, memory, head=head, options=options)
            check_number("scale", scale, 0, 1, open_low=True)
        else:
            if memory is not None:
                raise ValueError(f"memory must be None, or saliency 'memory'; got {memory!r} with {saliency!r}")
            check_saliency_options(**self._saliency_options)
        if head is not None and not isinstance(head, nn.Module):
            raise ValueError(f"head must be a torch.nn.Module, such as the early of a WithEarlyHead; got {head!r}")
        if not isinstance(cuda_graph, bool):
            raise ValueError(f"cuda_graph must be True or False; got {cuda_graph!r}")
        if cuda_graph and (saliency == MEMORY or options.get("compiled")):
            raise ValueError(
                "cuda_graph must be False with saliency 'memory' (its hooks run in each backward pass) and with "
                f"compiled; got {cuda_graph!r} with {'saliency ' + repr(saliency) if memory else 'compiled=True'}"
            )
        self.method = method
        self.cuda_graph = cuda_graph
        self.warmup_epochs = warmup_epochs
        self.seed = seed
        self.head = head
        self.memory = memory
        self._crops: Crops | None = None
        self._epoch: int | None = None
        self._generator: torch.Generator | None = None
        self._generator_state: Tensor | None = None  # restored; the first call determines the device
        self._graphs = CudaGraphs()

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: LabelsT,
        augmented: Tensor | None = None,
        *,
        indices: Tensor | None = None,
        views: Tensor | None = None,
        matrices: Tensor | None = None,
    ) -> tuple[Tensor, LabelsT]:
        """Return the inputs and targets of one training step.

        Args:
            model: the live model, in any wrapper. It is only observed, see :func:`saliency_map`.
            images: the clean images (B, C, H, W), floating point, normalised; not written to.
            labels: on the images' device: class indices (B,), int64 (narrower integers are cast); or rows (B, K),
                floating point: soft targets, or several labels as zeros and ones. Where the method leaves the labels
                and the map does without them (``target="max"``, or no map), they may be floating point of any shape
                (B, ...), as in regression, or a dictionary of tensors (B, ...).
            augmented: an augmented copy of the same crops, like ``images``, for methods that use one.
            indices: (B,), int64, the samples' places in the data set, for a memory; ``indices`` of the loader's
                batches.
            views: (B, 2, 3), floating point, the crops' views, for a memory, see :class:`SaliencyMemory`; ``views`` of
                the loader's batches.
            matrices: (B, 2, 3), floating point, for a memory: from ``images`` to ``augmented`` in pixels; ``matrices``
                of the loader's batches. Without them, a method that uses ``augmented`` remembers only the clean region.

        Returns:
            The inputs (B, C, H, W), which may be ``images`` or ``augmented`` itself, and the targets: ``labels``, or
            (B, K), floating point, from a method that mixes labels. With a memory, and unless gradients are disabled,
            the inputs are a leaf that requires a gradient; not with a ``layer``.

        Raises:
            ValueError: for an argument outside the ranges above, or a region larger than the images.
        """
        trace = self.trace(model, images, labels, augmented, indices=indices, views=views, matrices=matrices)
        return trace.inputs, trace.targets

    def trace(
        self,
        model: nn.Module,
        images: Tensor,
        labels: LabelsT,
        augmented: Tensor | None = None,
        *,
        indices: Tensor | None = None,
        views: Tensor | None = None,
        matrices: Tensor | None = None,
    ) -> StageTrace:
        """Do the same as a call, and return the saliency map and the draw as well as inputs and targets."""
        images = check_images("images", images)
        if isinstance(labels, dict):
            check_label_dictionary(labels, images)
            self._check_labels_unused(labels)
        else:
            labels = check_labels(labels, images)
        if self.method.uses_augmented:
            if augmented is None:
                raise ValueError(
                    f"augmented must be given for {self.method!r}; got None (does the loader apply a policy?)"
                )
            augmented = check_like_images("augmented", augmented, images)
        crops = None
        if self.memory is not None:
            layer = layer_of(model, self._saliency_options.get("layer"))
            crops = self._crops = Crops(self.memory, images, indices, views, matrices, layer, self._crops)
        if self._warming_up():
            return StageTrace(images if crops is None else crops.remembering(images), labels, None, Draw())

        if self.cuda_graph:
            return self._by_graph(model, images, labels, augmented)
        if crops is None:
            return self._composed(model, images, labels, augmented)
        with record_function("saliency"):
            saliency = crops.maps(reduced_size(images, self._saliency_options["scale"]))
        trace = self._composed(model, images, labels, augmented, saliency)
        own = self.method.own_pixels(trace.drawn, (images.shape[-2], images.shape[-1]))
        return trace._replace(inputs=crops.remembering(trace.inputs, own, augmented=self.method.uses_augmented))

    def _composed(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor | dict[str, Tensor],
        augmented: Tensor | None,
        saliency: Tensor | None = None,
    ) -> StageTrace:
        """Make the map, unless it is given or not needed; draw and apply. The arguments are those of a call."""
        generator = self._generator_on(images.device)
        if saliency is None and self.method.uses_saliency:
            options = self._saliency_options
            known = None if isinstance(labels, dict) else labels
            with record_function("saliency"):
                saliency = saliency_map(model, images, known, head=self.head, generator=generator, **options)
        with torch.no_grad(), record_function("compositing"):
            drawn = self.method.draw(images, saliency, generator)
            inputs = self.method.apply(images, drawn, augmented)
            targets: Tensor | dict[str, Tensor] = labels
            if not isinstance(labels, dict):
                targets = self.method.targets(labels, drawn, (images.shape[-2], images.shape[-1]))
        return StageTrace(inputs, targets, saliency, drawn)

    def _by_graph(
        self, model: nn.Module, images: Tensor, labels: Tensor | dict[str, Tensor], augmented: Tensor | None
    ) -> StageTrace:
        """Do the same by a CUDA graph."""
        if images.device.type != GRAPHS_ON:
            raise ValueError(f"cuda_graph must be False for images on {images.device}: it needs a GPU; got True")
        own = None if isinstance(labels, dict) else labels  # a dictionary, which nothing here uses, is returned as is
        with_map = self.method.uses_saliency and self._saliency_options["method"] != "fine_grained"
        trace: StageTrace = self._graphs.of_batch(
            lambda images, own, augmented: self._composed(model, images, {} if own is None else own, augmented),
            (images, own, augmented if self.method.uses_augmented else None),
            network=unwrap(model if self.head is None else self.head) if with_map else None,
            generator=self._generator_on(images.device),
            name="saliency" if self.method.uses_saliency else "compositing",
        )
        return trace._replace(targets=labels) if own is None else trace

    def _check_labels_unused(self, labels: dict[str, Tensor]) -> None:
        """Refuse a dictionary where the method or the map needs one tensor."""
        options = self._saliency_options
        if self.method.mixes_labels:
            user = f"{self.method!r}, which mixes them"
        elif (
            self.method.uses_saliency
            and options["method"] not in ("fine_grained", MEMORY)
            and options["target"] != "max"
        ):
            user = f"saliency target {options['target']!r} (target 'max' does without)"
        else:
            return
        example = f", such as batch.labels[{next(iter(labels))!r}]" if labels else ""
        raise ValueError(f"labels must be one tensor for {user}{example}; got a dictionary of {list(labels)}")

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, for ``warmup_epochs`` and for the age of what a memory holds."""
        check_whole_number("epoch", epoch, 0)
        if self.memory is not None:
            self.memory.set_epoch(epoch)
        self._epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the generator's state and the memory's: plain types and tensors, for ``torch.save``."""
        state = self._generator_state if self._generator is None else self._generator.get_state()
        memory = {} if self.memory is None else {"memory": self.memory.state_dict()}
        return {"epoch": self._epoch, "generator": state, **memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a :meth:`state_dict`, with the draws that would have come next.

        A state from another type of device (CPU, GPU) seeds the generator: the draws are then others, and the same for
        the same state.

        Raises:
            ValueError: if ``state`` is not the state of a stage.
        """
        keys = ["epoch", "generator"] + ["memory"] * (self.memory is not None)
        if not isinstance(state, dict) or set(state) != set(keys):
            got = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"state must have the keys {' and '.join(map(repr, keys))}; got {got}")
        if state["epoch"] is not None:
            check_whole_number("epoch of the state", state["epoch"], 0)
        generator = state["generator"]
        check_generator_state(generator)
        if self.memory is not None:
            self.memory.load_state_dict(state["memory"])
        self._epoch = state["epoch"]
        self._generator = None
        self._generator_state = generator
        self._graphs.clear()  # they draw from the generator that was

    def _warming_up(self) -> bool:
        if self.warmup_epochs == 0:
            return False
        if self._epoch is None:
            raise ValueError(f"set_epoch must be called before a stage with warmup_epochs={self.warmup_epochs}")
        return self._epoch < self.warmup_epochs

    def _generator_on(self, device: torch.device) -> torch.Generator:
        if self._generator is None:
            self._generator = torch.Generator(device).manual_seed(self.seed)
            if self._generator_state is not None:
                restore(self._generator, self._generator_state)
        return self._generator

    def __repr__(self) -> str:
        options = {"saliency" if k == "method" else k: v for k, v in self._saliency_options.items()}
        options |= {"warmup_epochs": self.warmup_epochs, "seed": self.seed}
        if self.head is not None:
            options["head"] = type(self.head).__name__
        if self.memory is not None:
            options["memory"] = self.memory
        if self.cuda_graph:
            options["cuda_graph"] = True
        return f"SaliencyStage({self.method!r}, {', '.join(f'{name}={value}' for name, value in options.items())})"
