"""What all tests share: the GPU marker and the place of the real data."""

import os
from collections.abc import Callable
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
def real_data() -> Callable[[str], Path]:
    """The folder of a real data set by its name; a test on one that is not there is skipped."""

    def folder(name: str) -> Path:
        root = os.environ.get("DALI_SALAUG_DATA")
        if not root or not (Path(root) / name).is_dir():
            pytest.skip(f"needs real data: DALI_SALAUG_DATA names no folder with {name}/")
        return Path(root) / name

    return folder
