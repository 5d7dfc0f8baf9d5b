"""Small functions on tensors that several modules use."""

from collections.abc import Sequence

import torch
from torch import Tensor


def known_to_host(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Return whole numbers as a tensor (N,), int64, on ``device``, without waiting for it."""
    # torch.full, not torch.tensor: the latter copies from the host, which waits for the device.
    return torch.cat([torch.full((1,), number, device=device) for number in numbers])


def at_least_float32(values: Tensor) -> Tensor:
    """Return floating-point values in float32, or unchanged where they are more precise."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def finite_or_zero(values: Tensor) -> Tensor:
    """Return the values, with 0 in place of those that are not finite."""
    return values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
