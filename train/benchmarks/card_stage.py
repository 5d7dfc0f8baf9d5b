"""Who waits for a GPU, and on what do a step and the maps spend their time?"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from dali_salaug import METHODS, KeepPaste, SaliencyMemory, SaliencyStage
from train.benchmarks.measuring import as_in_training, place_of, quiet_profiler, seconds_of, spread, wait
from train.models.registry import build_model

CLASSES = 1000
TURNS = 5


def _training(options: argparse.Namespace) -> tuple[Any, Tensor, Tensor, Callable[[], None]]:
    """Return a model, images and labels, and a plain step of training on them."""
    place, size = place_of(options.device), (options.batch_size, 3, options.image_size, options.image_size)
    as_in_training(place)
    torch.manual_seed(0)
    model = build_model(options.model, CLASSES, options.image_size).to(place).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    images = torch.randn(size, device=place).to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, size[:1], device=place)

    def step() -> None:
        with torch.autocast(place.type, dtype=torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, images, labels, step


def waiting(options: argparse.Namespace) -> dict[str, Any]:
    """Run the whole stage of every method, and every price of the map, as in training; on a GPU as a CUDA graph too.

    Returns:
        "step", seconds of a plain training step in each turn. For each part: "waits", the error of CUDA's guard against
        waiting, None if there is none; "host", seconds until all work is queued; "all", seconds until it is done.
    """
    model, images, labels, step = _training(options)
    augmented, place, count = images.flip(3), images.device, len(images)
    views = torch.eye(2, 3, device=place).repeat(count, 1, 1)
    indices, memory = torch.arange(count, device=place), SaliencyMemory(count).to(place)
    stages = {
        "map, full": partial(SaliencyStage, KeepPaste(), scale=1.0),
        "map, half": partial(SaliencyStage, KeepPaste(), scale=0.5),
        "map, memory": partial(SaliencyStage, KeepPaste(), saliency="memory", memory=memory),
    }
    for name, entry in METHODS.items():
        stages[name] = partial(SaliencyStage, entry.build(CLASSES), warmup_epochs=0)
        if place.type == "cuda":
            stages[f"{name}, graph"] = partial(stages[name], cuda_graph=True)

    found: dict[str, Any] = {"step": [], "parts": {}}
    for _ in range(TURNS + 2):
        found["step"].append(seconds_of(step, place))
    del found["step"][:2]
    for name, build in stages.items():  # one at a time: a graph keeps its memory
        call = _call(build(), model, images, labels, augmented, indices, views)
        try:
            found["parts"][name] = {"waits": _first_wait(call, place), **_host_and_all(call, place)}
        except RuntimeError as error:  # the others are of interest too
            found["parts"][name] = {"waits": f"failed: {str(error).splitlines()[0]}", "host": [], "all": []}
    found["passed"] = all(part["waits"] is None for part in found["parts"].values())
    return found


def _call(stage: SaliencyStage, model: Any, *batch: Tensor) -> Callable[[], object]:
    images, labels, augmented, indices, views = batch
    where = {"indices": indices, "views": views} if stage.memory is not None else {}

    def call() -> object:
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            return stage(model, images, labels, augmented, **where)

    return call


def _first_wait(call: Callable[[], object], place: torch.device) -> str | None:
    """Return the message of CUDA's guard, None where it has none."""
    for _ in range(3):
        call()  # the first makes the generator, and buffers; a graph is made from the second on
    if place.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


def _host_and_all(call: Callable[[], object], place: torch.device) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"host": [], "all": []}
    for _ in range(TURNS):
        wait(place)
        start = time.perf_counter()
        call()
        seconds["host"].append(time.perf_counter() - start)
        wait(place)
        seconds["all"].append(time.perf_counter() - start)
    return seconds


def waiting_table(result: dict[str, Any]) -> str:
    step = result["step"]
    lines = [
        f"a plain step of training: {spread(step, 1, 1e3)} ms",
        f"{'stage':<28} {'host, ms':<24} {'in all, ms':<24} {'of a step':<10} waits for the device",
    ]
    for name, part in result["parts"].items():
        if not part["all"]:
            lines.append(f"{name:<28} {part['waits']}")
            continue
        share = 100 * statistics.median(part["all"]) / statistics.median(step)
        host, whole = (spread(part[key], 2, 1e3) for key in ("host", "all"))
        lines.append(f"{name:<28} {host:<24} {whole:<24} {share:>6.1f} %   {part['waits'] or 'no'}")
    return "\n".join(lines)


def kernels(options: argparse.Namespace) -> dict[str, Any]:
    """Profile a plain step of training and maps of the same images.

    Returns:
        Under "parts", for each of them: "all", its seconds on the device; "operators", the most expensive ones, each
        with its name, its seconds and its number of calls.
    """
    model, images, labels, step = _training(options)
    place = images.device
    parts: dict[str, Callable[[], object]] = {"step": step}
    for name, scale in (("map, full", 1.0), ("map, half", 0.5)):
        stage = SaliencyStage(KeepPaste(), scale=scale)
        parts[name] = _call(stage, model, images, labels, images, images, images)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if place.type == "cuda" else [])]
    key = "self_device_time_total" if place.type == "cuda" else "self_cpu_time_total"
    found: dict[str, Any] = {}
    quiet_profiler()
    for name, part in parts.items():
        for _ in range(3):
            part()
        with profile(activities=activities) as profiler:
            for _ in range(TURNS):
                part()
            wait(place)
        events = [e for e in profiler.key_averages() if e.device_type == DeviceType.CPU]  # not the kernels themselves
        rows = sorted(
            ([e.key, getattr(e, key) / TURNS / 1e6, e.count / TURNS] for e in events), key=lambda row: -row[1]
        )
        found[name] = {"all": sum(row[1] for row in rows), "operators": rows[:12]}
    return {"parts": found, "passed": True}


def kernels_table(result: dict[str, Any]) -> str:
    lines = []
    for name, part in result["parts"].items():
        lines.append(f"{name}: {1e3 * part['all']:.2f} ms")
        lines += [f"    {1e3 * seconds:>8.2f} ms {calls:>6.0f} × {key}" for key, seconds, calls in part["operators"]]
    return "\n".join(lines)
