"""The saliency-consistency loss in a run: what it goes with, and how it is told what was done to a batch."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from dali_salaug import SaliencyConsistency, SaliencyStage, StageTrace
from dali_salaug.consistency.activations import layer_outputs
from pipelines import Batch
from train.config import Config
from train.errors import UserError


def make_consistency(config: Config) -> SaliencyConsistency | None:
    """The loss of a configuration; None where it asks for none."""
    if config.consistency is None:
        return None
    return SaliencyConsistency(
        *config.consistency,
        scale=config.consistency_scale,
        layers=config.consistency_layers,
        label_smoothing=config.label_smoothing,
    )


def check_layers(consistency: SaliencyConsistency | None, model: nn.Module, image_size: int) -> None:
    """Raise UserError where the model has no such layers; leaves it in eval mode."""
    if consistency is None or not consistency.layers:
        return
    images = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    try:
        with torch.no_grad(), layer_outputs(model, consistency.layers):
            model.eval()(images)
    except ValueError as error:
        raise UserError(f"--consistency-{error}") from error


def transform(stage: SaliencyStage, model: nn.Module, batch: Batch) -> tuple[StageTrace, dict[str, Any]]:
    """What the stage makes of a batch, and what was done to the images, as `SaliencyConsistency` is told.

    Args:
        batch: of a loader with matrices, where it has a policy.
    """
    trace = stage.trace(model, batch.images, batch.labels, batch.augmented)
    if trace.inputs is batch.images:  # in warm-up nothing is done
        return trace, {}
    if stage.method.uses_augmented:
        return trace, {"matrices": batch.matrices}
    return trace, {"method": stage.method, "drawn": trace.drawn}


def names_of_losses(consistency: SaliencyConsistency | None) -> tuple[str, ...]:
    """ "loss", and after it the parts that are computed."""
    if consistency is None:
        return ("loss",)
    computed = (True, True, consistency.beta > 0, consistency.gamma > 0)
    return tuple(itertools.compress(("loss", "class_loss", "invariance_loss", "saliency_loss"), computed))


def losses_of(
    consistency: SaliencyConsistency, stage: SaliencyStage, model: nn.Module, batch: Batch
) -> tuple[dict[str, Tensor], StageTrace]:
    """Those of a step by their names: the total, with the graph, and its parts without their weights. And what the
    stage made."""
    trace, how = transform(stage, model, batch)
    losses = consistency(model, batch.images, trace.inputs, batch.labels, **how)
    parts = (loss for loss in losses if loss is not None)
    return dict(zip(names_of_losses(consistency), parts, strict=True)), trace
