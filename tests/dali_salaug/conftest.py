"""A guard against waiting for the device, and small models."""

import os
import shutil

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_READS_BACK = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_consecutive",
    "aten::unique_dim",
    "aten::bincount",
    "aten::histogram",
}


class NoWaiting(TorchDispatchMode):
    """Fails on any operator that, on a GPU, reads a value back or makes a shape that depends on values.

    Where there is a GPU, CUDA's own guard is set too.
    """

    def __enter__(self):
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("error")
        return super().__enter__()

    def __exit__(self, *error):
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("default")
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split(".")[0]
        if name in _READS_BACK:
            raise AssertionError(f"{name} waits for the device")
        masks = args[1] if name in ("aten::index", "aten::index_put", "aten::index_put_") else []
        if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in masks):
            raise AssertionError(f"{name} with a boolean mask waits for the device")
        if name == "aten::repeat_interleave" and (kwargs or {}).get("output_size") is None:
            raise AssertionError(f"{name} without output_size waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.fixture
def no_waiting():
    return NoWaiting


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    """A test that takes it runs on both, so that what is said of a GPU is rehearsed where there is none."""
    return request.param


@pytest.fixture
def inductor(device) -> str:
    """The same, for a test of torch.compile, which needs a compiler on the CPU."""
    if device == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("torch.compile needs a C++ compiler (g++, or what CXX names)")
    torch._dynamo.reset()
    return device


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
