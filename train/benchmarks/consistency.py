"""Measure what the saliency-consistency loss adds to a training step."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dali_salaug import SaliencyConsistency
from dali_salaug.consistency.map_geometry import map_distance, unwarp
from train.benchmarks.measuring import as_in_training, interleaved, medians_and_ranges, peak_memory, place_of, spread
from train.benchmarks.stage import CLASSES, WARM_UP, add_step_options
from train.models.registry import build_model

HELP = "what the saliency-consistency loss adds to a training step on images and their copies"

# Saliency Map Based Data Augmentation, table 4: ms for an iteration, without and with the saliency loss.
PUBLISHED = {
    "vgg16": (152.23, 1176.71),
    "vgg19": (163.73, 1194.62),
    "resnet50": (307.57, 2156.14),
    "densenet121": (312.52, 2685.33),
    "densenet169": (406.54, 3789.62),
}
PLAIN = "plain step on both halves"
NAIVE = "saliency, PyTorch's double backward"

QUICK = ("--model", "small", "--image-size", "32", "--batch-size", "4", "--repeats", "2")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_step_options(parser, images="images in a step, which has as many copies too")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    names = ("image_size", "batch_size", "repeats", "device", "amp")
    settings = {name: getattr(options, name) for name in names}
    return {"settings": {"model": options.model, **settings}, **consistency_costs(options.model, **settings)}


def consistency_costs(
    model_name: str, *, image_size: int, batch_size: int, repeats: int, device: str, amp: bool
) -> dict[str, Any]:
    """Measure training steps on the same images and copies, interleaved.

    A step is forward, backward and SGD with momentum on random channels-last images and their mirror images: with the
    class loss alone, and with the other parts. The first WARM_UP turns are not counted.

    Args:
        model_name: see `train.models.registry.build_model`.
        batch_size: images in a step, which has as many copies too.
        amp: bfloat16 autocast.

    Returns:
        By the names of the steps: "steps", the seconds of every turn; "times", their ratios to the plain step of the
        same turn; "memory", the peak of the tensors of a step in bytes.
    """
    place = place_of(device)
    as_in_training(place)
    torch.manual_seed(0)
    model = build_model(model_name, CLASSES, image_size).to(place).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    shape = batch_size, 3, image_size, image_size
    images = torch.randn(shape, device=place).to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch_size,), device=place)
    matrices = torch.tensor([[-1.0, 0, image_size], [0, 1, 0]], device=place).expand(batch_size, 2, 3)
    data = (images, images.flip(3), labels, matrices)

    def step(loss: Callable[..., Tensor]) -> None:
        loss(model, *data).backward()
        optimizer.step()
        optimizer.zero_grad()

    def consistent(beta: float, gamma: float, scale: float = 1.0) -> Callable[..., Tensor]:
        loss = SaliencyConsistency(1, beta, gamma, scale=scale)
        return lambda model, images, copies, labels, matrices: (
            loss(model, images, copies, labels, matrices=matrices).total
        )

    losses: dict[str, Callable[..., Tensor]] = {
        PLAIN: _class_loss,
        "saliency": consistent(0, 1),
        "saliency, half resolution": consistent(0, 1, 0.5),
        "invariance": consistent(1, 0),
        "invariance and saliency": consistent(1, 1),
        NAIVE: naive_loss,
    }
    steps = {name: partial(step, loss) for name, loss in losses.items()}
    with torch.autocast(place.type, dtype=torch.bfloat16, enabled=amp):
        seconds = interleaved(steps, repeats, place, WARM_UP)
        memory = {name: peak_memory(part, place) for name, part in steps.items()}
    return {
        "steps": seconds,
        "times": {name: [a / b for a, b in zip(v, seconds[PLAIN], strict=True)] for name, v in seconds.items()},
        "memory": memory,
    }


def _class_loss(model: nn.Module, images: Tensor, copies: Tensor, labels: Tensor, matrices: Tensor) -> Tensor:
    return F.cross_entropy(model(torch.cat([images, copies])), torch.cat([labels, labels]))


def naive_loss(model: nn.Module, images: Tensor, copies: Tensor, labels: Tensor, matrices: Tensor) -> Tensor:
    """Return the class and saliency loss in PyTorch alone, by its double backward."""
    pixels, both = torch.cat([images, copies]).requires_grad_(), torch.cat([labels, labels])
    logits = model(pixels)
    (gradient,) = torch.autograd.grad(logits.gather(1, both[:, None]).sum(), pixels, create_graph=True)
    own, other = gradient.abs().amax(1).chunk(2)
    other, view = unwarp(other, matrices, (images.shape[-2], images.shape[-1]))
    return F.cross_entropy(logits, both) + map_distance(own, other, view)


def table(result: dict[str, Any]) -> str:
    lines = [f"{'':<35} {'median':>11}   {'times the plain step, each turn':<31}   {'peak memory':>11}"]
    for name, values in result["steps"].items():
        median, times = spread(values, 1, 1e3).partition(" ")[0], spread(result["times"][name], 2)
        memory = f"{result['memory'][name] / 2**20:.0f} MiB"
        lines.append(f"{name:<35} {median:>8} ms   {times:<31}   {memory:>11}")
    published = ", ".join(f"{name} {with_it / plain:.2f}" for name, (plain, with_it) in PUBLISHED.items())
    lines.append(f"\nauthors, with the saliency loss, on a GPU, times their plain step: {published}")
    return "\n".join(lines)


def plot(result: dict[str, Any], figure: Any) -> None:
    names = list(result["times"])[::-1]
    medians, ranges = medians_and_ranges([result["times"][name] for name in names])
    axes = figure.subplots()
    axes.barh(names, medians, xerr=ranges, capsize=2)
    axes.set_xlabel("times the plain step, median and range")
