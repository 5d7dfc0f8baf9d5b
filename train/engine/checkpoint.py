"""Files of a run that are whole or not there; checkpoints, which load without running code (weights_only=True)."""

import fcntl
import json
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from train.errors import UserError

LAST, BEST = "last.pt", "best.pt"  # in the run folder: to go on from; the network that validated best
UNFINISHED = ".unfinished"  # ends the names of files that are being written


@contextmanager
def atomic_write(path: Path, then: str = "go on with --resume") -> Iterator[IO[bytes]]:
    """A file to write the new content of `path` into, which then has, at any moment, either its old or its new content.

    A temporary file in the same folder is flushed to the disk and then renamed over `path`; the folder is flushed too,
    so that the new name survives a loss of power. A process killed meanwhile leaves the temporary file, see
    `remove_unfinished`.

    Args:
        then: what the message says to do in the end.

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
            f" there, and {then}"
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
    """Write `state` (tensors and plain types), see `atomic_write`."""
    with atomic_write(path) as file:
        torch.save(state, file)


def write_json(path: Path, content: Any) -> None:
    """Write what a program has measured or found, see `atomic_write`."""
    with atomic_write(path, "give the command again") as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


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


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path, of: str) -> None:
    """Load what a checkpoint has of a model.

    Args:
        path: of the checkpoint.
        of: what the model is, for the message.

    Raises:
        UserError: the weights are those of another architecture or another number of classes.
    """
    own = model.state_dict()
    shapes = [
        f"{n} is {tuple(weights[n].shape)}, not {tuple(own[n].shape)}"
        for n in own.keys() & weights.keys()
        if weights[n].shape != own[n].shape
    ]
    differences = [f"{n} is missing" for n in own.keys() - weights.keys()]
    differences += [f"{n} is unknown" for n in weights.keys() - own.keys()] + shapes
    if differences:
        raise UserError(
            f"{path}: its weights are not those of this model ({of}): {'; '.join(sorted(differences)[:3])}"
            f"{f' and {len(differences) - 3} more differences' if len(differences) > 3 else ''}"
        )
    model.load_state_dict(weights)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """While entered, no other process may train in the folder; the lock goes with the process, however it ends.

    Raises:
        UserError: another one does.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another process is training there; wait for it, or give another --out"
            ) from None
        except OSError:  # some network file systems lock no folders
            pass
        yield
    finally:
        os.close(handle)


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
