"""Find out on a GPU what works and what it costs: each part in a process of its own, a page at the end."""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from train.benchmarks import card, loader, stage, step
from train.benchmarks.measuring import environment, place_of
from train.cli.parser import at_least
from train.engine.files import make_new, write_json
from train.errors import UserError

HELP = "on a GPU, what works and what it costs: each part in a process of its own, and a page"
LIMIT = 600  # seconds of a part
GRACE = 15  # seconds to end by itself
PARTS = {
    "decode": "the same pixels each time, by the share of the hardware decoder",
    "region": "the same, where no more than the crop is decoded",
    "handoff": "batches are intact until torch has read them",
    "waiting": "no method waits for the device; the whole stage, on the host and in all",
    "kernels": "the operators on which a step and the maps spend their time",
    "training": "two epochs of the program",
    "compile": "the same, with torch.compile and bfloat16",
    "memory": "the same, with remembered maps",
    "nccl": "the same, in one process of torchrun",
    "hardware": "images/s of the loader, by policy and share of the hardware decoder",
    "loader": loader.HELP,
    "stage": stage.HELP,
    "step": step.HELP,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    width = max(map(len, PARTS)) + 2
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{__doc__}\n\nparts:\n" + "\n".join(f"  {n:<{width}}{what}" for n, what in PARTS.items())
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts to run, one after the other (default: all)")
    card.add_options(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default: runs/gpu-DATE-TIME)")
    parser.add_argument("--repeats", type=at_least(1), default=5, help="interleaved turns (default: 5)")


def command(part: str, options: argparse.Namespace) -> list[str]:
    """Return the command of a part, after the interpreter's name."""
    folder, sizes = options.out, ["--image-size", str(options.image_size), "--batch-size", str(options.batch_size)]
    model, device, data = ["--model", options.model], ["--device", options.device], []
    if options.data is not None:
        data = ["--data", options.data]
    workers = [] if options.workers is None else ["--workers", str(options.workers)]
    repeats, report = ["--repeats", str(options.repeats)], ["--json", str(folder / f"{part}.json")]
    counts = ["--batches", str(options.batches), *workers]
    if part in card.PARTS:
        return ["-m", "train.benchmarks.card", part, *data, *device, *model, *sizes, *counts, *report]
    if part == "loader":
        policies = ["--policies", "none", "randaugment"]
        return ["-m", "train", "benchmark", "loader", *data, *device, *policies, *sizes, *counts, *repeats, *report]
    if part == "stage":
        return ["-m", "train", "benchmark", "stage", *device, *model, *sizes, *repeats, "--amp", *report]
    if part == "step":
        trace = ["--trace", str(folder / "step-trace.json.gz")]
        amp = ["--amp", "bfloat16"]
        return ["-m", "train", "benchmark", "step", *data, *device, *model, *sizes, *workers, *amp, *trace, *report]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"] if part == "nccl" else []
    more = {"compile": ["--compile", "--amp", "bfloat16"], "memory": ["--saliency", "memory"]}.get(part, [])
    out = ["--out", str(folder / part), "--epochs", "2", "--method", "keep_cutout"]
    return [*start, "-m", "train", "train", *device, *out, *more]


def run_part(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a part in a process of its own.

    Returns:
        "status", "passed", or how it ended; "seconds"; "command"; "output", its last lines; "result", its numbers.
    """
    words = command(part, options)
    start, log = time.perf_counter(), options.out / f"{part}.log"
    with open(log, "w") as file:
        process = subprocess.Popen([sys.executable, *words], stdout=file, stderr=subprocess.STDOUT)
        try:
            status = _status(process.wait(LIMIT))
        except subprocess.TimeoutExpired:
            status = f"not done after {LIMIT} s"
        finally:
            process.terminate()  # torchrun then ends its processes, which would go on beside the next part
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    report = options.out / f"{part}.json"
    return {
        "status": status,
        "seconds": time.perf_counter() - start,
        "command": f"python {' '.join(words)}",
        "output": "\n".join(log.read_text(errors="replace").split("\r")[-1].rstrip().splitlines()[-60:]),
        "result": json.loads(report.read_text()) if report.exists() else None,
    }


def _status(code: int) -> str:
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return "passed" if code == 0 else f"failed: exit status {code}"


def _exit(number: int, frame: object) -> None:
    """End by SIGTERM as by Ctrl-C: with the part that runs, which would go on without a limit."""
    raise SystemExit(128 + number)


def run(options: argparse.Namespace) -> int:
    """Run the chosen parts and write results.json and README.md. Returns the exit status: 1 where a part failed.

    Raises:
        UserError: there is no GPU, no such part, or the folder exists.
    """
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        raise UserError(f"PART must be of {', '.join(PARTS)}; got {unknown[0]}")
    if options.device == "cuda" and place_of("auto").type != "cuda":
        raise UserError("benchmark gpu needs a GPU, and torch.cuda.is_available() is False; --device cpu rehearses it")
    options.out = options.out or Path("runs") / time.strftime("gpu-%Y%m%d-%H%M%S")
    make_new(options.out)
    report: dict[str, Any] = {"environment": environment(), "command": options.line, "parts": {}}
    parts = options.parts or list(PARTS)
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        for part in tqdm(parts, desc="parts", leave=False, disable=None):
            found = report["parts"][part] = run_part(part, options)
            tqdm.write(f"{part:<10} {found['status']}, {found['seconds']:.0f} s")
            write_json(options.out / "results.json", report)
            write_page(options.out / "README.md", report)
    finally:
        signal.signal(signal.SIGTERM, before)
    print(options.out / "README.md")
    return 0 if all(found["status"] == "passed" for found in report["parts"].values()) else 1


def write_page(path: Path, report: dict[str, Any]) -> None:
    """Write which parts passed, and what each printed."""
    surroundings, parts = report["environment"], report["parts"]
    lines = [
        f"# On {surroundings['gpu']}, {surroundings['date']}",
        "",
        f"`{report['command']}`",
        "",
        *(f"- {name}: {value}" for name, value in surroundings.items() if name not in ("date", "gpu")),
        "",
        "| part | what | ended | seconds |",
        "| --- | --- | --- | --- |",
        *(f"| {name} | {PARTS[name]} | {part['status']} | {part['seconds']:.0f} |" for name, part in parts.items()),
    ]
    for name, part in parts.items():
        lines += ["", f"## {name}", "", f"`{part['command']}`", "", "```text", part["output"], "```"]
    path.write_text("\n".join(lines) + "\n")
