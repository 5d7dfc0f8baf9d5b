"""The resident set stays flat over a thousand batches: of the loader, and of training with the stage."""

import itertools
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from dali_salaug import KeepPaste, SaliencyStage
from pipelines import Batch, image_loader

WARM_UP, BATCHES = 200, 1000
GROWTH = 1.02

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident set from /proc")


def resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, make_photo: Callable[..., Image.Image]) -> Path:
    root = tmp_path_factory.mktemp("memory")
    (root / "all").mkdir()
    for index in range(100):
        make_photo(24, 24 + index % 5, seed=index).save(root / "all" / f"{index}.jpg")
    (root / "all" / "bad.jpg").write_bytes(b"nothing")
    return root


def growth(batches: Iterator[Any], use: Callable[[Any], object]) -> float:
    """The resident set at its largest over BATCHES batches, over that after WARM_UP."""
    before = largest = 0
    for number, batch in enumerate(itertools.islice(batches, WARM_UP + BATCHES + 1)):
        use(batch)
        if number == WARM_UP:
            before = resident_pages()
        if number >= WARM_UP and number % 20 == 0:
            largest = max(largest, resident_pages())
    return largest / before


def test_a_thousand_steps_with_a_policy_the_stage_and_a_bad_file(photos: Path) -> None:
    loader = image_loader(
        photos, batch_size=2, image_size=16, policy="randaugment", with_matrices=True, device="cpu", num_threads=1,
        on_bad_file="replace",
    )  # fmt: skip
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    model.append(nn.Flatten()).append(nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    stage, replaced = SaliencyStage(KeepPaste(size=6)), 0

    def step(batch: Batch) -> None:
        nonlocal replaced
        inputs, targets = stage(model, batch.images, batch.labels, batch.augmented)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        replaced += len(batch.replaced)

    epochs = itertools.chain.from_iterable(itertools.repeat(loader))
    assert growth(epochs, step) < GROWTH
    assert replaced >= BATCHES // len(loader)  # the pipelines that die of a bad file leave nothing behind either


def test_the_measure_sees_growth() -> None:
    kept: list[mmap.mmap] = []

    def hold(_: None) -> None:  # new pages, not those that earlier tests have freed
        kept.append(mmap.mmap(-1, 200_000))
        kept[-1].write(bytes(200_000))

    assert growth(itertools.repeat(None), hold) > GROWTH
