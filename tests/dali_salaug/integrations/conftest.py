"""What the tests of the integrations share: a small data set, one thread, and loaders that count what they decode."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipelines import image_loader


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, make_photo: Callable[..., Any]) -> Path:
    """18 training images, which are five batches of four, and 6 validation images, in three classes."""
    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 18), ("val", 6)):
        for index in range(count):
            folder = root / split / ("ape", "bee", "cat")[index % 3]
            folder.mkdir(parents=True, exist_ok=True)
            make_photo(24, 24, seed=index).save(folder / f"{index:02}.jpg")
    return root


@pytest.fixture
def loader_of(photos: Path) -> Callable[..., Any]:
    """A loader of the photos, 16×16 pixels, in batches of four, with other options as given."""
    return lambda **options: image_loader(photos, **({"batch_size": 4, "image_size": 16, "num_threads": 1} | options))


@pytest.fixture
def small_model() -> Callable[[], nn.Module]:
    """Makes the same network each time, with BatchNorm and dropout, for three classes."""

    def make() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 3),
        )  # fmt: skip

    return make


def _same_weights(one: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.fixture(scope="session")
def assert_same_weights() -> Callable[[nn.Module, nn.Module], None]:
    return _same_weights
