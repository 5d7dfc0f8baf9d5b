"""Lists the images in WebDataset shards, TFRecords or LMDB folders: python -m train index --help."""

import argparse
import sys

from pipelines import DataError, find_dataset


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train index",
        description="Make and store the indexes of WebDataset shards, TFRecords or LMDB folders, those that are missing"
        " or older than the files. Training does so too, on first use; before a run of several processes, do it once.",
    )
    parser.add_argument("data", metavar="DIR", help="folder of the data, as for python -m train --data")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Index as the command line says. Returns the exit status: 0, or 2 where the data cannot be used."""
    root = build_parser().parse_args(arguments).data
    try:
        training = find_dataset(root)
        if training.reader.kind != "records":
            print(f"{root}: its images are not in larger files: it needs no index")
            return 0
        try:
            found = [training, find_dataset(root, train=False)]
        except DataError as error:
            print(f"warning: only the training images are listed: {error}", file=sys.stderr)
            found = [training]
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # Where the same images are for both, there is one index.
    for index, dataset in {dataset.reader.index_file: dataset for dataset in found}.items():
        files = len(dataset.reader.files)
        print(f"{index}: {len(dataset)} images of {len(dataset.classes)} classes in {files} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
