"""Measure speed and memory on this machine: the loader, the stage, the consistency loss, a whole step, growth."""

import argparse
import time
from pathlib import Path
from typing import Any

from train.benchmarks import consistency, gpu, growth, loader, stage, step
from train.benchmarks.loaders import program as loaders
from train.benchmarks.measuring import environment
from train.benchmarks.page import write_page
from train.cli.parser import HelpFormatter, check_writable
from train.engine.files import make_new, write_json
from train.engine.memory import is_out_of_memory
from train.errors import UserError, first_line

BENCHMARKS = {"loader": loader, "stage": stage, "consistency": consistency, "step": step, "growth": growth}
ALONE = {"loaders": loaders}  # installs other libraries, and is no part of "all"


def add_options(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="benchmarks", required=True, dest="benchmark", metavar="BENCHMARK")
    for name, module in {**BENCHMARKS, **ALONE}.items():
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__, formatter_class=HelpFormatter)
        module.add_options(command)
        command.add_argument(
            "--json", type=Path, metavar="FILE", help="also write the numbers to this file (default: print them)"
        )
    together = commands.add_parser(
        "all",
        help="all of these but loaders, into a folder: numbers as JSON, and a page with plots",
        description="Run all benchmarks but loaders, and write numbers as JSON and a page with plots.",
        formatter_class=HelpFormatter,
    )
    card = commands.add_parser("gpu", help=gpu.HELP)
    gpu.add_options(card)
    together.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default: runs/benchmark-DATE-TIME)")
    together.add_argument("--data", metavar="DIR", help="images of loader and step (default: the embedded data set)")
    together.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to measure")
    together.add_argument("--quick", action="store_true", help="tiny and short: to see that everything runs")


def run_all(options: argparse.Namespace) -> dict[str, Any]:
    """Run all benchmarks with their own defaults.

    Returns:
        The environment, the command, and the results by name; also written to `options.out` after each benchmark.

    Raises:
        UserError: the folder exists.
    """
    folder = options.out
    make_new(folder)
    report: dict[str, Any] = {"environment": environment(), "command": options.line, "results": {}}
    for name, module in BENCHMARKS.items():
        words = ["--device", options.device, *(module.QUICK if options.quick else ())]
        if name in ("loader", "step") and options.data is not None:
            words += ["--data", options.data]
        if name == "step":
            words += ["--trace", str(folder / "step-trace.json.gz")]
        print(f"\n{name}: {module.HELP}", flush=True)
        start = time.perf_counter()
        parser = argparse.ArgumentParser()
        module.add_options(parser)
        result = module.measure(parser.parse_args(words))
        report["results"][name] = {**result, "took": time.perf_counter() - start}
        print(module.table(result), flush=True)
        write_json(folder / "results.json", report)
    return report


def _measured(module: Any, options: argparse.Namespace) -> dict[str, Any]:
    if module not in (stage, consistency, growth):  # the others do not take a model and sizes as they are
        return module.measure(options)
    try:
        return module.measure(options)
    except (AssertionError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"--model {options.model} cannot be measured at these sizes: {first_line(error)}") from error


def run(options: argparse.Namespace) -> int:
    """Measure as the command line states. Returns the exit status, 0.

    Raises:
        UserError, DataError: the data, an option or the folder cannot be used.
    """
    if options.benchmark == "gpu":
        return gpu.run(options)
    surroundings = environment()
    print("\n".join(f"{name:<12} {value}" for name, value in surroundings.items()), flush=True)
    if options.benchmark == "all":
        options.out = options.out or Path("runs") / time.strftime("benchmark-%Y%m%d-%H%M%S")
        report = run_all(options)
        print(f"\n{write_page(options.out, report, BENCHMARKS)}")
        return 0
    check_writable(options.json)
    module = {**BENCHMARKS, **ALONE}[options.benchmark]
    result = _measured(module, options)
    print("\n" + module.table(result))
    if options.json:
        write_json(options.json, {"environment": surroundings, "command": options.line, **result})
    return 0
