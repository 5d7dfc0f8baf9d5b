"""Detection on a GPU: each detector takes steps and measures, with and without mixed precision."""

import math
from collections.abc import Callable

import pytest

from train.engine.run import Run
from train.tasks.detection.detectors import DETECTORS


@pytest.mark.gpu
@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.parametrize("amp", ["off", "bfloat16", "float16"])
def test_steps_and_validation(kind: str, amp: str, detection_of: Callable[..., Run]) -> None:
    run = detection_of(detector=kind, amp=amp, device="cuda", ema=0.9)
    batches = iter(run.train_loader)
    for _ in range(run.steps):
        losses = run.train_step(batches)
        assert all(math.isfinite(loss.item()) for loss in losses.values())
    validation = run.task.start_validation(run.network)
    for batch in run.val_loader:
        assert batch.images.device.type == "cuda"
        with run.autocast():
            validation.add(batch)
    values = validation.values()
    assert 0 <= values["val_map"] <= values["val_map50"] <= 100


@pytest.mark.gpu
def test_pictures(detection_of: Callable[..., Run], tmp_path: object) -> None:
    run = detection_of(device="cuda")
    run.task.draw(run.network, run.objective, tmp_path / "augmentations.png")  # type: ignore[operator]
    assert (tmp_path / "detections.png").stat().st_size > 0  # type: ignore[operator]
