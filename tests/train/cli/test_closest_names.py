"""Errors name the closest legal word; of several processes with the same error, one prints it."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from train import distributed
from train.__main__ import main as program
from train.cli.presets import read_preset
from train.distributed import failed_elsewhere, report
from train.errors import UserError, did_you_mean


@pytest.mark.parametrize(
    ("words", "close"),
    [
        (["--lrr", "0.1"], "--lr"),
        (["train", "--batchsize", "3"], "--batch-size"),
        (["--devise=cpu", "--epochs", "3"], "--device"),
        (["shov"], "show"),
        (["show", "run", "--cuont", "3"], "--count"),
        (["benchmark", "stge"], "stage"),
        (["benchmark", "stage", "--repaets", "3"], "--repeats"),
        (["benchmark", "stage", "--methods", "cutmx"], "cutmix"),
        (["train", "--saliency", "gradcam"], "grad_cam"),
        (["experiment", "keepaugmet"], "keepaugment"),
        (["--method", "keep-cutout"], "keep_cutout"),
        (["--method", "randaugment", "--policy", "autoaugmnt"], "autoaugment"),
        (["experiment", "keepaugment", "--data", "x", "--only", "cutout16"], "cutout-16"),
    ],
)
def test_the_closest_name(words: list[str], close: str, capsys: pytest.CaptureFixture) -> None:
    with contextlib.suppress(SystemExit):
        assert program(words) == 2
    errors = capsys.readouterr().err
    assert errors.endswith(f"; did you mean {close}?\n")
    assert errors.count("error: ") == 1


def test_without_a_close_one_there_is_no_guess(capsys: pytest.CaptureFixture) -> None:
    assert did_you_mean("zzz", ["cutout", "cutmix"]) == ""
    with pytest.raises(SystemExit):
        program(["--zzz"])
    assert capsys.readouterr().err.endswith("unrecognized arguments: --zzz\n")


def test_keys_of_a_preset(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("regionsize: 3\n")
    with pytest.raises(UserError, match=r"got \['regionsize'\]; did you mean region_size\?$"):
        read_preset(str(tmp_path / "a.yaml"))


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this process one of several that torchrun has started, with its store."""
    server = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setattr(distributed, "LAG", 0.3)

    def become(rank: int, restart: int = 0) -> None:
        variables = {"MASTER_ADDR": "localhost", "MASTER_PORT": server.port, "RANK": rank}
        variables |= {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": True}
        for name, value in {**variables, "TORCHELASTIC_RESTART_COUNT": restart}.items():
            monkeypatch.setenv(name, str(value))

    return become


def test_one_error_is_printed_once(as_rank: Any, capsys: pytest.CaptureFixture) -> None:
    as_rank(0)
    report("error: no folder")
    assert capsys.readouterr().err == "error: no folder\n"
    as_rank(1)
    report("error: no folder")
    assert capsys.readouterr().err == ""
    report("error: another one")
    assert capsys.readouterr().err == "process 1: error: another one\n"


def test_an_error_of_another_process_alone_is_printed(as_rank: Any, capsys: pytest.CaptureFixture) -> None:
    as_rank(0)
    report("error: of an earlier start")
    capsys.readouterr()
    as_rank(3, restart=1)
    report("error: of an earlier start")
    assert capsys.readouterr().err == "process 3: error: of an earlier start\n"


def test_what_follows_from_another_process_s_error(as_rank: Any) -> None:
    as_rank(1)
    assert not failed_elsewhere()
    as_rank(0)
    assert not failed_elsewhere()
    report("error: x")
    assert not failed_elsewhere(), "its own error is none of another"
    as_rank(1)
    assert failed_elsewhere()


def test_without_a_store_and_without_torchrun(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    report("error: x")
    assert capsys.readouterr().err == "error: x\n"
    assert not failed_elsewhere()


def test_under_torchrun(tmp_path: Path) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "train", "--epochs", "0"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=tmp_path, timeout=200)
    assert done.returncode == 1
    assert done.stderr.count("--epochs must be at least 1; got 0") == 1
    assert done.stdout.count("starting to train") == 1
