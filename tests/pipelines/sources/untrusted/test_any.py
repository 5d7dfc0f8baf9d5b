"""Whatever is in the place of data, it is read, or a DataError or an OSError says what is wrong with which file.

No code that a file names is run, nothing waits for ever, and nothing ends the process.
"""

import contextlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines import DataError, Dataset, find_dataset
from pipelines.readers.untrusted import untrusted


def _bombs(bomb: object, trap: Path) -> dict[str, bytes]:
    index = io.BytesIO()
    np.savez(index, form=np.array([bomb]), label=np.array([bomb]))  # type: ignore[arg-type]
    return {
        "pickle": pickle.dumps(bomb),
        "dict": pickle.dumps({"data": bomb, "fine_labels": [0], "fine_label_names": [bomb]}),
        "array": pickle.dumps({"data": np.array([bomb]), "fine_labels": np.array([bomb])}),
        "npz": index.getvalue(),
        "yaml": f"!!python/object/apply:os.mkdir ['{trap}']\n".encode(),
        "python": f"__import__('os').mkdir('{trap}')\n".encode(),
        "xml": b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><object><name>&x;</name></object>',
    }


def test_no_file_runs_code(
    roots: dict[str, Path], tmp_path: Path, kind: str, bomb: Callable, read_all: Callable, files_of: Callable
) -> None:
    """Every file of every layout, in turn, is a file that runs code where it is unpickled or evaluated."""
    trap = tmp_path / "trap"
    for number, place in enumerate(files_of(roots[kind])):
        for name, content in _bombs(bomb(trap), trap).items():
            root = tmp_path / f"{number}{name}"
            shutil.copytree(roots[kind], root)
            (root / place.relative_to(roots[kind])).write_bytes(content)
            with contextlib.suppress(DataError, OSError):
                read_all(root)
            assert not trap.exists()
            shutil.rmtree(root)
    os.mkdir(trap)  # the trap works
    trap.rmdir()
    pickle.loads(_bombs(bomb(trap), trap)["pickle"])
    assert trap.exists()


def test_only_what_is_expected_becomes_a_data_error() -> None:
    for error in (ValueError("a"), KeyError("b"), RecursionError("c"), struct.error("d"), OverflowError("e")):
        message = f"cannot read 'here' as a list: {type(error).__name__}: .*Fetch or make"
        with pytest.raises(DataError, match=message), untrusted("here", "a list"):
            raise error
    for kind in (MemoryError, KeyboardInterrupt, SystemExit):
        with pytest.raises(kind), untrusted("here", "a list"):
            raise kind
    with pytest.raises(DataError, match=r"^own$"), untrusted("here", "a list"):
        raise DataError("own")


@pytest.mark.parametrize("kind", ["cifar", "list", "annotations", "tar", "tfrecord", "index"])
def test_damaged_at_random(roots: dict[str, Path], tmp_path: Path, attack: Callable, kind: str) -> None:
    outcomes = attack(kind, roots[kind], tmp_path / "data", 150)
    assert sum(outcomes.values()) == 150
    assert outcomes["read"] == 150 if kind == "index" else outcomes["refused"] > 30


def test_an_lmdb_damaged_at_random(roots: dict[str, Path], tmp_path: Path) -> None:
    """In a process of its own: what a memory map does to one would end the tests."""
    code = (
        "import json, pathlib, runpy, sys; attack = runpy.run_path(sys.argv[1])['_attack']\n"
        "print(json.dumps(attack('lmdb', *map(pathlib.Path, sys.argv[2:]), 200)))"
    )
    conftest = Path(__file__).parent / "conftest.py"
    command = [sys.executable, "-c", code, str(conftest), str(roots["lmdb"]), str(tmp_path / "data")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    outcomes = json.loads(result.stdout.splitlines()[-1])
    assert outcomes["refused"] > 30


def test_datasets_of_what_was_listed_can_be_pickled(roots: dict[str, Path], kind: str, read_all: Callable) -> None:
    dataset = pickle.loads(pickle.dumps(find_dataset(roots[kind])))
    assert isinstance(dataset, Dataset)
    assert [dataset.encoded(i) for i in range(len(dataset))] == read_all(roots[kind])[: len(dataset)]
