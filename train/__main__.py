"""python -m train: see --help."""

import os
import sys


def main(arguments: list[str] | None = None) -> int:
    from pipelines import DataError
    from train.config import UserError, parse

    given, resuming = parse(arguments)
    try:
        from train import loop

        return loop.main(given, resuming)
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    # DALI's threads and torch's share the cores. Where torch's spin while they wait, an epoch of the default run took
    # 100 s beside other jobs and 15 to 30 s where they sleep (2 cores, AMD EPYC). Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
