"""Files of a run that are whole or not there; checkpoints, which load without running code (weights_only=True)."""

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch

from train.config import UserError

LAST, BEST = "last.pt", "best.pt"  # in the run folder: to go on from; the network that validated best
UNFINISHED = ".unfinished"  # ends the names of files that are being written


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write the new content of `path` into, which then has, at any moment, either its old or its new content.

    A temporary file in the same folder is flushed to the disk and then renamed over `path`; the folder is flushed too,
    so that the new name survives a loss of power. A process killed meanwhile leaves the temporary file, see
    `remove_unfinished`.

    Raises:
        UserError: the file cannot be written; the message says why, and that what was there is intact.
    """
    unfinished = None
    try:
        handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}-", suffix=UNFINISHED, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(unfinished, 0o644)  # mkstemp gives 0600
        os.replace(unfinished, path)
        unfinished = None
        _flush_folder(path.parent)
    except Exception as error:
        cause = _os_error(error)
        if cause is None:
            raise
        kept = "the one written before is intact" if path.exists() else "there was none before"
        raise UserError(
            f"{path} cannot be written: {cause.strerror or cause}; {kept}. Make room, or give back the right to write"
            " there, and go on with --resume"
        ) from error
    finally:
        if unfinished is not None:
            os.unlink(unfinished)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _os_error(error: BaseException | None) -> OSError | None:
    """What the system said: torch.save, told of a full disk, fails once more on its way out, and raises that."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def remove_unfinished(folder: Path) -> list[str]:
    """Remove what killed processes left half-written in the folder, and return the names."""
    left = sorted(folder.glob(f".*{UNFINISHED}"))
    for path in left:
        path.unlink()
    return [path.name for path in left]


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state` (tensors and plain types), see `replacing`."""
    with replacing(path) as file:
        torch.save(state, file)


def load(path: Path) -> dict[str, Any]:
    """The state written by `save`, its tensors on the CPU.

    Raises:
        UserError: there is no such file, or it is not a checkpoint.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such checkpoint; give the folder of a run that has one (leave out --resume to begin a run)"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not a checkpoint of this program, or damaged: {error}") from error


def seed_random_state(seed: int) -> None:
    """Begin the global generators: Python's, NumPy's, torch's on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The state of the global generators: Python's, NumPy's, torch's on the CPU and (where there is one) CUDA."""
    name, keys, *rest = cast(tuple, np.random.get_state())  # noqa: NPY002 (its state is saved for those who use it)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count():  # a run may go on on another machine
        torch.cuda.set_rng_state_all(state["cuda"])
