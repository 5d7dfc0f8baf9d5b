"""The program `dali-salaug`, which is `python -m train` too."""

import logging
import os
import sys


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
    try:
        logging.basicConfig(format="warning: %(message)s")  # the library's warnings
        from pipelines import DataError
        from train.cli.commands import run
        from train.errors import UserError, in_options, system_error

        try:
            return run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()  # a closed pipe is noticed here, not when the interpreter ends
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still in the buffer
        return 141
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except DataError as error:
        print(f"error: {in_options(str(error))}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError, ImportError) as error:
        report = system_error(error)
        if report is None:
            raise
        print(f"error: {report}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
