"""What a loader gives, in plain data."""

from dataclasses import dataclass

import torch

from .policies.base import Policy


@dataclass(frozen=True)
class LoaderOptions:
    """Which samples a loader gives, in which batches and from which random numbers.

    `image_loader` checks its arguments and makes the options; the attributes are as its arguments, save that the
    values that depend on the machine are filled in. What happens to the pixels is in the `Recipe`.
    """

    batch_size: int
    train: bool
    policy: Policy | None
    device: torch.device
    drop_last: bool
    seed: int
    rank: int
    world_size: int
    num_threads: int
    crop_scale: tuple[float, float]
    horizontal_flip: float
    vertical_flip: float
    replace_bad_files: bool
    max_bad_share: float
