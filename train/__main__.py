"""python -m train: see --help. python -m train show, export, check-data: see show --help and so on."""

import os
import sys


def main(arguments: list[str] | None = None) -> int:
    from pipelines import DataError
    from train.cli.parser import parse
    from train.errors import UserError, system_error

    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["show"]:
            from train.programs import show

            return show.main(arguments[1:])
        if arguments[:1] == ["export"]:
            from train.programs import export

            return export.main(arguments[1:])
        if arguments[:1] == ["check-data"]:
            from train.programs import check_data

            return check_data.main(arguments[1:])
        given, resuming = parse(arguments)
        from train.programs import train as program

        return program.main(given, resuming)
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError, ImportError) as error:
        report = system_error(error)
        if report is None:
            raise
        print(f"error: {report}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    # DALI's threads and torch's share the cores. Torch's spin while they wait for one another, by default so long that
    # beside other jobs an epoch of the default run took 80 s; so they take 16 s, and on idle cores no more than before
    # (2 cores, AMD EPYC). Read when torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    sys.exit(main())
