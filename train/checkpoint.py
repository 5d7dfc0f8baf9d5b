"""Checkpoints: whole or not there, and loadable without running code (weights_only=True)."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from train.config import UserError


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state` (tensors and plain types) so that `path` is always either its old or its new content.

    A temporary file in the same folder is flushed to the disk and then renamed over `path`.
    """
    handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(unfinished, 0o644)  # mkstemp gives 0600
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


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


def random_state() -> dict[str, Any]:
    """The state of torch's global generators, CPU and (where there is one) CUDA."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count():  # a run may go on on another machine
        torch.cuda.set_rng_state_all(state["cuda"])
