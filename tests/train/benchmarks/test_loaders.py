"""The scoreboard of loaders: what it prints and writes, its judgements, and the environments of the peers."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from train.__main__ import main as program
from train.benchmarks.loaders import bad_files, environments
from train.benchmarks.loaders.correctness import QUESTIONS, QUICK, once, reshuffled, write_numbers
from train.benchmarks.loaders.job import MEAN, STD, Job
from train.benchmarks.loaders.peers import NAMES
from train.benchmarks.loaders.processes import Peer, PeerError
from train.benchmarks.loaders.program import table
from train.benchmarks.loaders.worker import Session, cpu_seconds_of


@pytest.fixture
def quick(warm_python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers without an environment of their own start at once."""
    monkeypatch.setattr(sys, "executable", warm_python)


def test_the_scoreboard(quick: None, tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "board.json"
    options = ["--data", str(shapes), "--quick", "--workers", "1", "--device", "cpu", "--json", str(path)]
    assert program(["benchmark", "loaders", "--peers", "ours", "torchvision_pillow", *options]) == 0
    printed, report = capsys.readouterr().out, json.loads(path.read_text())
    assert list(report["peers"]) == ["ours", "torchvision_pillow"]
    assert table(report) in printed
    for rows in report["speed"].values():
        ours, theirs = rows["ours"], rows["torchvision_pillow"]
        assert theirs["over ours"]["runs"] == [theirs["images/s"]["runs"][0] / ours["images/s"]["runs"][0]]
        assert ours["over ours"]["runs"] == [1.0]
    for row in report["neighbour"].values():
        assert min(row["slower"]["runs"]) > 0.2
    ours, theirs = (report["correctness"][name] for name in report["peers"])
    assert {question: verdict for question, (verdict, _) in ours["answers"].items()} == dict.fromkeys(QUESTIONS, "yes")
    assert theirs["answers"]["once per epoch"] == ["no", "1 more than once"]  # 41 samples for two processes
    assert theirs["answers"]["full reshuffle"][0] == "yes"
    assert theirs["answers"]["resume after SIGKILL"][0] == "not offered"
    assert {kind: outcome for kind, (outcome, _) in ours["bad files"].items()} == {
        "truncated": "names the file", "grey": "right pixels", "EXIF turned": "right pixels",
    }  # fmt: skip
    assert {kind: outcome for kind, (outcome, _) in theirs["bad files"].items()} == {
        "truncated": "error", "grey": "right pixels", "EXIF turned": "wrong pixels",
    }  # fmt: skip
    assert tuple(ours["bad files"]) == QUICK.kinds


def test_a_peer_that_cannot_be_installed_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def failing(name: str, requirements: Sequence[str]) -> str:
        raise environments.NotInstalled("ERROR: No matching distribution found for litdata>=0.2")

    monkeypatch.setattr(environments, "interpreter", failing)
    path = tmp_path / "board.json"
    options = ["--peers", "litdata", "--parts", "correctness", "--quick", "--json", str(path)]
    assert program(["benchmark", "loaders", *options]) == 0
    assert "LitData   not installed: ERROR: No matching distribution" in capsys.readouterr().out
    assert json.loads(path.read_text())["correctness"] == {}


def test_a_peer_that_cannot_convert_is_not_timed(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """What it wrote before it failed would be read as if it were all."""
    monkeypatch.setattr(environments, "interpreter", lambda *_: sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "litdata.py").write_text("raise OSError('the disk is full')")
    path = tmp_path / "board.json"
    options = ["--data", str(shapes), "--parts", "speed", "--quick", "--workers", "1", "--json", str(path)]
    assert program(["benchmark", "loaders", "--peers", "litdata", *options]) == 0
    report = json.loads(path.read_text())
    assert report["conversion"]["litdata"] == {"failed": "error: OSError: the disk is full"}
    assert all(rows == {} for rows in report["speed"].values())
    assert "the disk is full" in capsys.readouterr().out


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALI_SALAUG_CACHE", str(tmp_path))
    commands: list[list[str]] = []

    def venv(command: list[str], **_: Any) -> Any:
        commands.append(command)
        folder = Path(command[-1])
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").touch()
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        (folder / "lib" / version / "site-packages").mkdir(parents=True)
        return type("Done", (), {"returncode": 0, "stdout": ""})

    monkeypatch.setattr(environments.subprocess, "run", venv)
    installed: list[tuple[str, tuple[str, ...]]] = []

    def pip(python: str, requirements: Sequence[str], log: Path) -> tuple[int, str]:
        installed.append((python, tuple(requirements)))
        return int("broken>=1" in requirements), "ERROR: it does not build"

    python = environments.interpreter("some", ("some>=1",), pip)
    assert environments.interpreter("some", ("some>=1",), pip) == python
    assert installed == [(python, ("some>=1",))]
    assert len(commands) == 1
    assert environments.interpreter("some", ("some>=2",), pip) != python
    (shared,) = Path(python).parent.parent.rglob("*.pth")
    assert str(Path(torch.__file__).parent.parent) in shared.read_text().splitlines()
    for _ in range(2):  # it is tried again, and leaves nothing
        with pytest.raises(environments.NotInstalled, match="it does not build"):
            environments.interpreter("broken", ("broken>=1",), pip)
    assert len(installed) == 4
    assert not list((tmp_path / "peers").glob("broken-*"))
    assert environments.interpreter("ours", ()) == sys.executable


def test_peers_state_what_they_are() -> None:
    for name in NAMES:
        peer = import_module(f"train.benchmarks.loaders.peers.{name}")
        assert peer.TITLE
        assert peer.FORM
        assert callable(peer.open_loader)
        assert all(">=" in requirement for requirement in peer.PIP)


def test_a_process_that_hangs_or_ends(quick: None, tmp_path: Path) -> None:
    with Peer("ours", sys.executable, tmp_path / "log") as peer:
        with pytest.raises(PeerError, match="No such file") as error:
            peer.ask("open", job=Job(str(tmp_path / "none.json"), "", 4).to_json())
        assert error.value.how == "error"
        with pytest.raises(PeerError, match="no answer in 0 s") as error:
            peer.ask("grow", seconds=0, batches=1)
        assert error.value.how == "hang"
        assert peer.ended
    with Peer("no_such_peer", "/bin/false", tmp_path / "log") as peer:
        with pytest.raises(PeerError, match="exit status 1") as error:
            peer.ask("grow", batches=1)
        assert error.value.how == "crash"


def test_what_the_numbers_are(tmp_path: Path) -> None:
    samples = write_numbers(tmp_path / "numbers.json", 5)
    assert [label for _, label in samples] == list(range(5))
    assert len({Path(path).read_bytes() for path, _ in samples}) == 5


def test_once() -> None:
    assert once([[0, 2], [1, 3]], 4) == ("yes", "")
    assert once([[0, 2], [0, 3]], 4) == ("no", "1 missing, 1 more than once")


def test_reshuffled() -> None:
    generator = np.random.default_rng(0)
    count = 2001

    def shards(order: np.ndarray) -> list[list[int]]:
        return [order[0::2].tolist(), order[1::2].tolist()]

    drawn = [shards(generator.permutation(count)) for _ in range(3)]
    assert reshuffled(drawn, count) == ("yes", "")
    assert reshuffled([drawn[0], drawn[0]], count) == ("no", "each epoch has the same order")
    within = [[generator.permutation(shard).tolist() for shard in drawn[0]] for _ in range(3)]
    assert reshuffled(within, count)[1] == "each process has the same samples in all epochs"
    local = [shards(np.argsort(np.arange(count) + generator.uniform(0, 200, count))) for _ in range(3)]
    blocks = np.arange(count // 50 * 50).reshape(-1, 50)
    shuffled = [shards(generator.permuted(generator.permutation(blocks), axis=1).ravel()) for _ in range(3)]
    for epochs in (local, shuffled):
        verdict, why = reshuffled(epochs, count)
        assert verdict == "no"
        assert "samples that followed one another are 0.0" in why


def normalised(image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_the_bad_files(tmp_path: Path) -> None:
    assert len(bad_files.KINDS) == 12
    right = []
    for kind in bad_files.KINDS:
        samples, expected = bad_files.write(kind, tmp_path / kind)
        path = Path(dict(map(reversed, samples))[1])  # type: ignore[arg-type]
        assert path.stem == bad_files.STEM
        try:
            with Image.open(path) as image:
                found = image.convert("RGB")
        except (OSError, Image.DecompressionBombError, SyntaxError):
            found = None
        if found is not None and bad_files.is_right(normalised(found), expected):
            right.append(kind)
    # Pillow's own `convert` clips 16 bits, and turns nothing.
    assert right == ["wrong suffix", "CMYK", "grey", "palette", "animated"]


def test_right_pixels_may_differ_by_rounding_alone() -> None:
    picture = bad_files.picture()
    assert bad_files.is_right(normalised(picture) + 0.01, picture)
    assert not bad_files.is_right(normalised(picture.rotate(90)), picture)
    assert not bad_files.is_right(normalised(picture), None)
    assert not bad_files.is_right(normalised(picture.resize((32, 32))), picture)
    half = np.array(picture)
    half[112:] = 128
    assert not bad_files.is_right(normalised(Image.fromarray(half)), picture)


def test_litdata_empties_no_folder_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it empties `data` in the folder for temporary files."""
    names = ("DATA_OPTIMIZER_CACHE_FOLDER", "DATA_OPTIMIZER_DATA_CACHE_FOLDER")
    for name in names:
        monkeypatch.setenv(name, "")
    emptied: list[Path] = []

    def optimize(**_: Any) -> None:
        emptied.extend(Path(os.environ[name]) for name in names)

    monkeypatch.setitem(sys.modules, "litdata", SimpleNamespace(optimize=optimize))
    import_module("train.benchmarks.loaders.peers.litdata").convert(
        write_numbers(tmp_path / "numbers.json", 2), tmp_path / "out"
    )
    assert len(emptied) == 2
    assert all(tmp_path in folder.parents for folder in emptied)
    assert not {tmp_path / "out", tmp_path / "numbers.files"} & {*emptied, *(f.parent for f in emptied)}


def test_a_peer_has_a_folder_for_temporary_files(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("""#!/bin/sh\nprintf '{"value": "%s"}\\n' "$TMPDIR"\n""")
    python.chmod(0o755)
    with Peer("ours", str(python), tmp_path / "log") as peer:
        assert peer.ask("open") == str(tmp_path / "tmp")
        assert (tmp_path / "tmp").is_dir()


@contextlib.contextmanager
def child(code: str) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", f"import time\n{code}"]) as process:
        try:
            yield
        finally:
            process.kill()


def test_rest_waits_for_what_is_made_ahead(tmp_path: Path) -> None:
    session, made = Session("ours"), tmp_path / "made"
    with child(f"while time.process_time() < 2: pass\nopen({str(made)!r}, 'x')\ntime.sleep(600)"):
        session.rest(limit=60)
        assert made.exists()
        assert cpu_seconds_of(os.getpid()) > 2
    with child("while True: pass"):
        time.sleep(0.5)
        assert 1 <= session.rest(limit=1) < 10
