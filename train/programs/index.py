"""List the images in WebDataset shards, TFRecords or LMDB folders, and store the list as an index.

An index that is missing or older than its files is made. Training does so too, on first use; before a run of several
processes, do it once.
"""

import argparse
import sys

from pipelines.datasets import DataError
from pipelines.sources import find_dataset


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DIR", help="folder of the shards, as for training")


def run(options: argparse.Namespace) -> int:
    """Index as the command line states. Returns the exit status, 0.

    Raises:
        DataError: the data cannot be used.
    """
    root = options.data
    training = find_dataset(root)
    if training.records is None:
        print(f"{root}: its images are not in larger files, so that it needs no index")
        return 0
    found = [training]
    try:
        found.append(find_dataset(root, train=False))
    except DataError as error:
        print(f"warning: only the training images are listed: {error}", file=sys.stderr)
    # Where the same images are for both, there is one index.
    for index, dataset in {dataset.records.index: dataset for dataset in found if dataset.records is not None}.items():
        files = len(dataset.records.files)  # type: ignore[union-attr]
        print(f"{index}: {len(dataset)} images of {len(dataset.classes)} classes in {files} files")
    return 0
