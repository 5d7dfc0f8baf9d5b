"""The parts of `benchmark gpu` that no other benchmark has.

Each runs in a process of its own, `python -m train.benchmarks.card PART`, since a fault of a decoder ends the process.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.benchmarks import card_loader, card_stage
from train.cli.parser import at_least

PARTS: dict[str, tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], str]]] = {
    "decode": (card_loader.decode, card_loader.decode_table),
    "region": (card_loader.region, card_loader.decode_table),
    "handoff": (card_loader.handoff, card_loader.handoff_table),
    "waiting": (card_stage.waiting, card_stage.waiting_table),
    "kernels": (card_stage.kernels, card_stage.kernels_table),
    "hardware": (card_loader.hardware, card_loader.hardware_table),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that these parts share with `benchmark gpu`."""
    parser.add_argument("--data", metavar="DIR", help="photographs in folders (default: the embedded data set)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="cpu: a rehearsal (default: cuda)")
    parser.add_argument("--model", default="resnet50", help="as for training (default: resnet50)")
    parser.add_argument("--image-size", type=at_least(8, 16384), default=224, help="side in pixels (default: 224)")
    parser.add_argument("--batch-size", type=at_least(1), default=256, help="images in a step (default: 256)")
    parser.add_argument("--batches", type=at_least(1), default=20, help="batches in a turn of a loader (default: 20)")
    parser.add_argument("--workers", type=at_least(1, 1024), help="threads of DALI (default: the number of CPUs)")


def main(words: list[str]) -> int:
    """Run one part and write what it found. Returns the exit status: 1 where a check failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    add_options(parser)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(words)
    measure, table = PARTS[options.part]
    result = measure(options)
    options.json.write_text(json.dumps(result))
    print(table(result))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
