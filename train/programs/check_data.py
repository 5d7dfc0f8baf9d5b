"""Every file of a data set decoded, and the bad ones listed: python -m train check-data --help."""

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
from train.cli.parser import check_writable
from train.engine.checkpoint import write_json
from train.errors import UserError


def find_all(root: Path) -> list[Dataset]:
    """The training images of a folder, and those for validation where there are others.

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
    """The bad files, each printed as it is found; with a progress bar where stderr is a terminal."""
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


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train check-data",
        description="Decode every image under a folder, those for training and those for validation, and list the bad"
        " ones with the reason. undecodable: a run fails on it. damaged: it is decoded, to an image that is wrong at"
        " least in part. unsupported: it may be intact, but a run does not decode its form. not checked: it is too"
        " large. Exit status: 0 if there are none, or only files that are not checked; 1 if there are some; 2 if the"
        " check was not possible.",
    )
    parser.add_argument("data", type=Path, metavar="DIR", help="the images, as for python -m train --data")
    parser.add_argument("--fast", action="store_true", help="look for undecodable files only (default: damaged too)")
    parser.add_argument("--workers", type=int, help="threads that decode (default: the CPUs there are)")
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
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write names, kinds and reasons, as JSON")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Check as the command line says. Returns the exit status.

    Raises:
        UserError: an illegal option, or the images are not files.
        DataError: the folder cannot be used.
    """
    options = build_parser().parse_args(arguments)
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers must be at least 1; got {options.workers}")
    for path in (options.list, options.list0, options.json):
        check_writable(path)
    datasets = find_all(options.data)
    total = sum(map(len, datasets))
    if datasets[0].reader.kind == "pixels":
        print(f"{total} images, in pickles that can be read: there are no files to decode")
        return 0
    bad = check(datasets, threads=options.workers or usable_cores(), damaged=not options.fast)
    write_lists(bad, lines=options.list, zeros=options.list0)
    if options.json is not None:
        content = {"data": str(options.data), "files": total, "bad": [file._asdict() for file in bad]}
        write_json(options.json, content)
    kinds = Counter(file.kind for file in bad)
    shown = [UNDECODABLE] if options.fast else [UNDECODABLE, DAMAGED]
    shown += [kind for kind in (UNSUPPORTED, NOT_CHECKED) if kinds[kind]]
    print(f"{total} files: " + ", ".join(f"{kinds[kind]} {kind}" for kind in shown))
    return 1 if kinds.total() > kinds[NOT_CHECKED] else 0
