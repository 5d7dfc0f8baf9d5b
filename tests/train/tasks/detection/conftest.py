"""A small copy of the embedded scenes, and the options of quick runs on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from train.cli.checks import check
from train.engine.run import Run
from train.tasks.detection.config import DetectionConfig
from train.tasks.detection.task import Detection

QUICK = {
    "short_sides": (40, 48), "long_side": 64, "pyramid_channels": 8, "proposals": 8, "batch_size": 4, "epochs": 2,
    "device": "cpu", "workers": 1,
}  # fmt: skip


@pytest.fixture
def quick() -> list[str]:
    """The options on the command line."""
    words = []
    for name, value in QUICK.items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value])]
    return words


@pytest.fixture
def detection_of(scenes: Path) -> Callable[..., Run]:
    """A run on the small data with the options of `DetectionConfig`, before its first step."""

    def build(**options: Any) -> Run:
        config = DetectionConfig(**({"data": str(scenes)} | QUICK | options))
        check(config)
        source = Detection.read_source(config, options)
        run = Run(Detection.resolve(config, source))
        if source is not None:
            run.network.start_from(source, run.classes)
        run.begin_epoch()
        return run

    return build
