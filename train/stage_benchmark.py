"""What the saliency stage adds to a training step: python -m train.benchmark stage."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from dali_salaug import KeepCutout, KeepPaste, WithEarlyHead, saliency_map
from train.models import FIRST_BLOCK, build_model

CLASSES = 1000


def stage_costs(
    model_name: str, *, image_size: int, batch_size: int, repeats: int, device: str, amp: bool, compiled: bool
) -> dict[str, Any]:
    """Seconds of a plain training step and of each part that a method adds to it, turn and turn about.

    A step is forward, backward and SGD with momentum on random channels-last images; the parts are timed alone, which
    is what they add, since nothing of theirs overlaps with the step on one device. The first turn of each warms up and
    is not counted.

    Args:
        model_name: see `train.models.build_model`.
        amp: bfloat16 autocast around step and stage.
        compiled: the step's model by torch.compile; the map is always computed without.

    Returns:
        "step", the seconds of every turn; "parts", the same for each part by its name; "shares", for each part, its
        seconds over those of the step in the same turn.
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

    def step() -> None:
        F.cross_entropy(stepped(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    def compositing(method: KeepCutout | KeepPaste, scale: float) -> Callable[[], None]:
        side = round(image_size * scale)
        saliency = torch.rand(batch_size, side, side, device=place)
        generator = torch.Generator(place).manual_seed(0)

        def compose() -> None:
            method.apply(images, method.draw(images, saliency, generator), augmented)

        return compose

    parts: dict[str, Callable[[], object]] = {
        "step": step,
        "map, full": lambda: saliency_map(model, images, labels, scale=1.0),
        "map, low resolution": lambda: saliency_map(model, images, labels, scale=0.5),
        "map, early head": lambda: saliency_map(model, images, labels, scale=1.0, head=early),
        "map, both": lambda: saliency_map(model, images, labels, scale=0.5, head=early),
        "cut, full map": compositing(KeepCutout(), 1.0),
        "cut, low map": compositing(KeepCutout(), 0.5),
        "paste, low map": compositing(KeepPaste(), 0.5),
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for turn in tqdm(range(repeats + 1), desc="turns", leave=False, disable=None):
        for name, part in parts.items():
            _wait(place)
            start = time.perf_counter()
            with torch.autocast(place.type, dtype=torch.bfloat16, enabled=amp):
                part()
            _wait(place)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    shares = {
        name: [a / b for a, b in zip(values, seconds["step"], strict=True)]
        for name, values in seconds.items()
        if name != "step"
    }
    return {"step": seconds["step"], "parts": {n: v for n, v in seconds.items() if n != "step"}, "shares": shares}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
