"""Checkpoints, which load without running code (weights_only=True), and the random state that goes into them."""

import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from train.engine.files import atomic_write
from train.errors import UserError

LAST, BEST = "last.pt", "best.pt"  # in the run folder: the state to resume; the network with the best validation


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state`, of tensors and plain types, see `atomic_write`."""
    with atomic_write(path) as file:
        torch.save(state, file)


def load(path: Path) -> dict[str, Any]:
    """Return the state that `save` wrote, with its tensors on the CPU.

    Raises:
        UserError: the file does not exist, or is not a checkpoint.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such checkpoint; name the folder of a run that has one (omit --resume to start a new run)"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not a checkpoint of this program, or damaged: {error}") from error


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
    """Restore the state of `random_state`; CUDA's only on a machine with the same number of GPUs."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["cpu"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
