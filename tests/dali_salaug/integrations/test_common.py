"""What the integrations share: nothing is imported unasked, and each process has its own seed and state."""

import subprocess
import sys

import pytest

from dali_salaug import KeepCutout, SaliencyStage
from dali_salaug.integrations.common import derived_seed, load_own_state, seed_for_rank

UNASKED = """
import sys
import dali_salaug.integrations
there = {name for name in ("accelerate", "lightning", "pipelines", "timm", "transformers") if name in sys.modules}
assert not there, there
"""

GATHERING = """
import sys
import torch
import torch.distributed as dist
from dali_salaug import KeepCutout, SaliencyStage
from dali_salaug.integrations.common import gather_states, load_own_state, seed_for_rank

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
images, labels = torch.zeros(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
stage = SaliencyStage(KeepCutout(6), seed=seed_for_rank(3, rank))
stage(model, images, labels)
states = gather_states(stage)
assert not torch.equal(states[0]["generator"], states[1]["generator"])
expected = stage.trace(model, images, labels).boxes
resumed = SaliencyStage(KeepCutout(6))
load_own_state(resumed, states, rank, 2)
assert torch.equal(resumed.trace(model, images, labels).boxes, expected)
dist.destroy_process_group()
"""


def test_nothing_is_imported_unasked() -> None:
    subprocess.run([sys.executable, "-c", UNASKED], check=True)


def test_a_checkpoint_has_the_stages_of_all_processes(in_two_processes) -> None:
    in_two_processes(GATHERING)


def test_a_state_of_another_number_of_processes_is_refused() -> None:
    stage = SaliencyStage(KeepCutout())
    for states, count in (([stage.state_dict()] * 2, 2), (None, 0)):
        with pytest.raises(ValueError, match=rf"state of {count} process\(es\), and 1 are running"):
            load_own_state(stage, states, 0, 1)


def test_seeds() -> None:
    """The first process has that of the stage; no two of processes and epochs are alike, and all are legal."""
    assert seed_for_rank(7, 0) == 7
    seeds = {seed_for_rank(7, rank) for rank in range(100)} | {derived_seed(7, epoch, 0) for epoch in range(100)}
    assert len(seeds) == 200
    for seed in seeds:
        SaliencyStage(KeepCutout(), seed=seed)
