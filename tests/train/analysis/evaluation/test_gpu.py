"""On a GPU: nearly the numbers of the CPU, and no wait for the device between the batches of attacks and the like."""

import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from train.analysis.evaluation import attacks, explanation, occlusion
from train.analysis.evaluation.images import Sample, Subject
from train.analysis.trained import Trained
from train.config import Config
from train.models.small import small

pytestmark = pytest.mark.gpu


def subject_on(device: str) -> Subject:
    torch.manual_seed(0)
    model = small(8).to(device).eval().requires_grad_(False)
    config = Config(device=device, image_size=32).resolved(side=32, embedded=True, cifar=False)
    mean, std = (torch.full((3, 1, 1), 0.5, device=device) for _ in range(2))
    return Subject(Path("x"), Trained(config, list("abcdefgh"), model, mean, std, torch.device(device)), None)  # type: ignore[arg-type]


def sample_on(device: str, side: int) -> Sample:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (14, 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.randint(8, (14,), generator=generator)
    objects = torch.tensor([[2.0, 3.0, 20.0, 30.0]], dtype=torch.float64).repeat(14, 1)
    return Sample(pixels.to(device), labels.to(device), np.arange(14), objects)


@pytest.mark.parametrize("part", [attacks, explanation, occlusion])
def test_the_numbers_are_nearly_those_of_the_cpu(part: ModuleType) -> None:
    on_cpu, on_gpu = (part.measure(subject_on(d), sample_on(d, 32), 0) for d in ("cpu", "cuda"))

    def compare(one: object, other: object) -> None:
        if isinstance(one, dict) and isinstance(other, dict):
            assert one.keys() == other.keys()
            for name in one.keys() - {"random", "smoothgrad"}:  # drawn on the device
                compare(one[name], other[name])
        elif isinstance(one, list | float):
            assert other == pytest.approx(one, abs=0.15)  # of 14 images, two may be decided otherwise
        else:
            assert one == other

    compare(on_cpu, on_gpu)


@pytest.mark.parametrize("part", [attacks, explanation, occlusion])
def test_no_wait_between_batches(part: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part reads its sums at its end: four batches wait for the device as often as one does."""
    subject, sample = subject_on("cuda"), sample_on("cuda", 32)
    waits = []
    for size in (14, 4):
        monkeypatch.setattr("train.analysis.evaluation.images.BATCH", size)
        part.measure(subject, sample, 0)  # the first call of Grad-CAM looks for its layer
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            part.measure(subject, sample, 0)
            torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("called a synchronizing" in str(each.message) for each in caught))
    assert 0 < waits[1] <= waits[0]
