"""The stage never waits for the device: held on the CPU by a guard on operators, and rehearsed on a fake GPU."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dali_salaug import (
    AttentiveCutMix,
    Augmented,
    Clean,
    CutMix,
    Cutout,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    PuzzleMix,
    RandomErasing,
    ResizeMix,
    SaliencyCutout,
    SaliencyStage,
    SnapMix,
    saliency_map,
    selective_cut,
    selective_paste,
)
from dali_salaug.fine_grained import fine_grained_map
from dali_salaug.saliency import METHODS as MAPS

METHODS = [Clean(), Augmented(), Cutout(4), KeepCutout(4), KeepCutout(4, border="inside"), KeepPaste(4)]
METHODS += [RandomErasing(1.0), KeepRandomErasing(1.0), CutMix(5), KeepCutMix(5), SaliencyCutout(4)]
METHODS += [ResizeMix(5), AttentiveCutMix(5), SnapMix(5), PuzzleMix(5, blocks=(2, 4, 8))]


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
def test_the_saliency_pass(no_waiting, small_net, method, target, scale):
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    with no_waiting():
        saliency_map(small_net, images, labels, method=method, target=target, scale=scale, samples=2)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_stage(no_waiting, small_net, method):
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    stage = SaliencyStage(method)
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


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_stage_on_a_gpu(small_net, method):
    small_net.cuda()
    images, labels = torch.randn(4, 3, 16, 16, device="cuda"), torch.arange(4, device="cuda")
    stage = SaliencyStage(method)
    stage(small_net, images, labels, images + 1)  # the first call initialises libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        stage(small_net, images, labels, images + 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("method", MAPS)
def test_the_saliency_pass_on_a_gpu(small_net, method):
    small_net.cuda()
    images, labels = torch.randn(4, 3, 16, 16, device="cuda"), torch.arange(4, device="cuda")
    expected = saliency_map(small_net, images, labels, method=method, generator=torch.Generator("cuda").manual_seed(1))
    generator = torch.Generator("cuda").manual_seed(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = saliency_map(small_net, images, labels, method=method, generator=generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(got, expected)


@pytest.mark.gpu
def test_cpu_and_gpu_choose_the_same_regions(small_net):
    images, labels = torch.randn(64, 3, 32, 32), torch.arange(64) % 5
    saliency = saliency_map(small_net, images, labels)
    uniforms = torch.rand(64, dtype=torch.float64)
    from dali_salaug.regions import draw_boxes

    options = {"border": "clip", "tau": 0.6, "keep": "low"}
    expected = draw_boxes((32, 32), (8, 8), uniforms, saliency=saliency, **options)
    got = draw_boxes((32, 32), (8, 8), uniforms.cuda(), saliency=saliency.cuda(), **options)
    assert torch.equal(got.cpu(), expected)
