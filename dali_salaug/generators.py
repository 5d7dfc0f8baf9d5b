"""The state of random generators across devices: exact on the device that it is from, a new seed on another."""

import hashlib

import torch
from torch import Tensor

# Of a state in bytes: the Mersenne Twister's; a seed and an offset; MPS has a counter besides.
_SIZES = {"cpu": 5056, "cuda": 16, "mps": 44}
_WORD = 4  # random numbers that the algorithm of CUDA makes at a time: an offset is a multiple of them


def check_generator_state(state: object) -> None:
    """Raise ValueError unless ``state`` is None or a generator's state, from whatever device."""
    if state is not None and not (isinstance(state, Tensor) and state.dtype == torch.uint8 and state.ndim == 1):
        got = (state.dtype, tuple(state.shape)) if isinstance(state, Tensor) else type(state).__name__
        raise ValueError(f"generator of the state must be None or a uint8 tensor; got {got}")
    if state is not None:
        _check_bytes(state.cpu())


def _check_bytes(state: Tensor) -> None:
    size = state.numel()
    if size not in _SIZES.values():
        sizes = " or ".join(map(str, sorted(_SIZES.values())))
        raise ValueError(f"generator of the state must be that of a generator, of {sizes} bytes; got {size}")
    try:
        if size == _SIZES["cpu"]:
            torch.Generator().set_state(state.contiguous())
        elif size == _SIZES["cuda"] and int.from_bytes(state[8:].numpy().tobytes(), "little") % _WORD:
            raise RuntimeError(f"Offset is not a multiple of {_WORD}")
    except RuntimeError as error:
        raise ValueError(
            f"generator of the state must be that of a generator; got {size} bytes that are none ({error})"
        ) from None


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
