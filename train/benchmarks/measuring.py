"""The shared parts of the benchmarks: seconds, memory, operations, summaries, and the environment."""

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

Name = TypeVar("Name")


def place_of(device: str) -> torch.device:
    """Return the device of "auto", "cpu" or "cuda"."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def as_in_training(device: torch.device) -> None:
    """Let cuDNN choose its kernels by trying them in the first calls, as a run does."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True


def interleaved(
    parts: Mapping[Name, Callable[[], object]], turns: int, device: torch.device, warm_up: int = 0
) -> dict[Name, list[float]]:
    """Return the seconds of each part in every turn, which runs all parts. `warm_up` turns are not counted."""
    seconds: dict[Name, list[float]] = {name: [] for name in parts}
    for turn in tqdm(range(turns + warm_up), desc="turns", leave=False, disable=None):
        for name, part in parts.items():
            elapsed = seconds_of(part, device)
            if turn >= warm_up:
                seconds[name].append(elapsed)
    return seconds


def seconds_of(part: Callable[[], object], device: torch.device) -> float:
    """Return how long the part takes on an otherwise idle device."""
    wait(device)
    start = time.perf_counter()
    part()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operations(part: Callable[[], object]) -> int:
    """Return the floating-point operations of the convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        part()
    return counter.get_total_flops()


def peak_memory(part: Callable[[], object], device: torch.device) -> int:
    """Return the peak of the bytes of live tensors in `part`, beyond those alive before it."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        part()
        return torch.cuda.max_memory_allocated(device) - before
    quiet_profiler()
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


def quiet_profiler() -> None:
    """Keep torch's profiler from reporting its start, and missing GPUs."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")


def summary(values: list[float]) -> dict[str, Any]:
    """Return median, range, and the values themselves."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "runs": values}


def spread(values: list[float], digits: int, factor: float = 1.0) -> str:
    """Return median and range as text."""
    shown = (f"{factor * value:.{digits}f}" for value in (min(values), max(values)))
    return f"{factor * statistics.median(values):.{digits}f} ({' to '.join(shown)})"


def medians_and_ranges(rows: list[list[float]], factor: float = 1.0) -> tuple[list[float], list[list[float]]]:
    """Return each row's median, and its range below and above that, as error bars of matplotlib."""
    medians = [factor * statistics.median(row) for row in rows]
    below = [m - factor * min(row) for m, row in zip(medians, rows, strict=True)]
    return medians, [below, [factor * max(row) - m for m, row in zip(medians, rows, strict=True)]]


def environment() -> dict[str, str]:
    """Return hardware and versions, to report with every number."""
    import nvidia.dali
    import PIL
    import torchvision

    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            cpu = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), cpu)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": f"{cpu}, {len(os.sched_getaffinity(0))} usable cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "load": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "dali": nvidia.dali.__version__,
        "pillow": PIL.__version__,
    }
