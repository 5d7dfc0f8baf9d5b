"""What the programs that measure a trained run share: agreement, coverage, precision."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines import DataError
from train.cli.parser import at_least, check_writable
from train.engine.files import write_json
from train.errors import UserError


def measuring_parser(program: str, description: str | None, *, least: int = 1) -> argparse.ArgumentParser:
    """A command line with the options that all have.

    Args:
        least: of --images.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("run_dir", type=Path, help="folder of a trained run, or its best.pt")
    parser.add_argument("--data", type=Path, help="the images, as for python -m train (default: the run's)")
    parser.add_argument("--images", type=at_least(least), default=1000, help="how many at most (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file (default: print them alone)")
    return parser


def report(
    options: argparse.Namespace, measure: Callable[[], dict[str, Any]], show: Callable[[dict[str, Any]], None]
) -> int:
    """Measure, print by `show`, and write --json. Returns the exit status."""
    try:
        check_writable(options.json)
        result = measure()
        show(result)
        if options.json:
            write_json(options.json, result)
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
