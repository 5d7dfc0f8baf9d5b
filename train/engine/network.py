"""The network of a run in its forms: the plain model, the form that is trained, and the form that is validated."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dali_salaug import WithEarlyHead
from train.config import ResolvedConfig
from train.distributed import ALONE, World
from train.engine.ema import AveragedWeights
from train.engine.start import load_start
from train.errors import UserError, first_line
from train.models.layers import freeze_trunk, head_of, layers_by_depth, set_training
from train.models.published import Source
from train.models.registry import FIRST_BLOCK, build_model


class Network:
    """A model with everything that a run wraps around it.

    Args:
        config: of the run.
        num_classes: K, the number of logits.
        device: of the weights.
        world: the processes that train together.

    Attributes:
        model: the model alone, without an early head.
        name: of the model.
        with_head: the model with its early head, which always is in training mode; None without one.
        averaged: the running average of the model's weights; None without one.
        trained: the module that a training step calls: model or `with_head`, distributed and compiled as configured.

    Raises:
        UserError: the model cannot be built for the image size, or has no such module for the early head to follow.
    """

    def __init__(self, config: ResolvedConfig, num_classes: int, device: torch.device, world: World = ALONE) -> None:
        model = self._build(config, num_classes)
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.num_classes = num_classes
        self.name = config.model
        self.frozen_trunk = config.freeze_trunk
        if self.frozen_trunk:
            freeze_trunk(self.model, head_of(self.model, num_classes))
        self.averaged = AveragedWeights(self.model, config.ema) if config.ema else None
        self.with_head = None if config.early_head == "off" else self._with_early_head(config, num_classes)
        self._wrap(world, compiled=config.compile)

    def _wrap(self, world: World, *, compiled: bool) -> None:
        """Set `trained` to the module, distributed over the processes and compiled as configured."""
        self.trained = self.module
        self._distributed: DistributedDataParallel | None = None
        if world.host is not None:
            # The step broadcasts the buffers before the saliency pass, which uses them too.
            with warnings.catch_warnings():  # newer torch renames the argument, and warns of this name
                warnings.simplefilter("ignore", FutureWarning)
                self._distributed = DistributedDataParallel(self.trained, broadcast_buffers=False)
            self.trained = self._distributed
        if compiled:
            self.trained = torch.compile(self.trained)  # type: ignore[assignment]

    def _build(self, config: ResolvedConfig, num_classes: int) -> nn.Module:
        """Return the untrained model."""
        try:
            return build_model(config.model, num_classes, config.image_size)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:  # vision transformers know their size
            raise UserError(
                f"--model {config.model} cannot be built for --image-size {config.image_size}: {first_line(error)}."
                " Choose another --image-size or another --model"
            ) from error

    def _after(self, config: ResolvedConfig) -> str | None:
        """Return the name of the module that the early head follows; None: the end of the first block."""
        return FIRST_BLOCK.get(config.model) if config.early_head == "auto" else config.early_head

    def _with_early_head(self, config: ResolvedConfig, num_classes: int) -> WithEarlyHead:
        try:
            return WithEarlyHead(self.model, num_classes, self._after(config), image_size=config.size)
        except ValueError as error:
            reason = str(error).replace("after must", "it must", 1).replace("image_size must", "--image-size must", 1)
            raise UserError(f"--early-head {config.early_head}: {reason}") from error

    @property
    def module(self) -> nn.Module:
        """All that is trained, unwrapped."""
        return self.model if self.with_head is None else self.with_head

    @property
    def validated(self) -> nn.Module:
        """The model that is validated, drawn from and kept as the best: the averaged one, where there is one."""
        return self.model if self.averaged is None else self.averaged.model

    def set_training(self) -> None:
        """Set the model to training mode, but for what a frozen trunk keeps."""
        set_training(self.model, frozen_trunk=self.frozen_trunk)

    def start_from(self, source: Source, classes: list[str]) -> str:
        """Load weights into the model, and its average, before the first step; see `load_start`."""
        sentence = load_start(self.model, classes, source, self.name)
        if self.averaged is not None:
            self.averaged.model.load_state_dict(self.model.state_dict())
        return sentence

    def layers(self) -> list[list[nn.Parameter]]:
        """Return all parameters by layer, from the first to the heads, see `layers_by_depth`."""
        layers = layers_by_depth(self.model, head_of(self.model, self.num_classes))
        if self.with_head is not None:
            layers[-1] += self.with_head.classifier.parameters()
        return layers

    def logits(self, outputs: Any) -> tuple[Any, ...]:
        """Return the logits in what the trained module returned: the network's own, then those of the early head."""
        return (outputs,) if self.with_head is None else tuple(outputs)

    @property
    def early(self) -> nn.Module | None:
        """The part from the images to the early head's logits; None without a head."""
        return None if self.with_head is None else self.with_head.early

    def sync_gradients(self, enabled: bool) -> AbstractContextManager[None]:
        """Return a context whose backward pass averages the gradients over the processes, if `enabled`."""
        return nullcontext() if enabled or self._distributed is None else self._distributed.no_sync()

    def update_average(self) -> None:
        """Add the weights after a step to their running average, where there is one."""
        if self.averaged is not None:
            self.averaged.update(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights: "model", "averaged" and "early_head", of which the last two may be None."""
        return {
            "model": self.model.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.model.state_dict(),
            "early_head": None if self.with_head is None else self.with_head.classifier.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the weights of :meth:`state_dict`; other keys of `state` have no effect."""
        self.model.load_state_dict(state["model"])
        if self.averaged is not None:
            self.averaged.model.load_state_dict(state["averaged"])
        if self.with_head is not None:
            self.with_head.classifier.load_state_dict(state["early_head"])
