"""What the host launches on a GPU, counted on the CPU: a budget for each method, each map and the consistency loss.

A launch is an operator of ATen, below autograd and composite operators, that computes: not one that allocates, makes a
view, or reads shapes and dtypes. A few launch two kernels or more (sort, cumsum, a foreach over many tensors), but the
host's time, some microseconds each, follows their number, which does not depend on the batch.
"""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torchvision.models import resnet50

from dali_salaug import METHODS, SaliencyConsistency, WithEarlyHead, saliency_map
from dali_salaug.methods import puzzlemix

FREE = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias", "lift_fresh",
    "_unsafe_view", "promote_types", "result_type",
}  # fmt: skip

# For each name, draw, application and targets; of 224×224 pixels and 10 classes. With some to spare, for versions of
# torch that take an operator apart differently.
BUDGETS = {
    "none": 0,
    "cutout": 25,
    "keep_cutout": 75,
    "drop_cutout": 75,
    "saliency_cutout": 45,
    "random_erasing": 60,
    "keep_random_erasing": 135,
    "hide_and_seek": 30,
    "gridmask": 45,
    "fencemask": 50,
    "salfmix": 50,
    "salfmix_random": 50,
    "cutmix": 55,
    "keep_cutmix": 120,
    "mixup": 25,
    "saliencymix": 115,
    "resizemix": 95,
    "attentive_cutmix": 40,
    "snapmix": 200,
    "puzzlemix": 50,
    "hybridmix_v1": 80,
    "hybridmix_v2": 170,
    "hybridmix_v3": 110,
    "autoaugment": 0,
    "keep_autoaugment": 70,
    "randaugment": 0,
    "keep_randaugment": 70,
    "trivialaugment": 0,
    "keep_trivialaugment": 70,
    "augmix": 0,
    "keep_augmix": 70,
}


class Launches(TorchDispatchMode):
    """Counts launches."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    @property
    def count(self):
        return self.names.total()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").split(".")[0]
        if not func.is_view and name not in FREE:
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


def test_views_and_memory_are_not_counted():
    with Launches() as launches:
        x = torch.empty(4, 3).to(torch.float32).view(3, 4)[1:].T.unbind(1)[0].detach()
    assert launches.count == 0
    with Launches() as launches:
        F.softmax(x + 1, 0).contiguous()
        torch._foreach_add([x, x, x], 1.0)
    assert launches.names == {"add": 1, "_softmax": 1, "_foreach_add": 1}


@pytest.fixture
def graphs_of_puzzlemix(monkeypatch):
    """Its solution as on a GPU: copies into the graph, the replay, copies of the results."""
    monkeypatch.setattr(puzzlemix, "may_capture", lambda inputs: True)

    def replayed(self, function, inputs, *, key):
        for x in inputs:
            x.clone()
        torch.zeros(1)
        with _disable_current_modes():
            results = function(*inputs)
        return tuple(result.clone() for result in results)

    monkeypatch.setattr(puzzlemix.CudaGraphs, "__call__", replayed)


def launches_of(method, side=224):
    images, saliency = torch.randn(2, 3, side, side), torch.rand(2, side // 2, side // 2)
    labels = torch.arange(2)
    with Launches() as launches, torch.no_grad():
        drawn = method.draw(images, saliency, torch.Generator())
        method.apply(images, drawn, images)
        method.targets(labels, drawn, (side, side))
    return launches


@pytest.mark.usefixtures("graphs_of_puzzlemix")
@pytest.mark.parametrize("name", METHODS)
def test_a_method_keeps_to_its_budget(name):
    launches = launches_of(METHODS[name].build(10))
    assert launches.count <= BUDGETS[name], launches.names


def test_the_graph_of_puzzlemix_keeps_to_a_budget_too():
    """A kernel in a graph costs the host nothing, and the GPU still some microseconds."""
    assert launches_of(METHODS["puzzlemix"].build(10)).count < 2700


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return resnet50(num_classes=10).to(memory_format=torch.channels_last)


# Under autocast to bfloat16; a forward and backward pass of the training step itself launches 700.
MAPS = {
    "full": (340, {"scale": 1.0}),
    "half": (340, {"scale": 0.5}),
    "full, early head": (115, {"scale": 1.0, "head": "layer1"}),
    "half, early head": (110, {"scale": 0.5, "head": "layer1"}),
    "Grad-CAM": (265, {"scale": 1.0, "method": "grad_cam", "layer": "layer4"}),
    "guided": (480, {"scale": 0.5, "method": "guided"}),
    "fine-grained": (70, {"scale": 1.0, "method": "fine_grained"}),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_map_keeps_to_its_budget(network, name):
    budget, options = MAPS[name]
    images = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    if "head" in options:
        options = options | {"head": WithEarlyHead(network, 10, options["head"]).early}
    saliency_map(network, images, torch.arange(2), **options)  # the first map of a network looks at it too
    with torch.autocast("cpu", torch.bfloat16), Launches() as launches:
        saliency_map(network, images, torch.arange(2), **options)
    assert launches.count <= budget, launches.names


def test_the_consistency_loss_keeps_to_its_budget(network):
    """Its forward pass, maps, and the backward pass of both."""
    images, labels = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last), torch.arange(2)
    matrices = torch.tensor([[-1.0, 0, 64], [0, 1, 0]]).expand(2, 2, 3)
    with torch.autocast("cpu", torch.bfloat16), Launches() as launches:
        SaliencyConsistency(1, 1, 1)(network, images, images.flip(3), labels, matrices=matrices).total.backward()
    assert launches.count <= 2700, launches.names
