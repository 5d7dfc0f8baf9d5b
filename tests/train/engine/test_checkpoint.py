"""Checkpoints: written whole or not at all, without code in them, and with the random state."""

import os
import random
import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from train.engine import checkpoint, files
from train.errors import UserError


class Unpicklable:
    def __reduce__(self) -> tuple:
        raise RuntimeError("no")


def test_round_trip(tmp_path: Path) -> None:
    state = {"weights": torch.arange(5.0), "plain": {"a": [1, 2.5, "x", None, True]}, "bytes": b"\x00\xff"}
    checkpoint.save(state, tmp_path / "last.pt")
    loaded = checkpoint.load(tmp_path / "last.pt")
    assert torch.equal(loaded.pop("weights"), state.pop("weights"))
    assert loaded == state


def test_a_failure_while_writing_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save({"epoch": 1}, path)
    with pytest.raises(RuntimeError, match="no"):
        checkpoint.save({"big": torch.zeros(100_000), "bad": Unpicklable()}, path)
    assert checkpoint.load(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def fails_to_save(path: Path) -> str:
    """Return the message where `path`, which holds {"epoch": 1}, cannot be replaced; the folder stays as it was."""
    with pytest.raises(UserError) as caught:
        checkpoint.save({"epoch": 2, "weights": torch.zeros(1_000_000)}, path)
    assert checkpoint.load(path) == {"epoch": 1}
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be written: ")
    assert "; the previous one is intact. Free some space or" in message
    return message


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own, of 1 MiB, with last.pt in it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system, which root has")
    checkpoint.save({"epoch": 1}, folder / "last.pt")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_old_one(mounted: Path) -> None:
    assert "No space left on device" in fails_to_save(mounted / "last.pt")


def test_a_read_only_disk_leaves_the_old_one(mounted: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    assert "Read-only file system" in fails_to_save(mounted / "last.pt")


def test_a_limit_on_the_size_of_files_leaves_the_old_one(tmp_path: Path) -> None:
    checkpoint.save({"epoch": 1}, tmp_path / "last.pt")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        assert "File too large" in fails_to_save(tmp_path / "last.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    """As root may write anywhere, the folder is made immutable for it."""
    folder = tmp_path / "run"
    folder.mkdir()
    checkpoint.save({"epoch": 1}, folder / "last.pt")
    if os.geteuid():
        folder.chmod(0o555)
    elif subprocess.run(["chattr", "+i", folder], capture_output=True).returncode:
        pytest.skip("root, and a file system without immutable folders")
    try:
        assert re.search("Permission denied|Operation not permitted", fails_to_save(folder / "last.pt"))
    finally:
        if os.geteuid():
            folder.chmod(0o755)
        else:
            subprocess.run(["chattr", "-i", folder], check=True)


def test_a_first_one_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"last\.pt cannot be written: Not a directory; there was none before"):
        checkpoint.save({}, tmp_path / "file" / "last.pt")


def test_file_and_folder_are_flushed_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(handle: int) -> None:
        events.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).is_dir()}")
        real_sync(handle)

    def replace(*paths: Any) -> None:
        events.append("rename")
        real_replace(*paths)

    monkeypatch.setattr(files.os, "fsync", sync)
    monkeypatch.setattr(files.os, "replace", replace)
    checkpoint.save({}, tmp_path / "last.pt")
    assert events == ["sync False", "rename", "sync True"]


def test_what_was_left_unfinished_is_removed(tmp_path: Path) -> None:
    checkpoint.save({"epoch": 1}, tmp_path / "last.pt")
    (tmp_path / ".last.pt-abc.unfinished").write_bytes(b"half")
    (tmp_path / ".mine").write_text("stays")
    assert files.remove_unfinished(tmp_path) == [".last.pt-abc.unfinished"]
    assert {p.name for p in tmp_path.iterdir()} == {"last.pt", ".mine"}


def test_no_code_is_run_when_loading(tmp_path: Path) -> None:
    torch.save({"x": random.Random(0)}, tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt: not a checkpoint of this program, or damaged"):
        checkpoint.load(tmp_path / "last.pt")


def test_damaged_and_missing(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(tmp_path / "last.pt")
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none.pt")


def test_random_state(tmp_path: Path) -> None:
    """Of each global generator, by way of a file."""

    def draw() -> list[float]:
        return [random.gauss(0, 1), float(np.random.normal()), float(np.random.rand()), torch.randn(()).item()]  # noqa: NPY002

    draw()  # one of the two of each pair of normal deviates is kept for the next time
    checkpoint.save(checkpoint.random_state(), tmp_path / "random.pt")
    expected = draw()
    assert draw() != expected
    checkpoint.set_random_state(checkpoint.load(tmp_path / "random.pt"))
    assert draw() == expected


def test_gpus_that_the_checkpoint_has_no_state_for_are_seeded_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    state = checkpoint.random_state() | {"cuda": []}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    checkpoint.set_random_state(state)
    checkpoint.set_random_state(state)
    torch.rand(1)
    checkpoint.set_random_state(checkpoint.random_state() | {"cuda": []})
    assert seeds[0] == seeds[1] != seeds[2]
