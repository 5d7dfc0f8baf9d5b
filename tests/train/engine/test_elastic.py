"""What each process resumes from where a checkpoint is of more processes, or fewer."""

from typing import Any

import pytest
import torch

from train.distributed import World
from train.engine.elastic import share_of


def state_of(rank: int) -> dict[str, Any]:
    meter = {"sums": torch.tensor([1.0, 10.0]) * (rank + 1), "counted": torch.tensor(3.0), "samples": 3 + rank}
    return {
        "loader": {"batch": 4, "bad_files": {"known": [[rank, "cut off"], [9, "empty"]], "replaced": rank + 1}},
        "meter": meter,
        "measures": meter,
        "loader_wait": float(rank),
        "objective": rank,
        "random": {"cpu": torch.Generator().manual_seed(rank).get_state(), "cuda": [1], "python": rank},
    }


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (3, 2), (2, 4)])
def test_what_each_process_gets(before: int, after: int) -> None:
    saved = [state_of(rank) for rank in range(before)]
    shares = [share_of(saved, World(rank, after), lambda state, by: (state, by)) for rank in range(after)]
    for name in ("sums", "counted", "samples"):
        total = sum(state["meter"][name] for state in saved)
        assert torch.equal(torch.as_tensor(sum(share["meter"][name] for share in shares)), torch.as_tensor(total))
    for rank, share in enumerate(shares):
        assert share["loader"]["batch"] == 4
        known = share["loader"]["bad_files"]["known"]
        assert sorted(known) == sorted([[other, "cut off"] for other in range(before)] + [[9, "empty"]])
        assert share["objective"] == (rank if rank < before else (rank % before, rank))
    draws = [share["random"]["cpu"] for share in shares]
    assert not any(torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i]), "each has numbers of its own"
    assert sum(share["loader"]["bad_files"]["replaced"] for share in shares) <= sum(range(1, before + 1))


def test_of_as_many_processes_each_has_its_own() -> None:
    saved = [state_of(rank) for rank in range(2)]
    assert [share_of(saved, World(rank, 2), lambda *_: 1 / 0) for rank in range(2)] == saved
