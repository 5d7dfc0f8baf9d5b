"""The stage never waits for the device: held on the CPU by a guard on operators, and rehearsed on a fake GPU."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dali_salaug import (
    Augmented,
    Clean,
    CutMix,
    Cutout,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    RandomErasing,
    SaliencyCutout,
    SaliencyStage,
    saliency_map,
    selective_cut,
    selective_paste,
)
from dali_salaug.fine_grained import fine_grained_map
from dali_salaug.saliency import METHODS as MAPS

METHODS = [Clean(), Augmented(), Cutout(4), KeepCutout(4), KeepCutout(4, border="inside"), KeepPaste(4)]
METHODS += [RandomErasing(1.0), KeepRandomErasing(1.0), CutMix(5), KeepCutMix(5), SaliencyCutout(4)]


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[0, 0].item(),
        lambda x: bool(x[0, 0] > 0),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.masked_select(x, x > 0),
        lambda x: x.unique(),
    ],
)
def test_the_guard_sees_what_waits(no_waiting, wait):
    with pytest.raises(AssertionError, match="waits for the device"), no_waiting():
        wait(torch.randn(3, 3))


@pytest.mark.parametrize("target", ["label", "max", "loss"])
@pytest.mark.parametrize("scale", [0.5, 1.0])
@pytest.mark.parametrize("method", MAPS)
def test_the_saliency_pass(no_waiting, small_net, device, method, target, scale):
    def saliency():
        generator = torch.Generator(device).manual_seed(1)
        options = {"method": method, "target": target, "scale": scale, "samples": 2, "generator": generator}
        return saliency_map(small_net, images, labels, **options)

    small_net.to(device)
    images, labels = torch.randn(4, 3, 16, 16, device=device), torch.arange(4, device=device)
    expected = saliency()  # on a GPU the first call initialises libraries
    with no_waiting():
        got = saliency()
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_stage(no_waiting, small_net, device, method):
    small_net.to(device)
    images, labels = torch.randn(4, 3, 16, 16, device=device), torch.arange(4, device=device)
    stage = SaliencyStage(method)
    stage(small_net, images, labels, images + 1)
    with no_waiting():
        stage(small_net, images, labels, images + 1)


def test_the_compositing_and_the_map_without_a_model_on_a_fake_gpu():
    """Mixed devices and data-dependent shapes raise there; a copy to the host shows as an output on the CPU."""
    with FakeTensorMode():
        images = torch.empty(4, 3, 32, 24, device="cuda")
        saliency = torch.empty(4, 16, 12, device="cuda")
        results = [
            *selective_cut(images, saliency, 7),
            *selective_cut(images, saliency, 7, border="inside"),
            *selective_paste(images, images, saliency, 7),
            Cutout(5).draw(images, None, None).boxes,
            fine_grained_map(images),
        ]
        for method in METHODS:
            drawn = method.draw(images, saliency, None)
            labels = torch.zeros(4, dtype=torch.int64, device="cuda")
            results += [method.apply(images, drawn, images), method.targets(labels, drawn, (32, 24))]
            results += [part for part in drawn if part is not None]
    assert {result.device.type for result in results} == {"cuda"}


def test_cpu_and_gpu_choose_the_same_regions(small_net, device):
    images, labels = torch.randn(64, 3, 32, 32), torch.arange(64) % 5
    saliency = saliency_map(small_net, images, labels)
    uniforms = torch.rand(64, dtype=torch.float64)
    from dali_salaug.regions import draw_boxes

    options = {"border": "clip", "tau": 0.6, "keep": "low"}
    size = torch.tensor([[8, 8]])
    expected = draw_boxes((32, 32), size, uniforms, saliency=saliency, **options)
    got = draw_boxes((32, 32), size.to(device), uniforms.to(device), saliency=saliency.to(device), **options)
    assert torch.equal(got.cpu(), expected)
