"""python -m train, with an optional accident in a step; for torchrun, see test_distributed.py.

Arguments: a folder for the notes of each process, "signal:rank:step" or "-", and the program's own.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from pipelines import Batch
from train.__main__ import main
from train.engine import network, run
from train.tasks.classification import objective
from train.tasks.classification import task as classification


def without_batch_norm(name: str, classes: int, image_size: int) -> nn.Module:
    layers = nn.Conv2d(3, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))


def noting(notes: Path, accident: str) -> None:
    """Let each process note the samples of each step, and have an accident."""
    objective_of, step_of = objective.PlainObjective.__call__, run.Run.train_step
    number, rank, at = accident.split(":") if accident != "-" else ("SIGKILL", "-1", "-1")
    current: list[tuple[int, int]] = []  # rank and step

    def noted(self: objective.PlainObjective, batch: Batch) -> Any:
        own, place = current[-1]
        with open(notes / f"{own}.jsonl", "a") as file:
            file.write(json.dumps([place, batch.indices.tolist()]) + "\n")
        return objective_of(self, batch)

    def train_step(self: run.Run, batches: Any) -> Any:
        place = self.epoch * self.steps + self.step
        current.append((self.world.rank, place))
        started_once = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if self.world.rank == int(rank) and place == int(at) and started_once:
            os.kill(os.getpid(), getattr(signal, number))
        return step_of(self, batches)

    objective.PlainObjective.__call__, run.Run.train_step = noted, train_step  # type: ignore[method-assign]
    # The picture takes longer than an epoch.
    classification.write_figure = lambda *given, **_: Image.new("RGB", (1, 1)).save(given[-1])  # type: ignore[assignment]


if __name__ == "__main__":
    noting(Path(sys.argv[1]), sys.argv[2])
    options = sys.argv[3:]
    if "--plain-net" in options:
        options.remove("--plain-net")
        network.build_model = without_batch_norm  # type: ignore[assignment]
    sys.exit(main(options))
