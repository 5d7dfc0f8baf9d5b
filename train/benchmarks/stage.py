"""Measure what the saliency stage adds to a training step."""

import argparse
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dali_salaug import METHODS, KeepPaste, Method, SaliencyStage, WithEarlyHead, saliency_map
from train.benchmarks.measuring import (
    as_in_training,
    interleaved,
    medians_and_ranges,
    operations,
    peak_memory,
    place_of,
    spread,
)
from train.benchmarks.whole_steps import table as table_of_steps
from train.benchmarks.whole_steps import whole_steps
from train.cli.parser import at_least
from train.errors import UserError
from train.models.registry import FIRST_BLOCK, build_model

HELP = "what the saliency stage adds to a training step"
CLASSES = 1000
WARM_UP = 2  # turns; the second compiles once more, for gradients that exist already
# The additional time of an epoch of KeepAugment's authors, on GPUs: ImageNet, ResNet-50, over CutMix and AutoAugment.
PUBLISHED = {"map, low resolution": "20.0 to 20.4 %", "map, early head": "18.3 to 19.0 %"}

QUICK = ("--model", "small", "--image-size", "32", "--batch-size", "4", "--repeats", "2", "--methods", "keep_cutout")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_step_options(parser, images="images in a step")
    parser.add_argument("--compiled", action="store_true", help="torch.compile for step and saliency pass")
    parser.add_argument(
        "--methods",
        nargs="*",
        choices=list(METHODS),
        # The methods with a policy differ for the stage in nothing but whether a square is kept.
        default=[name for name, entry in METHODS.items() if entry.kind != "policy" or name == "keep_randaugment"],
        metavar="NAME",
        help="methods whose draw and compositing to time (default: all, but a single one of those with a policy)",
    )
    parser.add_argument(
        "--cuda-graph",
        nargs="*",
        choices=list(METHODS),
        default=[],
        metavar="NAME",
        help="methods whose whole stage to time, as it is and by a CUDA graph, on a GPU (default: none); each graph"
        " keeps the memory of a saliency pass",
    )


def add_step_options(parser: argparse.ArgumentParser, *, images: str) -> None:
    parser.add_argument("--model", default="resnet50", help="as for training")
    parser.add_argument("--image-size", type=at_least(8, 16384), default=224, help="side in pixels")
    parser.add_argument("--batch-size", type=at_least(1), default=16, help=images)
    parser.add_argument("--repeats", type=at_least(1), default=5, help="interleaved turns")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to measure")
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    if options.cuda_graph and place_of(options.device).type != "cuda":
        raise UserError(f"--cuda-graph needs a GPU; got --device {options.device}")
    names = ("image_size", "batch_size", "repeats", "device", "amp", "compiled", "methods", "cuda_graph")
    settings = {name: getattr(options, name) for name in names}
    return {"settings": {"model": options.model, **settings}, **stage_costs(options.model, **settings)}


def stage_costs(
    model_name: str,
    *,
    image_size: int,
    batch_size: int,
    repeats: int,
    device: str,
    amp: bool,
    compiled: bool,
    methods: Sequence[str],
    cuda_graph: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure a plain training step and each part that a method adds to it, interleaved.

    A step is forward, backward and SGD with momentum on random channels-last images. The parts are the map at each
    cost, and for each method all that follows the map (at half resolution). They are timed alone, and again in their
    place, in whole steps. The first WARM_UP turns are not counted.

    Args:
        model_name: see `train.models.registry.build_model`.
        amp: bfloat16 autocast around step and stage.
        compiled: step and saliency pass by torch.compile.
        methods: names of `dali_salaug.METHODS`.
        cuda_graph: those whose whole stage is timed too, as it is and by a CUDA graph.

    Returns:
        "step", the seconds of every turn; "parts", the same for each part by its name; "shares", for each part its
        ratio to the step of the same turn; "arithmetic", the ratio of the floating-point operations of each map to the
        step's: a share is below it only where the step computes less efficiently; "memory", the peak of the tensors of
        a step in bytes, alone ("step") and with the stage before it ("stage and step"); "whole", see
        `train.benchmarks.whole_steps`.
    """
    place = place_of(device)
    as_in_training(place)
    torch.manual_seed(0)
    model = build_model(model_name, CLASSES, image_size).to(place).to(memory_format=torch.channels_last)
    with_head = WithEarlyHead(model, CLASSES, FIRST_BLOCK.get(model_name))
    early = with_head.early
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    shape = batch_size, 3, image_size, image_size
    images = torch.randn(shape, device=place).to(memory_format=torch.channels_last)
    augmented, labels = images.flip(3), torch.randint(CLASSES, (batch_size,), device=place)
    stepped = torch.compile(model) if compiled else model

    def step(inputs: Tensor = images, network: Callable[[Tensor], Tensor] = stepped) -> None:
        F.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    side = round(image_size / 2)
    saliency = torch.rand(batch_size, side, side, device=place)
    generator = torch.Generator(place).manual_seed(0)

    def compositing(method: Method) -> None:
        drawn = method.draw(images, saliency, generator)
        method.apply(images, drawn, augmented)
        method.targets(labels, drawn, (image_size, image_size))

    maps: dict[str, Callable[..., Tensor]] = {
        "map, full": partial(saliency_map, model, images, labels, scale=1.0),
        "map, low resolution": partial(saliency_map, model, images, labels, scale=0.5),
        "map, early head": partial(saliency_map, model, images, labels, scale=1.0, head=early),
        "map, both": partial(saliency_map, model, images, labels, scale=0.5, head=early),
    }
    parts: dict[str, Callable[[], object]] = {
        "step": step,
        **{name: partial(part, compiled=compiled) for name, part in maps.items()},
        "map, Grad-CAM": partial(saliency_map, model, images, labels, method="grad_cam", scale=1.0),
        "map, fine-grained": partial(saliency_map, None, images, method="fine_grained", scale=0.5),
    }
    parts |= {name: partial(compositing, METHODS[name].build(CLASSES)) for name in methods}
    for name, graph in itertools.product(cuda_graph, (False, True)):  # WARM_UP captures
        entry = METHODS[name]
        options: dict[str, Any] = {"saliency": entry.saliency, "target": entry.target, "scale": entry.scale}
        stage = SaliencyStage(entry.build(CLASSES), warmup_epochs=0, cuda_graph=graph, **options)
        parts[f"{name}, {'graph' if graph else 'stage'}"] = partial(stage, model, images, labels, augmented)
    with torch.autocast(place.type, dtype=torch.bfloat16, enabled=amp):
        seconds = interleaved(parts, repeats, place, WARM_UP)
        whole = whole_steps(with_head, images, labels, turns=repeats, warm_up=WARM_UP, compiled=compiled)
        stage = SaliencyStage(KeepPaste(), compiled=compiled)
        peaks = {
            "step": peak_memory(step, place),
            "stage and step": peak_memory(lambda: step(stage(model, images, labels, augmented)[0]), place),
        }
    of_a_step = operations(lambda: step(network=model))
    arithmetic = {name: operations(part) / of_a_step for name, part in maps.items()}
    shares = {
        name: [a / b for a, b in zip(values, seconds["step"], strict=True)]
        for name, values in seconds.items()
        if name != "step"
    }
    return {
        "step": seconds["step"],
        "parts": {name: values for name, values in seconds.items() if name != "step"},
        "shares": shares,
        "arithmetic": arithmetic,
        "memory": peaks,
        "whole": whole,
    }


def table(result: dict[str, Any]) -> str:
    lines = [f"{'':<20} {'median':>11}   {'of the step, each turn':<28} {'arithmetic':>10}   authors (ResNet-50, GPUs)"]
    median, _, turns = spread(result["step"], 1, 1e3).partition(" ")
    lines.append(f"{'training step':<20} {median:>8} ms   {turns}")
    for name, values in result["parts"].items():
        median = spread(values, 1, 1e3).partition(" ")[0]
        share, _, turns = spread(result["shares"][name], 2, 100).partition(" ")
        floor = f"{100 * result['arithmetic'][name]:.1f} %" if name in result["arithmetic"] else ""
        share = f"{share:>6} % {turns}"
        lines.append(f"{name:<20} {median:>8} ms   {share:<28} {floor:>10}   {PUBLISHED.get(name, '')}".rstrip())
    alone, together = (result["memory"][name] for name in ("step", "stage and step"))
    lines.append(
        f"\npeak memory of a step {alone / 2**20:.0f} MiB; with the stage {100 * (together / alone - 1):+.1f} %"
    )
    return "\n".join([*lines, "", *table_of_steps(result["whole"])])


def plot(result: dict[str, Any], figure: Any) -> None:
    names = list(result["shares"])[::-1]
    medians, ranges = medians_and_ranges([result["shares"][name] for name in names], 100)
    axes = figure.subplots()
    axes.barh(names, medians, xerr=ranges, capsize=2)
    axes.set_xlabel("% of a training step, median and range")
    axes.tick_params(axis="y", labelsize=7)
