"""What a process resumes from where a checkpoint is of more processes, or fewer.

The images of each step stay the same, as a global batch is a function of its position. The random numbers of the stage
and of dropout are each process's own, so that those of further processes are new.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dali_salaug.generators import seed_of
from train.distributed import World

State = dict[str, Any]


def share_of(processes: list[State], world: World, apart: Callable[[State, int], State]) -> State:
    """Return the state of this process from those of the processes in a checkpoint.

    Of as many processes as here, it is that of this rank. Else the sums of the epoch are the main process's, the files
    known to be bad are all processes', and a process without a state takes another's, with random numbers of its own.

    Args:
        processes: the states, by rank.
        apart: returns the state of an objective with other random numbers, by a rank.
    """
    own = processes[world.rank % len(processes)]
    if len(processes) == world.size:
        return own
    bad_files = [state["loader"]["bad_files"] for state in processes]
    known = dict(tuple(item) for files in bad_files for item in files["known"])
    replaced = sum(files["replaced"] for files in bad_files) // world.size
    own = own | {
        "loader": own["loader"] | {"bad_files": {"known": list(map(list, known.items())), "replaced": replaced}},
        "meter": _summed([state["meter"] for state in processes], world),
        "measures": _summed([state["measures"] for state in processes], world),
        "loader_wait": sum(state["loader_wait"] for state in processes) / len(processes),
    }
    if world.rank >= len(processes):
        own |= {
            "objective": apart(own["objective"], world.rank),
            "random": own["random"] | {"cpu": apart_from(own["random"]["cpu"], world.rank), "cuda": []},
        }
    return own


def apart_from(state: Tensor, rank: int) -> Tensor:
    """Return the state of a generator on the CPU, seeded by another generator's state and a rank."""
    return torch.Generator().manual_seed((seed_of(state) + rank) % 2**63).get_state()


def _summed(meters: list[State], world: World) -> State:
    """Return the state of this process's `Meter`, such that all together have the sums of those in the checkpoint."""
    total = {name: sum(meter[name] for meter in meters) for name in meters[0]}
    return total if world.is_main else {name: value * 0 for name, value in total.items()}
