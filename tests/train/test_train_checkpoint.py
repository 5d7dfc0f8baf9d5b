"""Checkpoints: all or nothing, without code in them, and the random state round."""

import random
from pathlib import Path

import pytest
import torch

from train import checkpoint
from train.config import UserError


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


def test_a_failure_before_the_renaming_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save({"epoch": 1}, path)

    def full(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save({"epoch": 2}, path)
    assert checkpoint.load(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


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


def test_random_state() -> None:
    before = checkpoint.random_state()
    first = torch.rand(3)
    checkpoint.set_random_state(before)
    assert torch.equal(torch.rand(3), first)
