"""Whole training steps with the map at each price: what a price costs in its place, not alone."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from dali_salaug import KeepCutout, SaliencyMemory, SaliencyStage, WithEarlyHead
from train.benchmarks.measuring import seconds_of, spread
from train.config import Config

SAMPLES = 50_000  # of the memory
PRICES: dict[str, dict[str, Any]] = {
    "full": {"scale": 1.0},
    "low resolution": {"scale": 0.5},
    "early head": {"scale": 1.0},
    "both": {"scale": 0.5},
    "memory": {"saliency": "memory"},
    "memory, first layer": {"saliency": "memory", "layer": "first"},
}
EARLY = ("early head", "both")
AT_ONCE = {"cpu": 1, "cuda": 8}  # steps without waiting in between: the host works ahead of a GPU, as in training


def whole_steps(
    network: WithEarlyHead, images: Tensor, labels: Tensor, *, turns: int, warm_up: int, compiled: bool
) -> dict[str, Any]:
    """Measure a step with KeepCutout at each price of its map against the plain steps before and after it.

    A step is stage, forward, backward and SGD with momentum; where the map is the early head's, the head is trained
    too. The order of the prices changes from turn to turn. A memory cannot listen to a layer of a compiled model.

    Args:
        network: the model with its early head.
        images, labels: of every step.
        turns: that count; `warm_up` further ones come first.
        compiled: step and saliency pass by torch.compile.

    Returns:
        "plain", the seconds of all plain steps, on a GPU means of `AT_ONCE`; "steps", those of each price by its name;
        "ratios", each divided by the mean of the two plain steps around it.
    """
    batch, at_once = len(images), AT_ONCE[images.device.type]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    crops = {
        "indices": torch.arange(batch, device=images.device) % SAMPLES,
        "views": torch.tensor([[1.4, 0, -0.2], [0, 1.4, -0.1]], device=images.device).expand(batch, 2, 3),
    }
    prepared = torch.compile if compiled else _unchanged
    trained = {False: prepared(network.model), True: prepared(network)}
    stages, names = {}, [name for name, options in PRICES.items() if not (compiled and "layer" in options)]
    for name in names:
        options, remembers = PRICES[name], name.startswith("memory")
        if name in EARLY:
            options = options | {"head": network.early}
        options = options | ({"memory": SaliencyMemory(SAMPLES)} if remembers else {"compiled": compiled})
        stages[name] = SaliencyStage(KeepCutout(), **options)

    def step(name: str | None) -> float:
        def part() -> None:
            inputs, targets = images, labels
            if name is not None:
                given = crops if name.startswith("memory") else {}
                inputs, targets = stages[name](network.model, images, labels, **given)
            outputs = trained[name in EARLY](inputs)
            if name in EARLY:
                loss = F.cross_entropy(outputs[0], targets) + Config.early_weight * F.cross_entropy(outputs[1], targets)
            else:
                loss = F.cross_entropy(outputs, targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        def together() -> None:
            for _ in range(at_once):
                part()

        return seconds_of(together, images.device) / at_once

    return beside_plain_steps(step, names, turns=turns, warm_up=warm_up)


def beside_plain_steps(
    step: Callable[[str | None], float], names: Sequence[str], *, turns: int, warm_up: int
) -> dict[str, Any]:
    """Measure steps against the plain steps before and after each. Their order changes from turn to turn.

    Args:
        step: takes the step of a name, or a plain one for None, and returns its seconds.
        names: of the steps.
        turns: that count; `warm_up` further ones come first.

    Returns:
        "plain", "steps" and "ratios", see `whole_steps`.
    """
    names = list(names)
    plain: list[float] = []
    steps: dict[str, list[float]] = {name: [] for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for turn in tqdm(range(-warm_up, turns), desc="whole steps", leave=False, disable=None):
        first = turn % len(names) if names else 0
        around = [step(None)]
        for name in names[first:] + names[:first]:
            elapsed = step(name)
            around.append(step(None))
            if turn >= 0:
                steps[name].append(elapsed)
                ratios[name].append(2 * elapsed / (around[-2] + around[-1]))
        plain += around if turn >= 0 else []
    return {"plain": plain, "steps": steps, "ratios": ratios}


def table(result: dict[str, Any]) -> list[str]:
    lines = [f"{'whole step, KeepCutout':<24} {'median':>8}      added to the plain steps around it, median (range)"]
    lines.append(f"{'plain':<24} {_milliseconds(result['plain']):>8} ms")
    for name, values in result["steps"].items():
        added = spread([ratio - 1 for ratio in result["ratios"][name]], 1, 100)
        share, _, turns = added.partition(" ")
        lines.append(f"{name:<24} {_milliseconds(values):>8} ms   {share:>6} % {turns}")
    return lines


def _milliseconds(seconds: list[float]) -> str:
    return spread(seconds, 1, 1e3).partition(" ")[0]


def _unchanged(module: Callable[..., Any]) -> Callable[..., Any]:
    return module
