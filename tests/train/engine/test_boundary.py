"""Options that are illegal on this data, or do not have the effect that they seem to have; errors of the system."""

import errno
import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from train.__main__ import main as program
from train.cli.checks import check
from train.config import Config
from train.data.loaders import resolve_for_data
from train.engine.run import Run
from train.errors import UserError, system_error


@pytest.mark.parametrize("method", ["none", "keep_cutout", "random_erasing", "mixup"])
def test_a_region_larger_than_the_image(method: str, run_of: Callable[..., Run]) -> None:
    with pytest.raises(UserError, match="--region-size must be at most --image-size, 16; got 17"):
        run_of(method=method, image_size=16, region_size=17, device="cpu")
    assert run_of(method=method, image_size=16, region_size=16, device="cpu").steps == 6


@pytest.mark.parametrize("steps", [(3, 2), (2, 2)])
def test_lr_steps_ascend(steps: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=f"--lr-steps must ascend; got {steps[0]} {steps[1]}"):
        check(Config(lr_steps=steps))


def test_options_without_effect_are_warned_of(run_of: Callable[..., Run]) -> None:
    options = {"method": "none", "device": "cpu", "epochs": 4}
    assert run_of(**options, lr_steps=(2, 3)).warnings == []
    assert run_of(**options, lr_steps=(2, 4, 9)).warnings == [
        "--lr-steps 4 9: no effect, since training ends after --epochs 4"
    ]


def test_a_batch_larger_than_the_data(shapes: Path, run_of: Callable[..., Run]) -> None:
    """By default the learning rate is that of the images that a step has, 48 of 100,000."""
    config = resolve_for_data(Config(data=str(shapes), batch_size=100_000))
    assert math.isclose(config.lr, 0.1 * 48 / 128)
    config = resolve_for_data(Config(data=str(shapes), batch_size=100_000, train_images=16, image_size=32))
    assert math.isclose(config.lr, 0.1 * 16 / 128)
    (warning,) = run_of(method="none", device="cpu", batch_size=100_000, lr=3.0).warnings
    assert warning.startswith("--batch-size 100000 is more than the 48 training images, all of which are in each step")
    assert "the learning rate is 3: lower --batch-size" in warning


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": "1e-3"}, r"--lr must be a number or null; got '1e-3'$"),
        ({"epochs": 2.5}, r"--epochs must be a whole number or null; got 2\.5$"),
        ({"batch_size": True}, r"--batch-size must be a whole number or null; got True$"),
        ({"compile": 1}, r"--compile must be true or false; got 1$"),
        ({"method": ["cutout"]}, r"--method must be text; got \['cutout'\]$"),
        ({"crop_scale": (0.5,)}, r"--crop-scale must be 2 values, each a number or null; got \(0\.5,\)$"),
        ({"lr_steps": ()}, r"--lr-steps must be at least one value, each a whole number or null; got \(\)$"),
        ({"momentum": None}, r"--momentum must be a number; got None$"),
    ],
)
def test_a_value_of_another_type(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(Config(**values))


def test_a_whole_number_is_a_number() -> None:
    check(Config(lr=1, consistency=(1, 0, 1), method="cutout", tau=1))


GIVEN = ["--image-size", "16", "--batch-size", "24", "--epochs", "1", "--method", "none"]


def test_what_may_not_be_read_or_written(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Root may do everything; so the system's answer is given in its place."""

    def refused(path: Any, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("train.data.loaders._first_side", lambda dataset, **_: refused(dataset.reader.files[0]))
    options = ["--data", str(shapes), "--out", str(tmp_path / "run"), *GIVEN]
    assert program(options) == 2
    errors = capsys.readouterr().err
    first = shapes / "train" / "crescent" / "0000.jpg"
    assert errors == f"error: {first}: Permission denied. Restore the permission to read it, or to write there\n"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EMFILE, "Too many open files. Raise the limit of open files (ulimit -n), or lower --workers"),
        (errno.ENOSPC, "No space left on device. Free some space"),
        (errno.EROFS, "Read-only file system. Choose a folder that can be written to"),
        (errno.EACCES, "Permission denied. Restore the permission to read it, or to write there"),
        (errno.ENOTDIR, "Not a directory. Check the path"),
        (errno.EIO, "Input/output error. Check the disk or the network, and start again"),
    ],
)
def test_each_error_of_the_system_says_what_to_do(
    number: int, advice: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise OSError(number, os.strerror(number), "/some/file")

    monkeypatch.setattr("train.programs.train.main", fail)
    assert program([]) == 2
    assert capsys.readouterr().err == f"error: /some/file: {advice}\n"


def test_a_library_that_hides_the_error_of_the_system() -> None:
    assert system_error(RuntimeError("size of tensor")) is None
    assert system_error(BrokenPipeError(32, "Broken pipe")) is None
    hidden = RuntimeError("unable to open shared memory object: Too many open files (24)")
    assert str(system_error(hidden)) == (
        "unable to open shared memory object: Too many open files (24). Raise the limit of open files (ulimit -n), or"
        " lower --workers"
    )


@pytest.mark.parametrize("limit", [12, 24, 40])
def test_a_low_limit_of_open_files(warm_python: str, limit: int, shapes: Path, tmp_path: Path) -> None:
    """Whatever needs the file that is one too many: a sentence and status 2, or a run that needs no more."""
    command = ["python", "-m", "train", "--data", str(shapes), "--out", "run", *GIVEN, "--device", "cpu"]
    code = (
        "import resource, sys; import torch, torchvision, tensorboard, nvidia.dali, PIL.Image, matplotlib.figure\n"
        "import torch.utils.tensorboard, matplotlib.backends.backend_agg, train.programs.train\n"
        "from train.__main__ import main\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [warm_python, "-c", code, *command[3:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=100,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 2)
    if done.returncode:
        assert "ulimit -n" in done.stderr
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > limit


def test_a_closed_standard_output(tmp_path: Path) -> None:
    """Of `>&-`, as of a service without one: sys.stdout is None."""
    command = f"exec {sys.executable} -m train check-data nowhere >&-"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
