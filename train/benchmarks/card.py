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

PARTS: dict[str, tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], str]]] = {
    "decode": (card_loader.decode, card_loader.decode_table),
    "region": (card_loader.region, card_loader.decode_table),
    "handoff": (card_loader.handoff, card_loader.handoff_table),
    "waiting": (card_stage.waiting, card_stage.waiting_table),
    "kernels": (card_stage.kernels, card_stage.kernels_table),
    "hardware": (card_loader.hardware, card_loader.hardware_table),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--json", type=Path, required=True)


def main(words: list[str]) -> int:
    """Run one part and write what it found. Returns the exit status: 1 where a check failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    add_options(parser)
    options = parser.parse_args(words)
    measure, table = PARTS[options.part]
    result = measure(options)
    options.json.write_text(json.dumps(result))
    print(table(result))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
