"""Small models, the device, and two processes."""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    """A test that takes it runs on both, so that what is said of a GPU is rehearsed where there is none."""
    return request.param


@pytest.fixture
def inductor(device) -> Iterator[str]:
    """The same, for a test of torch.compile, which needs a compiler on the CPU."""
    if device == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("torch.compile needs a C++ compiler (g++, or what CXX names)")
    torch._dynamo.reset()
    # In this process: the start of processes that compile would take longer than the few kernels.
    with importlib.import_module("torch._inductor.config").patch(compile_threads=1):
        yield device


@pytest.fixture
def fake_gpu() -> None:
    """For a test of tensors without data on a GPU."""
    if torch.__version__ < "2.9" and not torch.cuda.is_available():
        pytest.skip(f"the fake tensors of torch {torch.__version__} need a driver")


@pytest.fixture
def in_two_processes(tmp_path):
    """A function that runs a program in two processes; its arguments are the rank and a file where they meet."""

    def run(program: str) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(rank), str(tmp_path / "meet")],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in (0, 1)
        ]
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors

    return run


class SmallNet(nn.Module):
    """Convolutions, BatchNorm, dropout, global pooling: what a pass could disturb."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8)
        )
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(8, classes)

    def forward(self, x):
        x = self.features(x).relu().mean((2, 3))
        return self.classifier(self.dropout(x))


@pytest.fixture
def small_net() -> SmallNet:
    torch.manual_seed(0)
    net = SmallNet()
    for _ in range(3):  # running statistics other than the initial ones
        net(torch.randn(16, 3, 16, 16) * 2 + 1)
    return net
