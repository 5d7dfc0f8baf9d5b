"""Decode every image under a folder, for training and for validation, and list the bad ones with the reason.

An undecodable image stops a run, or is replaced by another. A damaged image is decoded, but to a picture that is wrong
at least in part. An unsupported image may be intact, but a run does not decode its form. An image that is not checked
is too large. Exit status: 0 without bad images, or with images that are not checked only; 1 with some; 2 where the
check was not possible.
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from pipelines import DataError, Dataset, find_dataset
from pipelines.bad_files.check import DAMAGED, NOT_CHECKED, UNDECODABLE, UNSUPPORTED, BadFile, check_files
from pipelines.bad_files.probe import native_errors_hidden
from pipelines.build import usable_cores
from pipelines.names import printable
from pipelines.sources import left_out
from train.cli.parser import at_least, check_writable
from train.engine.files import write_json


def find_all(root: Path) -> list[Dataset]:
    """Return the training images of a folder, and those for validation where they are others.

    Raises:
        DataError: the training images cannot be listed.
    """
    train = find_dataset(root)
    try:
        validation = find_dataset(root, train=False)
    except DataError as error:
        print(f"warning: only the training images are checked: {error}", file=sys.stderr)
        return [train]
    return [train] if train.digest == validation.digest else [train, validation]


def check(datasets: list[Dataset], *, threads: int, damaged: bool) -> list[BadFile]:
    """Return the bad files. Prints each as it is found, and a progress bar where stderr is a terminal."""
    bad: list[BadFile] = []
    total = sum(map(len, datasets))
    with (
        open(os.dup(2), "w") as screen,
        tqdm(total=total, desc="decoding", unit="file", leave=False, disable=None, file=screen) as bar,
        native_errors_hidden(),
    ):
        for dataset in datasets:
            for count, found in check_files(dataset, threads=threads, damaged=damaged):
                for file in found:
                    with bar.external_write_mode(screen):
                        print(printable(f"{file.kind:<11}  {file.name}: {file.reason}"), flush=True)
                bad += found
                bar.update(count)
    return bad


def write_lists(bad: list[BadFile], *, lines: Path | None, zeros: Path | None) -> None:
    """Write the names of the files that are bad for sure, as lines, ended by zero bytes, or both."""
    names = [os.fsencode(file.name) for file in bad if file.kind in (UNDECODABLE, DAMAGED)]
    if zeros is not None:
        zeros.write_bytes(b"".join(name + b"\0" for name in names))
    if lines is not None:
        whole = [name for name in names if len(name.splitlines()) == 1]
        lines.write_bytes(b"".join(name + b"\n" for name in whole))
        if len(whole) < len(names):
            count = len(names) - len(whole)
            print(f"warning: {count} names with a line break are not in {lines}; use --list0", file=sys.stderr)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DIR", help="the images, as for training")
    parser.add_argument(
        "--fast", action="store_true", help="look for undecodable files only (default: damaged ones too)"
    )
    parser.add_argument("--workers", type=at_least(1, 1024), help="threads that decode (default: one for each CPU)")
    parser.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help="also write the names of the undecodable and damaged files, one a line; names with a line break are left"
        " out, with a warning",
    )
    parser.add_argument(
        "--list0", type=Path, metavar="FILE", help="the same for xargs -0: every name, each ended by a zero byte"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write names, kinds and reasons as JSON (default: print)"
    )


def run(options: argparse.Namespace) -> int:
    """Check as the command line states. Returns the exit status.

    Raises:
        UserError: an illegal option, or a file cannot be written.
        DataError: the folder cannot be used.
    """
    for path in (options.list, options.list0, options.json):
        check_writable(path)
    datasets = find_all(options.data)
    total = sum(map(len, datasets))
    if datasets[0].reader.kind == "pixels":
        print(f"{total} images, in pickles that can be read: there are no files to decode")
        return 0
    bad = check(datasets, threads=options.workers or usable_cores(), damaged=not options.fast)
    write_lists(bad, lines=options.list, zeros=options.list0)
    others = sum((Counter(dataset.left_out) for dataset in datasets), Counter())
    if options.json is not None:
        content = {
            "data": str(options.data),
            "files": total,
            "left_out": others,
            "bad": [file._asdict() for file in bad],
        }
        write_json(options.json, content)
    kinds = Counter(file.kind for file in bad)
    shown = [UNDECODABLE] if options.fast else [UNDECODABLE, DAMAGED]
    shown += [kind for kind in (UNSUPPORTED, NOT_CHECKED) if kinds[kind]]
    if others:
        print(left_out(others))
    print(f"{total} files: " + ", ".join(f"{kinds[kind]} {kind}" for kind in shown))
    return 1 if kinds.total() > kinds[NOT_CHECKED] else 0
