"""Checks of a run's options before anything is built from them."""

import importlib.util
import math
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from dali_salaug import METHODS, Clean, Method, MethodEntry
from dali_salaug.remembering import MEMORY
from pipelines import POLICIES, find_policy
from train.cli.parser import in_words
from train.config import Config
from train.config.run import RunConfig
from train.errors import UserError, did_you_mean
from train.models.published import check_published
from train.models.registry import check_model
from train.tasks.classification.objective import make_consistency


def check(config: RunConfig) -> None:
    """Raise UserError where an option is illegal; the message has its legal values and its value."""
    options, wrong = config.options(), config.of_wrong_type()
    if wrong is not None:
        legal, value = in_words(options[wrong].type), getattr(config, wrong)
        raise UserError(f"--{wrong.replace('_', '-')} must be {legal}; got {value!r}")
    for name, option in options.items():
        check_value(name, getattr(config, name), option.metadata)
    check_training(config)
    if isinstance(config, Config):
        check_classification(config)
    config.check()


def check_training(config: RunConfig) -> None:
    """Raise UserError where the options that all tasks have are illegal, alone or with the others."""
    check_optimizer(config)
    for name in ("lr", "lr_per_256", "clip_grad"):
        if getattr(config, name) == 0:
            raise UserError(f"--{name.replace('_', '-')} must be above 0; got 0")
    if config.lr is not None and config.lr_per_256 is not None:
        raise UserError(f"--lr-per-256 is in place of --lr; got --lr {config.lr:g} --lr-per-256 {config.lr_per_256:g}")
    if config.lr_steps is not None and list(config.lr_steps) != sorted(set(config.lr_steps)):
        raise UserError(f"--lr-steps must ascend; got {' '.join(map(str, config.lr_steps))}")
    if config.ema == 1:
        raise UserError("--ema must be in [0, 1); got 1")
    if (config.mean is None) != (config.std is None):
        one, other = ("--std", "--mean") if config.mean is None else ("--mean", "--std")
        raise UserError(f"{one} needs {other} too, the rest of the normalisation")


def check_classification(config: Config) -> None:
    """Raise UserError where the options of classification are illegal, alone or with the others."""
    if config.method not in METHODS:
        hint = did_you_mean(config.method, METHODS)
        raise UserError(f"--method must be one of {', '.join(METHODS)}; got {config.method!r}{hint}")
    if config.policy is not None:
        with_policy = [name for name, entry in METHODS.items() if entry.policy]
        if config.method not in with_policy:
            raise UserError(f"--policy is for the methods {', '.join(with_policy)}; got --method {config.method}")
        try:
            find_policy(config.policy)
        except ValueError as error:
            raise UserError(f"--{error}{did_you_mean(config.policy, POLICIES)}") from error
    if config.held_out is not None and config.val_data is not None:
        raise UserError(f"--held-out takes the place of --val-data; got {config.held_out} and {config.val_data}")
    check_model(config.model)
    check_fine_tuning(config)
    if config.layer_decay == 0:
        raise UserError("--layer-decay must be in (0, 1]; got 0")
    if config.saliency == MEMORY and config.consistency is not None:
        raise UserError("--saliency memory does not go with --consistency, whose loss has gradients of its own")
    if config.saliency == MEMORY and not METHODS[config.method].build(2).uses_saliency:
        raise UserError(f"--saliency memory is for methods with a map of each image; got --method {config.method}")
    if config.saliency == MEMORY and config.memory_layer != Config.memory_layer:
        for name in ("compile", "freeze_trunk"):
            if getattr(config, name):
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"--memory-layer {config.memory_layer} does not go with {flag}: leave one of them out")
    for name in ("saliency_scale", "memory_share"):
        if getattr(config, name) == 0:
            raise UserError(f"--{name.replace('_', '-')} must be in (0, 1]; got 0")
    if config.early_head == "off" and config.early_weight != Config.early_weight:
        raise UserError(f"--early-weight needs an --early-head; got {config.early_weight:g} with --early-head off")
    check_consistency(config)
    if config.consistency is not None and config.amp == "float16":
        raise UserError("--consistency needs gradients of gradients, too small for --amp float16; use bfloat16")
    if config.consistency is not None and config.compile and config.consistency[2] and config.consistency_scale == 1:
        raise UserError(
            "--compile gives no second derivatives, which --consistency needs at --consistency-scale 1; leave it"
            " out, or use a scale below 1"
        )
    if config.cuda_graph and config.saliency == MEMORY:
        raise UserError("--cuda-graph replays maps of the live model, which --saliency memory does without")
    if config.cuda_graph and config.device == "cpu":
        raise UserError("--cuda-graph needs a GPU; got --device cpu")
    if config.crop_scale is not None and config.crop_scale[0] > config.crop_scale[1]:
        raise UserError(f"--crop-scale must be least <= most; got {' '.join(map(str, config.crop_scale))}")


def check_fine_tuning(config: Config) -> None:
    """Raise UserError where the options of the weights to start from are illegal, alone or with the others."""
    if config.pretrained and config.weights is not None:
        raise UserError(f"--pretrained and --weights exclude each other; got --pretrained --weights {config.weights}")
    if config.pretrained:
        check_published(config.model)
    if config.freeze_trunk and not config.pretrained and config.weights is None:
        raise UserError("--freeze-trunk needs weights to keep: add --pretrained or --weights")
    if config.freeze_trunk and config.layer_decay != 1:
        raise UserError(
            f"--layer-decay has no effect with --freeze-trunk, which trains the head alone; got {config.layer_decay:g}"
        )


def check_optimizer(config: RunConfig) -> None:
    """Raise UserError where the options of the optimizer are illegal, alone or with the others."""
    if config.optimizer != "sgd" and config.momentum != RunConfig.momentum:
        raise UserError(f"--momentum is for --optimizer sgd; got {config.momentum:g} with {config.optimizer}")
    if config.optimizer != "lamb":
        return
    if importlib.util.find_spec("timm") is None:
        raise UserError("--optimizer lamb needs timm: pip install timm")
    if config.fused or config.on_nonfinite == "skip":
        option = "--fused" if config.fused else "--on-nonfinite skip"
        raise UserError(f"{option} needs an optimizer with a fused form, sgd, adam or adamw; got --optimizer lamb")


def check_value(name: str, value: Any, meta: Mapping[str, Any]) -> None:
    """Raise UserError where the value is none of the option's choices, or out of its range."""
    low, high, flag = meta["low"], meta["high"], "--" + name.replace("_", "-")
    if meta["choices"] and value is not None and value not in meta["choices"]:
        raise UserError(f"{flag} must be one of {', '.join(meta['choices'])}; got {value!r}")
    for number in value if isinstance(value, tuple) else (value,):
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if is_number and not (low <= number <= (sys.float_info.max if high is None else high)):
            finite = "" if math.isfinite(number) else "a finite number of "
            legal = f"{finite}at least {low}" if high is None else f"in [{low}, {high}]"
            raise UserError(f"{flag} must be {legal}; got {number}")


# The options that only some methods have, and those methods, in words and by their facts.
_OF_SOME: dict[str, tuple[str, Callable[[MethodEntry], bool]]] = {
    "policy": ("with a policy", lambda entry: entry.policy is not None),
    "interpolation": ("with a policy", lambda entry: entry.policy is not None),
    "tau": ("that compare regions with a quantile", lambda entry: entry.takes("tau")),
    "region_size": ("with a square region", lambda entry: entry.takes("size")),
    "saliency": ("with a map of each image", lambda entry: entry.build(2).uses_saliency),
    "saliency_scale": ("with a map of each image", lambda entry: entry.build(2).uses_saliency),
    "saliency_target": ("with a map of each image", lambda entry: entry.build(2).uses_saliency),
    "warmup_epochs": ("that change the images", lambda entry: not isinstance(entry.build(2), Clean)),
}


def check_effect(stated: Collection[str], config: Config) -> None:
    """Raise UserError where an option has no effect with the method.

    Args:
        stated: names of the options that the command line states. A preset, such as the config.yaml of a run, has all.
        config: checked.
    """
    entry = METHODS[config.method]
    for name, (which, has) in _OF_SOME.items():
        if name in stated and not has(entry):
            methods = ", ".join(other for other, facts in METHODS.items() if has(facts))
            raise UserError(
                f"--{name.replace('_', '-')} has no effect with --method {config.method}: it is for methods {which},"
                f" {methods}"
            )
    for name in ("memory_grid", "memory_share", "memory_max_age", "memory_layer"):
        if name in stated and config.saliency != MEMORY:
            raise UserError(f"--{name.replace('_', '-')} has no effect without --saliency memory")
    if config.saliency == MEMORY:
        for name, flag in (("saliency_target", "--saliency-target"), ("early_head", "--early-head")):
            if name in stated and getattr(config, name) != "off":
                raise UserError(f"{flag} has no effect with --saliency memory, which makes no map of the model")
    if "cuda_graph" in stated and config.cuda_graph and isinstance(entry.build(2), Clean):
        raise UserError(f"--cuda-graph has no effect with --method {config.method}, which does not change the images")
    if "saliency_target" in stated and (config.saliency or entry.saliency) == "fine_grained":
        raise UserError("--saliency-target has no effect with --saliency fine_grained, whose map needs no model")
    if config.early_head != "off" and config.early_weight == 0 and not entry.build(2).uses_saliency:
        raise UserError(
            f"--early-head has no effect with --method {config.method}, which uses no map, and --early-weight 0"
        )


def check_consistency(config: Config) -> None:
    """Raise UserError where the options of the saliency-consistency loss are illegal, alone or with the others."""
    if config.consistency is None:
        for name in ("consistency_scale", "consistency_layers"):
            if (value := getattr(config, name)) != getattr(Config, name):
                raise UserError(f"--{name.replace('_', '-')} needs --consistency ALPHA BETA GAMMA; got {value} without")
        return
    try:
        make_consistency(config)
    except ValueError as error:
        raise UserError(f"--consistency: {error}") from error
    if not any(config.consistency):
        raise UserError("--consistency must have a weight above 0; got 0 0 0")
    if config.consistency_layers and not config.consistency[1]:
        raise UserError(
            f"--consistency-layers needs a BETA above 0; got {' '.join(f'{w:g}' for w in config.consistency)}"
        )
    if config.early_head != "off":
        raise UserError(f"--consistency trains no early head; got --early-head {config.early_head}")
    check_traceable(config, "--consistency")


def check_traceable(config: Config, asked_by: str) -> None:
    """Raise UserError where a map cannot follow what the method does to the image; `asked_by` begins the message."""
    if is_traceable(config):
        return
    if not _traceable(METHODS[config.method].build(2)):
        methods = ", ".join(name for name, entry in METHODS.items() if _traceable(entry.build(2)))
        raise UserError(
            f"{asked_by} needs a method that only moves, cuts or mixes images: {methods}; got --method"
            f" {config.method} (noise has no map, an image pasted over its augmented copy has two, and clean images are"
            " not transformed)"
        )
    policies = ", ".join(name for name, entry in POLICIES.items() if entry.chains == 1)
    raise UserError(
        f"{asked_by} needs a policy that moves each pixel to one place, --policy {policies}, or a file; got"
        f" {config.policy or METHODS[config.method].policy}, a mixture of several images"
    )


def is_traceable(config: Config) -> bool:
    """Return whether a map can follow what the method and the policy do to the image."""
    entry = METHODS[config.method]
    policy = config.policy or entry.policy
    return _traceable(entry.build(2)) and (policy is None or find_policy(policy).chains == 1)


def _traceable(method: Method) -> bool:
    return method.traceable and not isinstance(method, Clean)
