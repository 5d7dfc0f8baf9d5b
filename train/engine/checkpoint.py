"""Checkpoints, which load without running code (weights_only=True), and the random state that goes into them.

A checkpoint is the zip file that torch.save writes. Its comment, at the end of the file, is a checksum of all that
precedes it, so that a single changed bit is noticed.
"""

import hashlib
import os
import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from dali_salaug.generators import seed_of
from train.config import ResolvedConfig
from train.config.options import is_of
from train.config.run import ResolvedRun
from train.engine.files import atomic_write
from train.engine.memory import is_out_of_memory
from train.errors import UserError, first_line

R = TypeVar("R", bound=ResolvedRun)

LAST, BEST = "last.pt", "best.pt"  # in the run folder: the state to resume; the network with the best validation
KEPT = "checkpoints"  # likewise: the folder of the states that are kept, each like LAST
MARK = b"sha256:"  # before the checksum
SEAL = len(MARK) + 64  # bytes
ELSE = "Restore a copy of the file, or start a new run"


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state`, of tensors and plain types, with a checksum, see `atomic_write`."""
    with atomic_write(path) as file:
        torch.save(state, file)
        end = file.seek(0, os.SEEK_END)
        file.seek(end - 2)  # the length of the zip file's comment, so far 0
        file.write(SEAL.to_bytes(2, "little"))
        file.write(MARK + _checksum(file, end).encode())


def load(path: Path) -> dict[str, Any]:
    """Return the state that `save` wrote, with its tensors on the CPU.

    Raises:
        UserError: the file does not exist, cannot be read, is not a checkpoint, or has changed since it was written.
    """
    with _opened(path) as file:
        _verify(path, file)
        file.seek(0)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # its message advises to load the file unsafely
            raise _not_one(path, "it holds more than tensors and plain values") from error
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise _not_one(path, first_line(error)) from error
    if not isinstance(state, dict):
        raise _not_one(path, f"it holds a {type(state).__name__}")
    return state


def is_sealed(file: IO[bytes]) -> bool:
    """Return whether a file ends in the mark of `save`; its checksum may be wrong."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - SEAL))
    return file.read(len(MARK)) == MARK


def verify(path: Path) -> None:
    """Raise UserError as `load`, without loading the file."""
    with _opened(path) as file:
        _verify(path, file)


def load_run(path: Path) -> tuple[dict[str, Any], ResolvedConfig]:
    """Return the state of a run that trains a classifier, as `load_any_run`."""
    state, config = _load_run(path, ResolvedConfig)
    if not config.is_classifier:
        raise UserError(f"{path} is of a run of the command {config.task}, which this command does not take")
    return state, config


def load_any_run(path: Path) -> tuple[dict[str, Any], ResolvedRun]:
    """Return the state of a run, in its last.pt or best.pt, and its configuration.

    Raises:
        UserError: as `load`; or the state lacks what describes a run.
    """
    return _load_run(path, ResolvedRun)


def _load_run(path: Path, of: type[R]) -> tuple[dict[str, Any], R]:
    state = load(path)
    missing = sorted({"config", "classes", "model", "mean", "std"} - state.keys())
    if missing:
        raise UserError(
            f"{path}: not a checkpoint of a run, which has {missing[0]!r}; pass the run's folder, or its best.pt"
        )
    with reading(path):
        config = of.from_dict(state["config"])
        classes, model, means = state["classes"], state["model"], (*state["mean"], *state["std"])
        _require(isinstance(classes, list) and all(isinstance(name, str) for name in classes), "'classes'")
        _require(isinstance(model, dict) and all(isinstance(value, Tensor) for value in model.values()), "'model'")
        _require(len(means) == 6 and all(is_of(value, float) for value in means), "'mean' and 'std'")
        if isinstance(config, ResolvedConfig) and config.is_classifier:
            _require(is_of(state["resize_to"], int), "'resize_to'")
    return state, config


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the errors of using a state that is not of the expected form into a UserError that names the file."""
    try:
        yield
    except (AttributeError, LookupError, ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) and error.args else first_line(error)
        raise UserError(f"{path}: malformed checkpoint: {what}. {ELSE}") from error


def check_form(saved: Any, own: Any, place: str) -> None:
    """Raise ValueError, with the place, unless a saved state has the form of this run's own state.

    That is the same keys, lengths and types, and tensors of the same shapes and dtypes. Options that are on, off or
    None may be either of these.
    """
    if isinstance(own, Tensor):
        _require(isinstance(saved, Tensor) and (saved.shape, saved.dtype) == (own.shape, own.dtype), place)
    elif isinstance(own, dict):
        _require(isinstance(saved, dict), place)
        for name in [*own, *saved]:
            _require(name in saved and name in own, f"{place}[{name!r}]")
            check_form(saved[name], own[name], f"{place}[{name!r}]")
    elif isinstance(own, list | tuple):
        _require(isinstance(saved, list | tuple) and len(saved) == len(own), place)
        for number, (one, other) in enumerate(zip(saved, own, strict=True)):
            check_form(one, other, f"{place}[{number}]")
    elif own is None or isinstance(own, bool):
        _require(saved is None or isinstance(saved, bool), place)
    else:
        legal = (int, float) if isinstance(own, float) else (type(own),)
        _require(isinstance(saved, legal) and not isinstance(saved, bool), place)


def _require(holds: bool, place: str) -> None:
    if not holds:
        raise ValueError(f"its {place} is not what a run has there")


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        if not path.is_file():  # of what is neither file nor folder, such as a FIFO, opening may never return
            raise UserError(f"{path}: no such checkpoint; name the folder of a run that has one, or start a new run")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror or error}. Restore the permission to read it, or a copy of it"
        ) from error


def _verify(path: Path, file: IO[bytes]) -> None:
    """Raise UserError unless the file ends in the checksum of what precedes it."""
    size = file.seek(0, os.SEEK_END)
    if size <= SEAL:
        raise _not_one(path, "it is empty" if size == 0 else f"it has {size} bytes")
    file.seek(size - SEAL)
    seal = file.read(SEAL)
    if not seal.startswith(MARK):
        raise _not_one(path, "it does not end in a checksum")
    if seal != MARK + _checksum(file, size - SEAL).encode():
        raise _not_one(path, "its checksum is that of another content")


def _checksum(file: IO[bytes], size: int) -> str:
    """Return the SHA-256 of the first bytes of a file, and leave the position behind them."""
    digest = hashlib.sha256()
    file.seek(0)
    while size and (piece := file.read(min(size, 1 << 20))):
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()


def _not_one(path: Path, why: str) -> UserError:
    return UserError(f"{path}: not a checkpoint of this program, or damaged: {why}. {ELSE}")


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path, of: str) -> None:
    """Load the weights of a checkpoint into a model.

    Args:
        path: of the checkpoint, for the message.
        of: a description of the model, for the message.

    Raises:
        UserError: the weights belong to another architecture or another number of classes.
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


def seed_random_state(seed: int) -> None:
    """Seed the global generators: Python's, NumPy's, and torch's on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Return the state of the global generators: Python's, NumPy's, torch's on the CPU and on CUDA."""
    name, keys, *rest = cast(tuple, np.random.get_state())  # noqa: NPY002 (its state is saved for those who use it)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the state of `random_state`; with another number of GPUs, theirs are seeded from the CPU's state."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    else:
        torch.cuda.manual_seed_all(seed_of(state["cpu"]))
