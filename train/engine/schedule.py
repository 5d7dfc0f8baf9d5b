"""The optimizer, and the learning rate of each step."""

import functools
import math
from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from train.config import ResolvedConfig


def make_optimizer(config: ResolvedConfig, network: nn.Module) -> Optimizer:
    """Build the optimizer of a configuration, for all parameters of the network."""
    groups = parameter_groups(network, config.weight_decay)
    nesterov = config.momentum > 0
    return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=config.fused)


def make_scheduler(config: ResolvedConfig, optimizer: Optimizer, steps: int) -> LambdaLR:
    """Build the schedule of a configuration, for epochs of `steps` steps."""
    warmup = round(config.lr_warmup_epochs * steps)
    factor = functools.partial(cosine_with_warmup, warmup=warmup, total=config.epochs * steps)
    if config.lr_steps is not None:
        factor = functools.partial(steps_with_warmup, warmup=warmup, drops=[epoch * steps for epoch in config.lr_steps])
    return LambdaLR(optimizer, factor)


def doubtful_options(config: ResolvedConfig, images: int) -> list[str]:
    """Return warnings of options that are legal and do not have the effect that they seem to have.

    Args:
        images: number of training images.
    """
    warnings = []
    if config.batch_size > images:
        warnings.append(
            f"--batch-size {config.batch_size} is more than the {images} training images, all of which are in each"
            f" step; the learning rate is {config.lr:g}: lower --batch-size, and --lr where it was scaled by it"
        )
    late = [epoch for epoch in config.lr_steps or () if epoch >= config.epochs]
    if late:
        warnings.append(
            f"--lr-steps {' '.join(map(str, late))}: no effect, since training ends after --epochs {config.epochs}"
        )
    return warnings


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups of parameters: weights with decay; biases and normalisation's scales and shifts without."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def steps_with_warmup(step: int, *, warmup: int, drops: list[int]) -> float:
    """Return the factor on the learning rate: linear up to 1 over `warmup` steps, divided by 10 at each of `drops`."""
    return min(1.0, (step + 1) / (warmup + 1)) * 0.1 ** sum(step >= drop for drop in drops)


def cosine_with_warmup(step: int, *, warmup: int, total: int) -> float:
    """Return the factor on the learning rate: linear up to 1 over `warmup` steps, then a half cosine down to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
