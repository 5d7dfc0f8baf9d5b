"""The stage: what it composes of map, draw and compositing, its state, its errors."""

import pytest
import torch

from dali_salaug import (
    Augmented,
    Clean,
    Cutout,
    HybridMix,
    KeepCutout,
    KeepPaste,
    SalfMix,
    SaliencyStage,
    saliency_map,
    selective_cut,
    selective_paste,
)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 16, 16, generator=generator)
    augmented = torch.randn(4, 3, 16, 16, generator=generator)
    return images, torch.tensor([0, 1, 2, 3]), augmented


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_equals_map_then_method_by_hand(small_net, batch, scale):
    images, labels, augmented = batch
    saliency = saliency_map(small_net, images, labels, scale=scale)
    generator = torch.Generator().manual_seed(9)
    cut = selective_cut(images, saliency, 6, generator=generator)
    trace = SaliencyStage(KeepCutout(6), scale=scale, seed=9).trace(small_net, images, labels)
    for got, expected in zip((trace.inputs, trace.boxes, trace.saliency), (*cut, saliency), strict=True):
        assert torch.equal(got, expected)

    generator = torch.Generator().manual_seed(9)
    mixed, _ = selective_paste(images, augmented, saliency, 6, generator=generator)
    inputs, targets = SaliencyStage(KeepPaste(6), scale=scale, seed=9)(small_net, images, labels, augmented)
    assert torch.equal(inputs, mixed)
    assert torch.equal(targets, labels)


def test_the_trace_has_all_that_was_drawn(small_net, batch):
    """Partners and the first of two methods too: what is drawn and the images give the inputs and targets again."""
    images, labels, _ = batch
    method = HybridMix("saliencymix", 4, first=SalfMix(2, ratio=0.5))
    trace = SaliencyStage(method, warmup_epochs=0).trace(small_net, images, labels)
    assert torch.equal(method.apply(images, trace.drawn, None), trace.inputs)
    assert torch.equal(method.targets(labels, trace.drawn, (16, 16)), trace.targets)
    assert trace.boxes is trace.drawn.second.boxes


@pytest.mark.parametrize("saliency", ["smoothgrad", "guided", "deconvnet", "grad_cam", "fine_grained"])
def test_offers_every_saliency_method(small_net, batch, saliency):
    images, labels, _ = batch
    options = {"smoothgrad": {"samples": 3}, "grad_cam": {"layer": "features"}}.get(saliency, {})
    trace = SaliencyStage(KeepCutout(6), saliency=saliency, seed=9, **options).trace(small_net, images, labels)
    generator = torch.Generator().manual_seed(9)  # the map's noise comes first, then the draw of the regions
    expected = saliency_map(small_net, images, labels, method=saliency, generator=generator, **options)
    assert torch.equal(trace.saliency, expected)
    assert torch.equal(trace.boxes, selective_cut(images, expected, 6, generator=generator)[1])


def test_baselines_run_no_saliency_pass(small_net, batch):
    images, labels, augmented = batch
    small_net.register_forward_hook(lambda *_: pytest.fail("the model was called"))
    assert SaliencyStage(Clean())(small_net, images, labels)[0] is images
    assert SaliencyStage(Augmented())(small_net, images, labels, augmented)[0] is augmented
    assert SaliencyStage(Cutout(4)).trace(small_net, images, labels).saliency is None


def test_inputs_are_detached_and_nothing_is_written_to(small_net, batch):
    copies = [t.clone() for t in batch]
    images, labels, augmented = batch
    images.requires_grad_()
    for method in (KeepPaste(5), KeepCutout(5), Cutout(5)):
        inputs, _ = SaliencyStage(method)(small_net, images, labels, augmented)
        assert not inputs.requires_grad
    for tensor, copied in zip(batch, copies, strict=True):
        assert torch.equal(tensor, copied)


def test_state_restores_the_draws_that_come_next(small_net, batch):
    stage = SaliencyStage(KeepPaste(6), seed=1)
    stage.set_epoch(3)
    images, labels, augmented = batch
    stage(small_net, *batch)
    state = stage.state_dict()
    expected = [stage.trace(small_net, images, labels, augmented).boxes for _ in range(3)]
    restored = SaliencyStage(KeepPaste(6), seed=99)
    restored.load_state_dict(state)
    assert [a.tolist() for a in expected] == [
        restored.trace(small_net, images, labels, augmented).boxes.tolist() for _ in range(3)
    ]
    untouched = SaliencyStage(KeepPaste(6))
    untouched.load_state_dict(state)
    again = untouched.state_dict()  # before any call
    assert again["epoch"] == 3
    assert torch.equal(again["generator"], state["generator"])
    fresh = SaliencyStage(KeepPaste(6), seed=1)
    fresh.load_state_dict(SaliencyStage(KeepPaste(6), seed=1).state_dict())  # of a stage that was never called
    assert torch.equal(
        fresh.trace(small_net, *batch).boxes, SaliencyStage(KeepPaste(6), seed=1).trace(small_net, *batch).boxes
    )


def test_the_seed_decides_and_the_global_generator_does_not(small_net, batch):
    def boxes(seed):
        torch.rand(1)
        state = torch.get_rng_state()
        result = SaliencyStage(KeepCutout(4), seed=seed).trace(small_net, *batch).boxes
        assert torch.equal(state, torch.get_rng_state())
        return result

    assert torch.equal(boxes(1), boxes(1))
    assert not torch.equal(boxes(1), boxes(2))


def test_warm_up_hands_the_images_on(small_net, batch):
    images, labels, augmented = batch
    stage = SaliencyStage(KeepPaste(6), warmup_epochs=2)
    with pytest.raises(ValueError, match="set_epoch must be called"):
        stage(small_net, images, labels, augmented)
    for epoch, off in enumerate([True, True, False]):
        stage.set_epoch(epoch)
        assert (stage(small_net, images, labels, augmented)[0] is images) == off
    stage.set_epoch(1)
    resumed = SaliencyStage(KeepPaste(6), warmup_epochs=2)
    resumed.load_state_dict(stage.state_dict())
    assert resumed(small_net, images, labels, augmented)[0] is images


def test_warm_up_is_by_default_the_methods_own(small_net, batch):
    images, labels, _ = batch
    for method in (SalfMix(), HybridMix("cutmix", 5)):
        stage = SaliencyStage(method)
        for epoch, off in enumerate([True, False]):
            stage.set_epoch(epoch)
            assert (stage(small_net, images, labels)[0] is images) == off
        assert SaliencyStage(method, warmup_epochs=0)(small_net, images, labels)[0] is not images
    assert SaliencyStage(SalfMix(use_saliency=False))(small_net, images, labels)[0] is not images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "keep_cutout"}, "method must be a dali_salaug Method"),
        ({"scale": 0.0}, "scale must be"),
        ({"saliency": "magic"}, "saliency must be one of 'gradient', 'smoothgrad', .*; got 'magic'"),
        ({"saliency": "smoothgrad", "samples": 0}, "samples must be"),
        ({"target": "logit"}, "target must be one of"),
        ({"warmup_epochs": -1}, "warmup_epochs must be"),
        ({"warmup_epochs": 0.5}, "warmup_epochs must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": True}, r"seed must be a whole number in \[0, 2\*\*63\); got True"),
        ({"scale": True}, "scale must be a number in .*; got True"),
    ],
)
def test_bad_options_are_refused_when_constructed(options, message):
    with pytest.raises(ValueError, match=message):
        SaliencyStage(**{"method": KeepCutout(), **options})


def test_a_generator_is_refused_when_constructed(device):
    with pytest.raises(TypeError, match="unexpected keyword argument 'generator'"):
        SaliencyStage(KeepCutout(), saliency="smoothgrad", generator=torch.Generator(device))


def test_bad_batches_are_refused(small_net, batch):
    images, labels, augmented = batch
    with pytest.raises(ValueError, match="augmented must be given for KeepPaste"):
        SaliencyStage(KeepPaste(4))(small_net, images, labels)
    with pytest.raises(ValueError, match="augmented must be given for Augmented"):
        SaliencyStage(Augmented())(small_net, images, labels)
    with pytest.raises(ValueError, match="augmented must be like images"):
        SaliencyStage(KeepPaste(4))(small_net, images, labels, augmented[:2])
    with pytest.raises(ValueError, match="labels must be an int64 tensor"):
        SaliencyStage(KeepCutout(4))(small_net, images, labels[:, None])
    with pytest.raises(ValueError, match="got a region of 20×20"):
        SaliencyStage(KeepCutout(20))(small_net, images, labels)
    with pytest.raises(ValueError, match="state must have the keys"):
        SaliencyStage(KeepCutout(4)).load_state_dict({"epoch": 1})
    with pytest.raises(ValueError, match=r"augmented must be like images \(float32 .*\); got a tuple of 2$"):
        SaliencyStage(KeepPaste(4))(small_net, images, labels, (augmented, augmented))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "state must have the keys 'epoch' and 'generator'; got NoneType"),
        ({"epoch": "1", "generator": None}, "epoch of the state must be a whole number, 0 or more; got '1'"),
        ({"epoch": -1, "generator": None}, "epoch of the state must be a whole number, 0 or more; got -1"),
        ({"epoch": 1, "generator": [0]}, "generator of the state must be None or a uint8 tensor; got list"),
    ],
)
def test_a_state_of_another_form_changes_nothing(state, message):
    stage = SaliencyStage(KeepCutout(4))
    stage.set_epoch(3)
    with pytest.raises(ValueError, match=message):
        stage.load_state_dict(state)
    with pytest.raises(ValueError, match=r"epoch must be a whole number, 0 or more; got 2\.5"):
        stage.set_epoch(2.5)
    assert stage.state_dict() == {"epoch": 3, "generator": None}
