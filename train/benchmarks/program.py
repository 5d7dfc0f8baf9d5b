"""Speed and memory, measured on this machine: the loader, the stage, the consistency loss, a whole step, growth."""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from pipelines import DataError
from train.benchmarks import consistency, growth, loader, stage, step
from train.benchmarks.measuring import environment
from train.benchmarks.page import write_page
from train.errors import UserError

BENCHMARKS = {"loader": loader, "stage": stage, "consistency": consistency, "step": step, "growth": growth}


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says defaults, but where the text does."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if "(default:" in (action.help or "") else super()._get_help_string(action)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train benchmark", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="benchmark")
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__, formatter_class=_Help)
        module.add_options(command)
        command.add_argument("--json", type=Path, default=None, help="also write the numbers to this file")
    together = commands.add_parser(
        "all", help="all of these, into a folder: numbers as JSON, and a page with plots", formatter_class=_Help
    )
    together.add_argument("--out", type=Path, default=None, help="the folder; None: runs/benchmark-DATE-TIME")
    together.add_argument("--data", default=None, help="of loader and step; None: the embedded data")
    together.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where")
    together.add_argument("--quick", action="store_true", help="tiny and short: to see that everything runs")
    return parser


def run_all(options: argparse.Namespace) -> dict[str, Any]:
    """The results of all benchmarks with their own defaults, by name; written to `options.out` after each."""
    folder = options.out
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"{folder} is there already: give another --out") from None
    report: dict[str, Any] = {"environment": environment(), "command": options.command, "results": {}}
    for name, module in BENCHMARKS.items():
        words = [name, "--device", options.device, *(module.QUICK if options.quick else ())]
        if name in ("loader", "step") and options.data is not None:
            words += ["--data", options.data]
        if name == "step":
            words += ["--trace", str(folder / "step-trace.json.gz")]
        print(f"\n{name}: {module.HELP}", flush=True)
        start = time.perf_counter()
        result = module.measure(build_parser().parse_args(words))
        report["results"][name] = {**result, "took": time.perf_counter() - start}
        print(module.table(result), flush=True)
        (folder / "results.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser().parse_args(arguments)
    options.command = shlex.join(["python", "-m", "train.benchmarks.__main__", *arguments])
    surroundings = environment()
    print("\n".join(f"{name:<12} {value}" for name, value in surroundings.items()), flush=True)
    try:
        if options.benchmark == "all":
            options.out = options.out or Path("runs") / time.strftime("benchmark-%Y%m%d-%H%M%S")
            report = run_all(options)
            print(f"\n{write_page(options.out, report, BENCHMARKS)}")
            return 0
        module = BENCHMARKS[options.benchmark]
        result = module.measure(options)
    except (DataError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n" + module.table(result))
    if options.json:
        report = {"environment": surroundings, "command": options.command, **result}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0
