"""What the integrations share: the interface of a loader, and the stage's seed and state in several processes."""

import hashlib
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch.distributed as dist
from torch import Tensor

from ..stage import SaliencyStage


class Batch(Protocol):
    """A batch of a loader, on the device; ``pipelines.Batch`` is one."""

    @property
    def images(self) -> Tensor: ...  # (B, C, H, W), floating point, normalised

    @property
    def augmented(self) -> Tensor | None: ...  # like images

    @property
    def labels(self) -> Tensor: ...  # (B,), int64


@runtime_checkable
class Loader(Protocol):
    """A loader whose position can be saved; ``pipelines.ImageLoader`` is one, as ``image_loader`` returns it."""

    dataset: Any

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...

    def set_epoch(self, epoch: int, /) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


def check_loader(name: str, loader: object) -> None:
    """Raise ValueError unless ``loader`` is a :class:`Loader`."""
    if not isinstance(loader, Loader):
        raise ValueError(
            f"{name} must be a loader with set_epoch(), state_dict() and load_state_dict(), such as that of"
            f" pipelines.image_loader; got {loader!r}"
        )


def check_stage(stage: object) -> None:
    """Raise ValueError unless ``stage`` is a :class:`SaliencyStage`."""
    if not isinstance(stage, SaliencyStage):
        raise ValueError(f"stage must be a dali_salaug.SaliencyStage; got {stage!r}")


def check_share(name: str, loader: object, rank: int, world_size: int) -> None:
    """Raise ValueError unless a loader that knows its share of the data has that of this process."""
    options = getattr(loader, "options", None)
    own = (getattr(options, "rank", rank), getattr(options, "world_size", world_size))
    if own != (rank, world_size):
        raise ValueError(
            f"{name} must be made with rank={rank} and world_size={world_size}, those of this process; got rank="
            f"{own[0]} and world_size={own[1]}"
        )


def derived_seed(seed: int, *numbers: int) -> int:
    """Return a seed in [0, 2⁶³) that is a function of ``seed`` and the numbers, such as rank and epoch."""
    digest = hashlib.sha256(" ".join(map(str, (seed, *numbers))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_for_rank(seed: int, rank: int) -> int:
    """Return the seed of a process's stage; that of the first process is ``seed``."""
    return derived_seed(seed, rank) if rank else seed


def gather_states(stage: SaliencyStage) -> list[dict[str, Any]]:
    """Return the states of the stages of all processes, which must call this together."""
    own = stage.state_dict()
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, own)
    return states


def load_own_state(stage: SaliencyStage, states: list[dict[str, Any]], rank: int, world_size: int) -> None:
    """Restore the stage of this process from :func:`gather_states`.

    Raises:
        ValueError: the states are of another number of processes, or are none.
    """
    if not isinstance(states, list) or len(states) != world_size:
        count = len(states) if isinstance(states, list) else 0
        raise ValueError(
            f"the checkpoint has the stage's state of {count} process(es), and {world_size} are running: resume with"
            " the same number"
        )
    stage.load_state_dict(states[rank])
