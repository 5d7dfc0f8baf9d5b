"""Write the embedded data set into a folder, at a size of your choice."""

import argparse
from pathlib import Path

from train.cli.parser import at_least
from train.data.shapes import SIDE, write_shapes
from train.errors import UserError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new or empty folder, for --data afterwards")
    parser.add_argument(
        "--side", type=at_least(16, 4096), default=SIDE,
        help="width and height of the images in pixels; a larger side shows the same objects in more detail"
        " (default: %(default)s)",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Write as the command line states. Returns the exit status, 0.

    Raises:
        UserError: the folder is not empty, or cannot be written.
    """
    folder = options.folder
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: is not empty; name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_shapes(folder, side=options.side)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from error
    print(f"training and validation images at {options.side}×{options.side}, boxes.tsv: {folder}")
    return 0
