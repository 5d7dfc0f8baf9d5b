"""What stops the program becomes a message and an exit status; torch is told how long to spin before it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dali_salaug import __version__
from pipelines import DataError
from train.__main__ import announce, main
from train.errors import UserError
from train.programs import index


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("--tau must be in [0, 1]; got 2"), 2, "error: --tau must be in [0, 1]; got 2\n"),
        (DataError("no folder 'x'"), 2, "error: no folder 'x'\n"),
        (KeyboardInterrupt(), 130, "\nstopped\n"),
    ],
)
def test_an_error_is_a_message_and_a_status(
    error: BaseException, status: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(index, "run", fail)
    assert main(["index", "x"]) == status
    assert capsys.readouterr() == ("", message)


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "run", lambda _: {}["missing"])
    with pytest.raises(KeyError):
        main(["index", "x"])


def test_a_reader_that_leaves_is_no_error(shapes: Path) -> None:
    command = [sys.executable, "-m", "train", "index", str(shapes)]
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (result.returncode, result.stderr) == (141, "")


def test_the_first_line_comes_before_the_imports(shapes: Path) -> None:
    """Within two seconds, where importing takes many."""
    code = """
import sys, time, train.__main__
start = time.perf_counter()
class Finder:
    def find_spec(self, name, *_):
        if name in ("torch", "nvidia.dali", "numpy"):
            print("imports", name, time.perf_counter() - start < 2)
            sys.exit()
sys.meta_path.insert(0, Finder())
train.__main__.main(sys.argv[1:])
"""
    for words, expected in (
        ([], [f"dali_salaug {__version__}: starting to train, loading PyTorch and DALI", "imports"]),
        (
            ["train", "--data", "x"],
            [f"dali_salaug {__version__}: starting to train, loading PyTorch and DALI", "imports"],
        ),
        (["index", str(shapes)], ["imports"]),
        (["--help"], ["imports"]),
        (["train", "--list-methods"], ["imports"]),
    ):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        *before, last = done.stdout.splitlines()
        assert before == expected[:-1]
        assert last.startswith("imports ")
        assert last.endswith(" True")


def test_other_commands_start_with_a_line_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    announce(["show", "run"])
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    announce(["show", "run"])
    assert capsys.readouterr() == ("", f"dali_salaug {__version__}: starting show\n")
    monkeypatch.setenv("RANK", "1")
    announce(["show", "run"])
    announce([])
    assert capsys.readouterr() == ("", "")


def test_the_variable_is_set_before_torch_is_imported() -> None:
    """OpenMP reads it once."""
    code = """
import os, sys, train.__main__
assert "torch" not in sys.modules
class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            print(os.environ["GOMP_SPINCOUNT"])
sys.meta_path.insert(0, Finder())
train.__main__.main(["--version"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    output = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.splitlines()[0] == "2000"
