"""The optimizer, and the learning rate of each step."""

import functools
import math
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from train.config import ResolvedConfig
from train.config.run import ResolvedRun
from train.engine.network import Network
from train.errors import UserError


def steps_of_epoch(config: ResolvedRun, images: int) -> int:
    """Return the number of steps in an epoch of that many images.

    Raises:
        UserError: `drop_last` leaves no step.
    """
    if not config.drop_last:
        return math.ceil(images / config.step_images)
    if images < config.step_images:
        raise UserError(
            f"--drop-last leaves no step: there are {images} training images, fewer than the {config.step_images} of a"
            f" step at --batch-size {config.batch_size}; lower --batch-size"
        )
    return images // config.step_images


def layer_groups(config: ResolvedConfig, network: Network) -> list[dict[str, Any]]:
    """Return the parameters of the network that are trained, in groups, with a learning rate for each layer."""
    groups = []
    layers = [list(network.module.parameters())] if config.layer_decay == 1 else network.layers()
    for depth, parameters in enumerate(reversed(layers)):  # the first group has the full rate, which is logged
        rate = {"lr": config.lr * config.layer_decay**depth}
        groups += [group | rate for group in parameter_groups(parameters, config.weight_decay)]
    return groups


def make_optimizer(config: ResolvedRun, groups: list[dict[str, Any]]) -> Optimizer:
    """Build the optimizer of a configuration, for groups of parameters."""
    if config.optimizer in ("adam", "adamw"):
        return (Adam if config.optimizer == "adam" else AdamW)(groups, lr=config.lr, fused=config.fused)
    if config.optimizer == "lamb":
        from timm.optim import Lamb

        # LAMB scales the gradients down to a norm of 1 itself, by default; not twice.
        optimizer = Lamb(groups, lr=config.lr, max_grad_norm=config.clip_grad or 1.0)
        for group in optimizer.param_groups:
            group["step"] = torch.zeros(())  # as after its first step, so that each checkpoint has the same form
        return optimizer
    nesterov = config.momentum > 0
    return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=config.fused)


def make_scheduler(config: ResolvedRun, optimizer: Optimizer, steps: int) -> LambdaLR:
    """Build the schedule of a configuration, for epochs of `steps` steps."""
    warmup = round(config.lr_warmup_epochs * steps)
    factor = functools.partial(cosine_with_warmup, warmup=warmup, total=config.epochs * steps)
    if config.lr_steps is not None:
        factor = functools.partial(steps_with_warmup, warmup=warmup, drops=[epoch * steps for epoch in config.lr_steps])
    return LambdaLR(optimizer, factor)


def doubtful_options(config: ResolvedRun, images: int) -> list[str]:
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


def parameter_groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return those that are trained, in up to two groups: weights with decay, biases and normalisation without."""
    trained = [p for p in parameters if p.requires_grad]
    decayed, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def steps_with_warmup(step: int, *, warmup: int, drops: list[int]) -> float:
    """Return the factor on the learning rate: linear up to 1 over `warmup` steps, divided by 10 at each of `drops`."""
    return min(1.0, (step + 1) / (warmup + 1)) * 0.1 ** sum(step >= drop for drop in drops)


def cosine_with_warmup(step: int, *, warmup: int, total: int) -> float:
    """Return the factor on the learning rate: linear up to 1 over `warmup` steps, then a half cosine down to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
