"""torch.use_deterministic_algorithms(True): which operators would raise on a GPU, from PyTorch's list of them."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dali_salaug import METHODS, SaliencyConsistency, SaliencyMemory, saliency_map
from dali_salaug.regions import draw_boxes
from dali_salaug.saliency.maps import METHODS as MAPS

# Of torch.use_deterministic_algorithms, "will throw a RuntimeError", the operators below autograd.
RAISE = {
    "kthvalue", "median", "nanmedian", "put_", "histc", "bincount", "nll_loss2d_forward", "_ctc_loss_backward",
    "avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward",
    "adaptive_max_pool2d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward",
    "max_unpool2d", "max_unpool3d", "upsample_linear1d_backward", "upsample_bilinear2d_backward",
    "_upsample_bilinear2d_aa_backward", "upsample_bicubic2d_backward", "_upsample_bicubic2d_aa_backward",
    "upsample_trilinear3d_backward", "reflection_pad1d_backward", "reflection_pad2d_backward",
    "reflection_pad3d_backward", "replication_pad1d_backward", "replication_pad2d_backward",
    "replication_pad3d_backward", "grid_sampler_2d_backward", "grid_sampler_3d_backward",
}  # fmt: skip


class Raising(TorchDispatchMode):
    """Collects the names of operators that would raise."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split(".")[0].removeprefix("aten::")
        floating = name == "cumsum" and args[0].is_floating_point()  # raises in some versions
        if name in RAISE or floating:
            self.names.add(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # that of cuBLAS, without which its products raise
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_the_guard_sees_what_raises():
    with Raising() as raising:
        torch.rand(3, 4).kthvalue(2)
        torch.rand(3, 4).cumsum(1)
        torch.ones(3, 4).long().cumsum(1)
    assert raising.names == {"kthvalue", "cumsum"}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.usefixtures("deterministic")
def test_the_methods(device, name):
    method = METHODS[name].build(5, region_size=4)
    images, saliency = torch.randn(4, 3, 16, 16, device=device), torch.rand(4, 8, 8, device=device)
    with Raising() as raising:
        drawn = method.draw(images, saliency, torch.Generator(device))
        method.apply(images, drawn, images)
        method.targets(torch.arange(4, device=device), drawn, (16, 16))
    assert raising.names == set()


@pytest.mark.parametrize("keep", ["low", "high"])
def test_the_regions_are_the_same(device, keep):
    torch.manual_seed(0)
    sizes = torch.tensor([[5, 7], [3, 3], [12, 1]], device=device)
    for size in (sizes[:1], sizes):  # one number of candidates for all images, and one for each
        saliency, uniforms = torch.rand(3, 9, 10).to(device), torch.rand(3, dtype=torch.float64).to(device)
        boxes = [draw_boxes((18, 20), size, uniforms, border="inside", saliency=saliency, keep=keep)]
        torch.use_deterministic_algorithms(True)
        boxes += [draw_boxes((18, 20), size, uniforms, border="inside", saliency=saliency, keep=keep)]
        torch.use_deterministic_algorithms(False)
        assert torch.equal(*boxes)


@pytest.mark.parametrize("scale", [0.5, 1.0])
@pytest.mark.parametrize("method", MAPS)
@pytest.mark.usefixtures("deterministic")
def test_the_maps(small_net, device, method, scale):
    images, labels = torch.randn(4, 3, 16, 16, device=device), torch.arange(4, device=device)
    with Raising() as raising:
        saliency_map(small_net.to(device), images, labels, method=method, scale=scale, samples=2)
    assert raising.names == set()


@pytest.mark.usefixtures("deterministic")
def test_the_memory(device):
    memory = SaliencyMemory(6, grid=4, device=device)
    indices, views = torch.tensor([1, 3, 1], device=device), torch.eye(2, 3, device=device).expand(3, 2, 3)
    with Raising() as raising:
        memory.write(indices, views, torch.randn(3, 3, 16, 16, device=device))
        memory.read(indices, views, (8, 8))
    assert raising.names == set()


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_the_consistency_loss_but_for_the_way_back_through_a_moved_map(small_net, scale):
    """As its docstring says. On the CPU, where nothing raises."""
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    found = {}
    for matrices in (None, torch.eye(2, 3).expand(4, 2, 3)):
        with Raising() as raising:
            SaliencyConsistency(1, 1, 1, scale=scale)(
                small_net, images, images, labels, matrices=matrices
            ).total.backward()
        found[matrices is None] = raising.names
    assert found == {True: set(), False: {"grid_sampler_2d_backward"}}
