"""The parts that the commands which measure a finished run share: agreement, coverage, precision."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.cli.parser import add_run, at_least, check_writable
from train.engine.files import write_json


def add_measuring_options(parser: argparse.ArgumentParser, *, least: int = 1) -> None:
    """Add the run and the options that all these commands have.

    Args:
        least: of --images.
    """
    add_run(parser)
    parser.add_argument("--data", type=Path, metavar="DIR", help="the images, as for training (default: the run's)")
    parser.add_argument("--images", type=at_least(least), default=1000, help="images at most (default: %(default)s)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the numbers to this file (default: print them)"
    )


def report(
    options: argparse.Namespace, measure: Callable[[], dict[str, Any]], show: Callable[[dict[str, Any]], None]
) -> int:
    """Measure, print by `show`, and write --json. Returns the exit status, 0."""
    check_writable(options.json)
    result = measure()
    show(result)
    if options.json:
        write_json(options.json, result)
    return 0
