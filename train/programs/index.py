"""List the images in WebDataset shards, TFRecords or LMDB folders, and store the list as an index.

An index that is missing or older than its files is made. Training does so too, on first use; before a run of several
processes, do it once.
"""

import argparse
import sys

from pipelines import DataError, find_dataset


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DIR", help="folder of the shards, as for training")


def run(options: argparse.Namespace) -> int:
    """Index as the command line states. Returns the exit status, 0.

    Raises:
        DataError: the data cannot be used.
    """
    root = options.data
    training = find_dataset(root)
    if training.reader.kind != "records":
        print(f"{root}: each image is a file of its own, so no index is needed")
        return 0
    found = [training]
    try:
        found.append(find_dataset(root, train=False))
    except DataError as error:
        print(f"warning: only the training images are listed: {error}", file=sys.stderr)
    # Where the same images are for both, there is one index.
    for index, dataset in {dataset.reader.index_file: dataset for dataset in found}.items():
        files = len(dataset.reader.files)
        print(f"{index}: {len(dataset)} images of {len(dataset.classes)} classes in {files} files")
    return 0
