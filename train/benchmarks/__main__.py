"""python -m train benchmark: see --help."""

import os
import sys


def main() -> int:
    from train.benchmarks import program

    return program.main()


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as in train.__main__: before torch is first imported
    sys.exit(main())
