"""What all tests share: the GPU marker and the place of the real data."""

import os
from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU; torch.cuda.is_available() is False"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests on them are skipped where it is not given."""
    folder = os.environ.get("DALI_SALAUG_DATA")
    if not folder:
        pytest.skip("needs real data: DALI_SALAUG_DATA names no folder with imagenet-samples/, tiny-imagenet-20/, ...")
    return Path(folder)
