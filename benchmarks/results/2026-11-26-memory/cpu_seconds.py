"""Whole steps in CPU seconds of one thread, beside other work: `python cpu_seconds.py MODEL SIDE BATCH TURNS`, here."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from dali_salaug import WithEarlyHead
from train.benchmarks import whole_steps
from train.models.registry import FIRST_BLOCK, build_model

CLASSES = 1000


def cpu_seconds(part: Callable[[], object], device: torch.device) -> float:
    start = time.process_time()
    part()
    return time.process_time() - start


torch.set_num_threads(1)
whole_steps.seconds_of = cpu_seconds
name, side, batch, turns = sys.argv[1], *map(int, sys.argv[2:])
torch.manual_seed(0)
model = build_model(name, CLASSES, side).to(memory_format=torch.channels_last)
network = WithEarlyHead(model, CLASSES, FIRST_BLOCK.get(name))
images = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
labels = torch.randint(CLASSES, (batch,))
result = whole_steps.whole_steps(network, images, labels, turns=turns, warm_up=1, compiled=False)
print("\n".join(whole_steps.table(result)))
report = {"threads": 1, "clock": "CPU seconds", "torch": torch.__version__, **result}
Path(__file__).with_name(f"cpu-seconds-{name}.json").write_text(json.dumps(report, indent=1) + "\n")
