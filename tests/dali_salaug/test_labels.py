"""Labels outside of the classes are refused by every method that mixes them, without a wait for the device."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dali_salaug import METHODS, SaliencyStage
from dali_salaug.methods.mixing import MixingMethod

MIXING = [name for name, entry in METHODS.items() if entry.kind == "two images"]


def test_they_are_the_methods_with_soft_targets(small_net):
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    for name, entry in METHODS.items():
        _, targets = SaliencyStage(entry.build(5), warmup_epochs=0)(small_net, images, labels, images)
        assert (targets.ndim == 2) == (name in MIXING)


@pytest.mark.parametrize("target", ["label", "max"])
@pytest.mark.parametrize("label", [5, 7, -1, -100])
@pytest.mark.parametrize("name", MIXING)
def test_every_one_refuses(small_net, name, label, target):
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, label, 1, 2])
    stage = SaliencyStage(METHODS[name].build(5), target=target, warmup_epochs=0)
    with pytest.raises(ValueError, match=rf"labels must be in \[0, 5\), .*; got {label}$"):
        stage(small_net, images, labels)


@pytest.mark.parametrize("name", MIXING)
def test_legal_ones_give_targets_whose_rows_hold_all_the_mass(small_net, name, no_waiting):
    images, labels = torch.randn(5, 3, 16, 16), torch.arange(5)
    stage = SaliencyStage(METHODS[name].build(5), target="max", warmup_epochs=0)
    with no_waiting():
        _, targets = stage(small_net, images, labels)
    if name != "snapmix":  # its weights are shares of evidence, of two images
        torch.testing.assert_close(targets.sum(1), torch.ones(5))


def test_on_a_gpu_it_is_an_assertion_on_the_device():
    with FakeTensorMode():
        labels = torch.full((4,), 9, device="cuda")
        for entry in METHODS.values():
            method = entry.build(5)
            if isinstance(method, MixingMethod):
                drawn = method.draw(torch.empty(4, 3, 16, 16, device="cuda"), torch.empty(4, 8, 8, device="cuda"), None)
                assert method.targets(labels, drawn, (16, 16)).device.type == "cuda"
