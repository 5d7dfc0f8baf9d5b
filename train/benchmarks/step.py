"""Measure a whole training step: loader, stage, model, optimizer."""

import argparse
import collections
import gzip
import json
import time
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function
from tqdm import tqdm

from train.benchmarks.loader import DropLast, endless
from train.benchmarks.measuring import medians_and_ranges, quiet_profiler, spread, wait
from train.cli.checks import check, check_effect
from train.cli.parser import add_option, at_least, check_writable, stated
from train.config import Config
from train.data.loaders import resolve_for_data
from train.engine.loader_wait import LoaderWait
from train.engine.run import Run

HELP = "a whole training step: images/s, share of the loader wait, and the parts, from a profiler's trace"
PARTS = ("loader", "saliency", "compositing", "model", "optimizer")
# Options of training that do not affect a step.
UNUSED = ("out", "epochs", "validate_every", "checkpoint_every", "keep_every", "pictures_every")
WARM_UP = 5  # steps: compilation, buffers, and more than the loader prefetches
QUICK = ("--model", "small", "--image-size", "32", "--batch-size", "8", "--steps", "3", "--traced", "2")


def add_options(parser: argparse.ArgumentParser) -> None:
    for name in Config.options():
        if name not in UNUSED:
            add_option(parser, name)
    parser.add_argument("--steps", type=at_least(1), default=30, help="steps to time (default: %(default)s)")
    parser.add_argument(
        "--traced", type=at_least(1), default=5, help="steps to trace after those (default: %(default)s)"
    )
    parser.add_argument(
        "--trace", type=Path, default=Path("step-trace.json.gz"),
        help="file of the trace, for ui.perfetto.dev (default: %(default)s)",
    )  # fmt: skip


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure whole steps as in training, and their parts in the steps of a trace.

    Returns:
        For every timed step: "step", its seconds, and "wait", the seconds among them in which the device was idle for
        want of a batch, see `LoaderWait`. For every traced step, under "parts", the seconds of each of `PARTS`:
        "loader", the wait; "saliency" and "compositing", the stage; "model", forward, loss and backward. On the CPU
        they are the host's, on a GPU those of its kernels. "batch_size", images in a step; "settings"; "trace".
    """
    check_writable(options.trace)
    chosen = stated(options, Config.options())
    config = Config(**chosen)
    check(config)
    check_effect(chosen, config)
    resolved = resolve_for_data(config)
    run = Run(resolved)
    run.model.train()
    run.objective.set_epoch(resolved.warmup_epochs)
    loader_wait = LoaderWait(run.device)
    batches = loader_wait.measure(endless(DropLast(run.train_loader, run.train_loader.batch_size)))

    def step() -> None:
        run.step = 0  # always the first step of an epoch, which has all its images
        run.train_step(batches)

    for _ in range(WARM_UP):
        step()
    seconds: dict[str, list[float]] = {"step": [], "wait": []}
    for _ in tqdm(range(options.steps), desc="steps", leave=False, disable=None):
        wait(run.device)
        before, start = loader_wait.read(), time.perf_counter()
        step()
        wait(run.device)
        seconds["step"].append(time.perf_counter() - start)
        seconds["wait"].append(loader_wait.read() - before)
    quiet_profiler()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if run.device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        for number in range(options.traced):
            with record_function(f"step {number}"):
                step()
        wait(run.device)
    profiler.export_chrome_trace(str(options.trace))
    return {
        "settings": run.config.to_dict(),
        "batch_size": run.config.batch_size,
        **seconds,
        "parts": parts_of(read_trace(options.trace)),
        "trace": options.trace.name,
    }


def read_trace(path: Path) -> list[dict[str, Any]]:
    """Return the events of a trace in Chrome's format."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
        return json.load(file)["traceEvents"]


def parts_of(events: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return the seconds of each of `PARTS` in each traced step.

    They are the host's where the trace has no kernels. Else a kernel belongs to the range during which it was launched,
    by any thread (the backward pass has its own), if it is on the stream with the most work: DALI has other streams.
    """
    ranges = [e for e in events if e.get("cat") == "user_annotation"]
    steps = sorted((e for e in ranges if e["name"].startswith("step ")), key=lambda e: e["ts"])
    kernels = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    launches = {e["args"]["correlation"]: e["ts"] for e in events if e.get("cat") in ("cuda_runtime", "cuda_driver")}
    work: collections.Counter[int] = collections.Counter()
    for kernel in kernels:
        work[kernel["args"]["stream"]] += kernel["dur"]
    stream = work.most_common(1)[0][0] if work else None
    launched = [
        (launches[k["args"]["correlation"]], k["dur"])
        for k in kernels
        if k["args"]["stream"] == stream and k["args"]["correlation"] in launches
    ]

    def microseconds(part: dict[str, Any]) -> float:
        if part["name"] == "loader" or not launched:
            return part["dur"]
        return sum(dur for ts, dur in launched if part["ts"] <= ts < part["ts"] + part["dur"])

    parts: dict[str, list[float]] = {name: [] for name in PARTS}
    for step in steps:
        inside = [e for e in ranges if step["ts"] <= e["ts"] < step["ts"] + step["dur"]]
        spent = {name: sum(microseconds(e) for e in inside if e["name"] == name) / 1e6 for name in PARTS}
        spent["model"] -= spent["saliency"] + spent["compositing"]  # within the range of the losses
        for name, value in spent.items():
            parts[name].append(value)
    return parts


def table(result: dict[str, Any]) -> str:
    settings, total = result["settings"], [sum(parts) for parts in zip(*result["parts"].values(), strict=True)]
    speeds = [result["batch_size"] / seconds for seconds in result["step"]]
    waits = [wait / step for wait, step in zip(result["wait"], result["step"], strict=True)]
    lines = [
        f"{settings['model']}, {settings['method']}, {result['batch_size']} images of {settings['image_size']} pixels",
        f"{'step':<12} {spread(result['step'], 1, 1e3)} ms",
        f"{'speed':<12} {spread(speeds, 0)} images/s",
        f"{'loader wait':<12} {spread(waits, 2, 100)} % of the step waiting for the loader",
        f"\nparts, of the traced steps ({result['trace']}):",
    ]
    for name, values in result["parts"].items():
        shares = [value / whole for value, whole in zip(values, total, strict=True)]
        lines.append(f"{name:<12} {spread(values, 2, 1e3):<32} ms  {spread(shares, 1, 100)} %")
    return "\n".join(lines)


def plot(result: dict[str, Any], figure: Any) -> None:
    medians, ranges = medians_and_ranges(list(result["parts"].values()), 1e3)
    axes = figure.subplots()
    axes.bar(list(result["parts"]), medians, yerr=ranges, capsize=2)
    axes.set_ylabel("ms of a traced step, median and range")
