"""What the saliency stage adds to a training step: python -m train.benchmark stage."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from dali_salaug import KeepPaste, Method, SaliencyStage, WithEarlyHead, saliency_map
from train.config import Config
from train.methods import METHODS
from train.models import FIRST_BLOCK, build_model

CLASSES = 1000
WARM_UP = 2  # turns; the second compiles once more, for gradients that are there already
# What KeepAugment's authors pay for an epoch more, on GPUs: ImageNet, ResNet-50, over CutMix and AutoAugment (spec §7).
PUBLISHED = {"map, low resolution": "20.0 to 20.4 %", "map, early head": "18.3 to 19.0 %"}


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
) -> dict[str, Any]:
    """Seconds of a plain training step and of each part that a method adds to it, turn and turn about.

    A step is forward, backward and SGD with momentum on random channels-last images; the parts are timed alone, which
    is what they add, since nothing of theirs overlaps with the step on one device: the map at each price, and for each
    method all that comes after the map (at half resolution). The first WARM_UP turns are not counted.

    Args:
        model_name: see `train.models.build_model`.
        amp: bfloat16 autocast around step and stage.
        compiled: step and saliency pass by torch.compile.
        methods: names of `train.methods.METHODS`.

    Returns:
        "step", the seconds of every turn; "parts", the same for each part by its name; "shares", for each part, its
        seconds over those of the step in the same turn; "arithmetic", the floating-point operations of the maps over
        the step's, below which a share falls only where the step is computed less well; "memory", the peak of the
        tensors made in a step, in bytes, alone ("step") and with the stage before it ("stage and step").
    """
    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    torch.manual_seed(0)
    model = build_model(model_name, CLASSES, image_size).to(place).to(memory_format=torch.channels_last)
    early = WithEarlyHead(model, CLASSES, FIRST_BLOCK.get(model_name)).early
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
    parts |= {name: partial(compositing, METHODS[name].build(Config(), CLASSES)) for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    with torch.autocast(place.type, dtype=torch.bfloat16, enabled=amp):
        for turn in tqdm(range(repeats + WARM_UP), desc="turns", leave=False, disable=None):
            for name, part in parts.items():
                elapsed = seconds_of(part, place)
                if turn >= WARM_UP:
                    seconds[name].append(elapsed)
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
    }


def operations(part: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        part()
    return counter.get_total_flops()


def peak_memory(part: Callable[[], object], device: torch.device) -> int:
    """The most bytes of tensors that are alive at once in `part`, over those alive before it."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        part()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler tells of its start, and of missing GPUs
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        part()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace.json")
        profiler.export_chrome_trace(path)
        with open(path) as file:
            events = [e for e in json.load(file)["traceEvents"] if e["name"] == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        alive += event["args"]["Bytes"]
        peak = max(peak, alive)
    return peak


def seconds_of(part: Callable[[], object], device: torch.device) -> float:
    """How long the part takes, on a device that has nothing else to do."""
    _wait(device)
    start = time.perf_counter()
    part()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
