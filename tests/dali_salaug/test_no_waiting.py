"""The stage never waits for the device: held on the CPU by a guard on operators, and rehearsed on a fake GPU.

And what else holds of every method: it resumes exactly, and leaves images and their memory format as they were.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dali_salaug import (
    METHODS,
    Cutout,
    KeepCutout,
    KeepRandomErasing,
    Mixup,
    RandomErasing,
    SaliencyStage,
    SnapMix,
    saliency_map,
    selective_cut,
    selective_paste,
)
from dali_salaug.methods.hybridmix import HybridMixDraw
from dali_salaug.regions import draw_boxes
from dali_salaug.saliency.fine_grained import fine_grained_map
from dali_salaug.saliency.maps import METHODS as MAPS

# Every registered method with its own map, and what the registry does not build.
CASES = [
    (entry.build(5, region_size=4), {"saliency": entry.saliency, "target": entry.target, "scale": entry.scale})
    for entry in METHODS.values()
    if entry.policy in (None, "randaugment")  # of the others the stage sees the same
]
CASES += [
    (method, {})
    for method in (
        KeepCutout(4, border="inside"),
        RandomErasing(1.0),
        KeepRandomErasing(1.0),
        Mixup(5, alpha=0.5, partners="replacement"),
    )
]
every_method = pytest.mark.parametrize(("method", "options"), CASES, ids=[repr(method) for method, _ in CASES])


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


@every_method
def test_the_stage(no_waiting, small_net, device, method, options):
    small_net.to(device)
    images, labels = torch.randn(4, 3, 16, 16, device=device), torch.arange(4, device=device)
    stage = SaliencyStage(method, warmup_epochs=0, **options)
    stage(small_net, images, labels, images + 1)
    with no_waiting():
        stage(small_net, images, labels, images + 1)


@every_method
def test_it_resumes_exactly(small_net, method, options):
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    stage = SaliencyStage(method, warmup_epochs=0, seed=1, **options)
    stage(small_net, images, labels, images + 1)
    state = stage.state_dict()
    expected = [stage(small_net, images, labels, images + 1) for _ in range(3)]
    restored = SaliencyStage(method, warmup_epochs=0, seed=2, **options)
    restored.load_state_dict(state)
    for inputs, targets in expected:
        got = restored(small_net, images, labels, images + 1)
        assert torch.equal(got[0], inputs)
        assert torch.equal(got[1], targets)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@every_method
def test_it_keeps_the_memory_format_and_leaves_its_arguments_alone(small_net, method, options, layout):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 16, 24, generator=generator).to(memory_format=layout)
    augmented = torch.randn(4, 3, 16, 24, generator=generator).to(memory_format=layout)
    copies, labels = (images.clone(), augmented.clone()), torch.tensor([0, 1, 2, 3])
    inputs, targets = SaliencyStage(method, warmup_epochs=0, **options)(
        small_net, images.requires_grad_(), labels, augmented
    )
    assert inputs.shape == images.shape
    assert inputs.is_contiguous(memory_format=layout)
    assert torch.equal(images, copies[0])
    assert torch.equal(augmented, copies[1])
    assert images.grad is None
    assert labels.tolist() == [0, 1, 2, 3]
    assert inputs.grad_fn is None
    if targets.ndim == 2 and not isinstance(method, SnapMix):  # its weights are shares of evidence, of two images
        torch.testing.assert_close(targets.sum(1), torch.ones(4))


@pytest.mark.usefixtures("fake_gpu")
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
        for method, _ in CASES:
            drawn = method.draw(images, saliency, None)
            labels = torch.zeros(4, dtype=torch.int64, device="cuda")
            results += [method.apply(images, drawn, images), method.targets(labels, drawn, (32, 24))]
            draws = vars(drawn).values() if isinstance(drawn, HybridMixDraw) else [drawn]
            results += [part for draw in draws for part in vars(draw).values()]
    assert {result.device.type for result in results} == {"cuda"}


def test_cpu_and_gpu_choose_the_same_regions(small_net, device):
    images, labels = torch.randn(64, 3, 32, 32), torch.arange(64) % 5
    saliency = saliency_map(small_net, images, labels)
    uniforms = torch.rand(64, dtype=torch.float64)
    options = {"border": "clip", "tau": 0.6, "keep": "low"}
    size = torch.tensor([[8, 8]])
    expected = draw_boxes((32, 32), size, uniforms, saliency=saliency, **options)
    got = draw_boxes((32, 32), size.to(device), uniforms.to(device), saliency=saliency.to(device), **options)
    assert torch.equal(got.cpu(), expected)
