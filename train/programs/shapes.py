"""Write the embedded data set into a folder, at a size of your choice."""

import argparse
from pathlib import Path

from train.cli.parser import at_least
from train.data.shapes import SIDE, write_shapes
from train.errors import UserError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train shapes", description=__doc__)
    parser.add_argument("folder", type=Path, help="a new or empty folder, to be given to --data afterwards")
    parser.add_argument(
        "--side", type=at_least(16), default=SIDE,
        help="width and height of the images in pixels; a larger side shows the same objects in more detail"
        " (default: %(default)s)",
    )  # fmt: skip
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Write as the command line says.

    Raises:
        UserError: the folder is not empty, or cannot be written.
    """
    options = build_parser().parse_args(arguments)
    folder = options.folder
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: is not empty; give a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_shapes(folder, side=options.side)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from error
    print(f"training and validation images at {options.side}×{options.side}, boxes.tsv: {folder}")
    return 0
