"""Whole training steps with the map at each price, interleaved: `python measure.py [TURNS]`, in this folder."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision

from dali_salaug import KeepCutout, SaliencyMemory, SaliencyStage

CASES = {"resnet50": (16, 224, 1000), "resnet18": (32, 64, 200)}  # batch, side, classes
KINDS = ("half resolution", "full resolution", "memory")


def steps_of(name: str, batch: int, side: int, classes: int) -> Callable[[str], float]:
    """A function that takes one step of a kind, "plain" or of KINDS, and returns its seconds."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=classes).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
    labels, indices = torch.randint(classes, (batch,)), torch.arange(batch)
    views = torch.tensor([[1.4, 0, -0.2], [0, 1.4, -0.1]]).expand(batch, 2, 3)
    stages = {
        "half resolution": SaliencyStage(KeepCutout()),
        "full resolution": SaliencyStage(KeepCutout(), scale=1.0),
        "memory": SaliencyStage(KeepCutout(), saliency="memory", memory=SaliencyMemory(50_000)),
    }

    def step(kind: str) -> float:
        start = time.perf_counter()
        inputs, targets = images, labels
        if kind in stages:
            crops = {"indices": indices, "views": views} if kind == "memory" else {}
            inputs, targets = stages[kind](model, images, labels, **crops)
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return step


def ratios_of(step: Callable[[str], float], turns: int) -> dict[str, list[float]]:
    """Seconds of each kind, over the mean of the plain steps before and after it."""
    for kind in ("plain", *KINDS):
        step(kind)
    ratios: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for turn in range(turns):
        for kind in KINDS[turn % 3 :] + KINDS[: turn % 3]:
            plain = step("plain")
            ratios[kind].append(step(kind) / (plain + step("plain")) * 2)
    return ratios


turns = int(sys.argv[1]) if len(sys.argv) > 1 else 7
report = {"torch": torch.__version__, "threads": torch.get_num_threads(), "turns": turns, "ratios": {}}
for name, case in CASES.items():
    report["ratios"][name] = ratios_of(steps_of(name, *case), turns)
    for kind, ratios in report["ratios"][name].items():
        added = sorted(100 * (ratio - 1) for ratio in ratios)
        low, high = added[len(added) // 4], added[-1 - len(added) // 4]
        print(f"{name} {kind}: {statistics.median(added):+.1f} % (quartiles {low:.1f} to {high:.1f})", flush=True)
Path(__file__).with_name("measured.json").write_text(json.dumps(report, indent=1) + "\n")
