"""The program `dali-salaug`, which is `python -m train` too."""

import importlib.util
import logging
import os
import re
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run the program, and turn what stops it into a message and an exit status.

    Args:
        arguments: of the command line; None: those of this process.

    Returns:
        The exit status: that of the command; 2 where the options or the data cannot be used; 130 when interrupted; 141
        where nobody reads the output any more.
    """
    # DALI's threads and torch's share the cores. Torch's spin while they wait for one another, by default so long that
    # beside other jobs an epoch of the default run took 80 s; so they take 16 s, and on idle cores no more than before
    # (2 cores, AMD EPYC). Read when torch is first imported, hence before the imports below.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    if sys.stdout is None:  # closed by the caller (`>&-`)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives
    words = sys.argv[1:] if arguments is None else arguments
    try:
        announce(words)
        try:
            return _run(words)
        finally:
            sys.stdout.flush()  # a closed pipe is noticed here, not when the interpreter ends
    except KeyboardInterrupt:
        if is_main():
            print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still in the buffer
        return 141


def is_main() -> bool:
    """Return whether this process is not one of torchrun's, or its main one."""
    return os.environ.get("RANK", "0") == "0"


def announce(words: list[str]) -> None:
    """Print that the program starts: importing torch and DALI takes seconds, on a cold disk many.

    A training run has the line in its output. Other commands, whose output may be for another program, show it to a
    user at a terminal only.
    """
    if not is_main() or {"-h", "--help", "--version", "--list-methods"} & set(words):
        return
    training = not words or words[0] == "train" or words[0].startswith("-")
    if training:
        print(f"dali_salaug {_version()}: starting to train, loading PyTorch and DALI", flush=True)
    elif sys.stderr is not None and sys.stderr.isatty():
        print(f"dali_salaug {_version()}: starting {words[0]}", file=sys.stderr)


def _version() -> str:
    """Return the version, without importing the package, which imports torch."""
    spec = importlib.util.find_spec("dali_salaug")
    try:
        source = Path(spec.origin).read_text() if spec and spec.origin else ""
    except OSError:  # whatever it is, what follows reports it
        source = ""
    found = re.search(r'^__version__ = "(.+)"', source, flags=re.M)
    return found[1] if found else ""


def _run(words: list[str]) -> int:
    logging.basicConfig(format="warning: %(message)s")  # the library's warnings
    from pipelines import DataError
    from train.cli.commands import run
    from train.distributed import failed_elsewhere, report
    from train.errors import UserError, in_options, system_error

    try:
        return run(words)
    except UserError as error:
        report(f"error: {error}")
    except DataError as error:
        report(f"error: {in_options(str(error))}")
    except BrokenPipeError:
        raise
    except (OSError, RuntimeError, ImportError) as error:
        if failed_elsewhere():  # this error is a consequence
            return 2
        advised = system_error(error)
        if advised is None:
            raise
        report(f"error: {advised}")
    return 2


if __name__ == "__main__":
    sys.exit(main())
