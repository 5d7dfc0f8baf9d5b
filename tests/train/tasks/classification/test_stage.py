"""Every method, built from a configuration and without a loader: inputs, targets, and a step that never waits."""

from typing import Any

import pytest
import torch

from dali_salaug import METHODS
from pipelines import Batch
from train.cli.checks import check
from train.config import Config
from train.engine.network import Network
from train.tasks.classification.objective import make_objective

CLASSES, SIDE = 5, 16


@pytest.mark.parametrize("method", METHODS)
def test_each_method_takes_a_step(method: str, no_waiting: Any) -> None:
    stated = Config(method=method, image_size=SIDE, region_size=6)
    check(stated)
    config = stated.resolved(side=64, embedded=False, cifar=False)
    assert config.policy == METHODS[method].policy
    torch.manual_seed(0)
    network = Network(config, CLASSES, torch.device("cpu"))
    objective = make_objective(config, network, CLASSES, seed=0, samples=6)
    objective.set_epoch(config.warmup_epochs)  # the first with the method
    network.model.train()
    images = torch.randn(6, 3, SIDE, SIDE)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    batch = Batch(images, images.flip(3) if config.policy else None, labels, torch.arange(6))

    stage = objective.stage
    trace = stage.trace(network.model, batch.images, batch.labels, batch.augmented)
    assert (trace.inputs.shape, trace.inputs.dtype) == (images.shape, images.dtype)
    assert torch.equal(trace.inputs, images) == (method == "none")
    if trace.targets.ndim == 1:
        assert torch.equal(trace.targets, labels)
    else:
        assert METHODS[method].kind == "two images"
        assert trace.targets.shape == (6, CLASSES)
    assert (trace.saliency is not None) == stage.method.uses_saliency

    with no_waiting():
        losses, measures = objective(batch)
    assert tuple(losses) == objective.loss_names == ("loss",)
    assert tuple(measures) in ((), objective.measure_names)
    assert all(0 <= value <= 1 for values in measures.values() for value in values.tolist())
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.model.parameters())
