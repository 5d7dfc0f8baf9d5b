"""The state of random generators across devices: exact on the device that it is from, a new seed on another."""

import hashlib

import torch
from torch import Tensor

_SIZES = {"cpu": 5056, "cuda": 16}  # of a state in bytes: the Mersenne Twister's, and a seed with an offset


def check_generator_state(state: object) -> None:
    """Raise ValueError unless ``state`` is None or a generator's state, from whatever device."""
    if state is not None and not (isinstance(state, Tensor) and state.dtype == torch.uint8 and state.ndim == 1):
        got = (state.dtype, tuple(state.shape)) if isinstance(state, Tensor) else type(state).__name__
        raise ValueError(f"generator of the state must be None or a uint8 tensor; got {got}")


def restore(generator: torch.Generator, state: Tensor) -> None:
    """Set the state of ``generator``, as ``get_state()`` returned it on this or on another type of device.

    On the same type of device, the numbers that would have come next come next. Those of another type of device cannot
    come: each type has an algorithm of its own. There the generator is seeded from the state: equal states go on
    equally, and numbers that were drawn before do not come again.
    """
    size = state.numel()
    if size in _SIZES.values() and size != _SIZES.get(generator.device.type, size):
        generator.manual_seed(seed_of(state))
    else:
        generator.set_state(state.cpu())


def seed_of(state: Tensor) -> int:
    """Return a seed, in [0, 2⁶³), that is a function of a generator's whole state."""
    digest = hashlib.sha256(state.cpu().numpy().tobytes()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
