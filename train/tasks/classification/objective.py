"""The objectives of a classifier whose inputs a saliency stage makes: plain, and with the saliency-consistency loss."""

import functools
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dali_salaug import SaliencyConsistency, SaliencyStage, StageTrace
from dali_salaug.consistency.activations import layer_outputs
from dali_salaug.region_share import region_share
from pipelines import Batch
from train.config import Config, ResolvedConfig
from train.engine.elastic import apart_from
from train.engine.network import Network
from train.engine.objective import BatchOutcome, Objective
from train.errors import UserError
from train.tasks.classification.stage import training_stage


class StageObjective(Objective):
    """An objective whose inputs a saliency stage makes; measures how much of the saliency its regions hold.

    Args:
        stage: makes the inputs.
        network: that is trained.
        loss_names: see :class:`Objective`.
    """

    def __init__(self, stage: SaliencyStage, network: Network, loss_names: tuple[str, ...] = ("loss",)) -> None:
        self.stage = stage
        self.network = network
        self.loss_names = loss_names
        of_memory = () if stage.memory is None else ("saliency_age", "saliency_flat")
        kept = "saliency_kept" if stage.method.keeps_region else "saliency_cut"
        self.measure_names = self.stage_measures = (kept, "region_area", *of_memory)

    def set_epoch(self, epoch: int) -> None:
        self.stage.set_epoch(epoch)

    def summarised(self, means: dict[str, float]) -> dict[str, float]:
        if means.get("saliency_flat", 1) < 1:  # of the maps that there are
            means["saliency_age"] /= 1 - means["saliency_flat"]
        return means

    def exchange(self) -> None:
        if self.stage.memory is not None:
            self.stage.memory.exchange()

    def shared_state_dict(self) -> dict[str, Any]:
        return {} if self.stage.memory is None else {"memory": self.stage.memory.state_dict()}

    def state_dict(self) -> dict[str, Any]:
        return {"stage": {name: value for name, value in self.stage.state_dict().items() if name != "memory"}}

    def apart(self, state: dict[str, Any], rank: int) -> dict[str, Any]:
        generator = state["stage"]["generator"]
        if generator is None:  # nothing was drawn: the stage's own seed is another
            return state
        return state | {"stage": state["stage"] | {"generator": apart_from(generator, rank)}}

    def load_state_dict(self, state: dict[str, Any], shared: dict[str, Any]) -> None:
        self.stage.load_state_dict(state["stage"] | shared)

    def _trace(self, batch: Batch) -> StageTrace:
        crops = {}
        if self.stage.memory is not None:
            crops = {"indices": batch.indices, "views": batch.views, "matrices": batch.matrices}
        return self.stage.trace(self.network.model, batch.images, batch.labels, batch.augmented, **crops)

    def _measures(self, trace: StageTrace, batch: Batch) -> dict[str, Tensor]:
        """Return the share of each image's saliency in its region, and the region's share of the area.

        And, of a memory, the age of its map in epochs, 0 without one, and whether there is none.
        """
        size = (trace.inputs.shape[-2], trace.inputs.shape[-1])
        shares = None if trace.saliency is None else region_share(trace.saliency, trace.drawn, size)
        if shares is None:
            return {}
        remembered: tuple[Tensor, ...] = ()
        if self.stage.memory is not None:
            ages = self.stage.memory.ages(batch.indices)
            remembered = (ages.clamp(min=0).float(), (ages < 0).float())
        return dict(zip(self.stage_measures, (*shares, *remembered), strict=True))

    def __repr__(self) -> str:
        return repr(self.stage)


class PlainObjective(StageObjective):
    """Cross-entropy on the stage's inputs and targets, and that of the early head where there is one.

    Args:
        stage, network: see :class:`StageObjective`.
        label_smoothing: share of the target that is spread over all classes, in [0, 1].
        early_weight: of the early head's loss, at least 0.
    """

    def __init__(self, stage: SaliencyStage, network: Network, *, label_smoothing: float, early_weight: float) -> None:
        super().__init__(stage, network)
        self.early_weight = early_weight
        self._cross_entropy = functools.partial(F.cross_entropy, label_smoothing=label_smoothing)

    def __call__(self, batch: Batch) -> BatchOutcome:
        trace = self._trace(batch)
        outputs = self.network.trained(trace.inputs)
        if self.network.with_head is None:
            loss = self._cross_entropy(outputs, trace.targets)
        else:
            logits, early = outputs
            loss = self._cross_entropy(logits, trace.targets)
            loss = loss + self.early_weight * self._cross_entropy(early, trace.targets)
        return BatchOutcome({"loss": loss}, self._measures(trace, batch))


class ConsistencyObjective(StageObjective):
    """The saliency-consistency loss between the clean images and what the stage makes of them.

    Args:
        stage, network: see :class:`StageObjective`.
        consistency: the loss.
        image_size: side of the images in pixels.

    Raises:
        UserError: the model has no such layers as the loss compares.
    """

    def __init__(
        self, stage: SaliencyStage, network: Network, consistency: SaliencyConsistency, *, image_size: int
    ) -> None:
        computed = (True, True, consistency.beta > 0, consistency.gamma > 0)
        names = ("loss", "class_loss", "invariance_loss", "saliency_loss")
        super().__init__(stage, network, tuple(itertools.compress(names, computed)))
        self.consistency = consistency
        _check_layers(consistency, network.model, image_size)

    def __call__(self, batch: Batch) -> BatchOutcome:
        trace, how = transform(self.stage, self.network.model, batch)
        losses = self.consistency(self.network.trained, batch.images, trace.inputs, batch.labels, **how)
        parts = (loss for loss in losses if loss is not None)
        return BatchOutcome(dict(zip(self.loss_names, parts, strict=True)), self._measures(trace, batch))

    def __repr__(self) -> str:
        return f"{self.consistency!r}, {self.stage!r}"


def make_objective(
    config: ResolvedConfig, network: Network, num_classes: int, seed: int, *, samples: int
) -> StageObjective:
    """Build the objective of a configuration.

    Args:
        num_classes: K.
        seed: of the stage.
        samples: number of training images.

    Raises:
        UserError: the method cannot take images of the configured size, or the loss does not fit the model.
    """
    stage = training_stage(config, network, num_classes, seed, samples=samples)
    consistency = make_consistency(config)
    if consistency is not None:
        return ConsistencyObjective(stage, network, consistency, image_size=config.image_size)
    return PlainObjective(stage, network, label_smoothing=config.label_smoothing, early_weight=config.early_weight)


def make_consistency(config: Config) -> SaliencyConsistency | None:
    """Build the saliency-consistency loss of a configuration; None where it names none."""
    if config.consistency is None:
        return None
    return SaliencyConsistency(
        *config.consistency,
        scale=config.consistency_scale,
        layers=config.consistency_layers,
        label_smoothing=config.label_smoothing,
    )


def transform(stage: SaliencyStage, model: nn.Module, batch: Batch) -> tuple[StageTrace, dict[str, Any]]:
    """Pass a batch through the stage, and describe the transformation as `SaliencyConsistency` takes it.

    Args:
        model: that the stage observes.
        batch: of a loader that returns matrices, where it has a policy.

    Returns:
        The stage's trace; and the arguments "matrices", or "method" and "drawn", or none in warm-up.
    """
    trace = stage.trace(model, batch.images, batch.labels, batch.augmented)
    if trace.inputs is batch.images:  # the stage is warming up
        return trace, {}
    if stage.method.uses_augmented:
        return trace, {"matrices": batch.matrices}
    return trace, {"method": stage.method, "drawn": trace.drawn}


def _check_layers(consistency: SaliencyConsistency, model: nn.Module, image_size: int) -> None:
    """Raise UserError where the model lacks a layer that the loss compares; leave the model in eval mode."""
    if not consistency.layers:
        return
    images = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    try:
        with torch.no_grad(), layer_outputs(model, consistency.layers):
            model.eval()(images)
    except ValueError as error:
        raise UserError(f"--consistency-{error}") from error
