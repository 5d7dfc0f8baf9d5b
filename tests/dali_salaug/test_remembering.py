"""The stage with a memory: what it draws from, and what the user's backward pass writes, and what it does not."""

import pytest
import torch
import torch.nn.functional as F

from dali_salaug import (
    METHODS,
    Cutout,
    KeepCutout,
    KeepPaste,
    SalfMix,
    SaliencyMemory,
    SaliencyStage,
    saliency_map,
    selective_cut,
)
from dali_salaug.remembering import PATIENCE

WHOLE = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
LABELS = torch.arange(4)
INDICES = torch.tensor([8, 3, 0, 5])
MIRRORED = torch.tensor([[[-1.0, 0, 1], [0, 1, 0]]])
VIEWS = torch.cat([WHOLE, WHOLE, WHOLE * 1.5 - 0.1, MIRRORED])
METHODS_WITH_MAPS = [
    entry for entry in METHODS.values() if entry.policy in (None, "randaugment") and entry.build(5).uses_saliency
]
with_maps = pytest.mark.parametrize("entry", METHODS_WITH_MAPS, ids=[entry.name for entry in METHODS_WITH_MAPS])


def remembering(method, **options):
    memory = SaliencyMemory(9, grid=4, dtype="float16")
    return SaliencyStage(method, saliency="memory", memory=memory, warmup_epochs=0, **options), memory


def batch(size=16):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(4, 3, size, size, generator=generator), torch.randn(4, 3, size, size, generator=generator)


def loss_of(net, inputs, targets):
    return F.cross_entropy(net(inputs), targets)


@pytest.mark.parametrize("name", [entry.name for entry in METHODS.values() if entry.policy in (None, "randaugment")])
def test_own_pixels_are_the_diagonal_of_the_composition(name):
    """By the derivative of each input pixel with respect to the clean image's pixel of the same place."""
    method = METHODS[name].build(5, region_size=3)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64, generator=generator)
    augmented = torch.randn(3, 1, 8, 8, dtype=torch.float64, generator=generator)
    drawn = method.draw(images, torch.rand(3, 8, 8, generator=generator), generator)
    own = method.own_pixels(drawn, (8, 8))
    own = torch.ones(3, 8, 8) if own is None and not method.uses_augmented else own
    expected = torch.zeros(3, 64)
    for i in range(3):

        def input_of(pixels, i=i):
            parts = [*images[:i], pixels.view(1, 8, 8), *images[i + 1 :]]
            return method.apply(torch.stack(parts), drawn, augmented)[i].flatten()

        expected[i] = torch.autograd.functional.jacobian(input_of, images[i].flatten()).diagonal()
    partners = getattr(getattr(drawn, "second", drawn), "partners", None)
    if partners is not None:  # of one that met itself more is its own than is told
        strangers = partners != torch.arange(3)
        own, expected = own[strangers], expected[strangers]
    if own is None:  # the augmented images as they are
        assert not expected.any()
    else:
        torch.testing.assert_close(own.flatten(1), expected, atol=1e-6, rtol=0)


@with_maps
def test_the_backward_pass_writes_the_own_pixels_of_every_method(small_net, entry):
    images, augmented = batch()
    stage, memory = remembering(entry.build(5, region_size=6))
    trace = stage.trace(small_net, images, LABELS, augmented, indices=INDICES, views=VIEWS)
    assert trace.inputs.requires_grad
    assert trace.inputs.is_leaf
    assert memory.ages(INDICES).tolist() == [-1] * 4
    loss_of(small_net, trace.inputs, trace.targets).backward()

    expected = SaliencyMemory(9, grid=4, dtype="float16")
    expected.write(INDICES, VIEWS, trace.inputs.grad, stage.method.own_pixels(trace.drawn, (16, 16)))
    assert torch.equal(memory.read(INDICES, VIEWS), expected.read(INDICES, VIEWS))
    assert memory.ages(INDICES).tolist() == [0] * 4


@with_maps
def test_every_method_draws_from_the_remembered_maps(small_net, entry):
    """As by a draw from what `read` returns; before there is anything, from a flat map."""
    images, augmented = batch()
    method = entry.build(5, region_size=6)
    stage, memory = remembering(method, seed=4)
    generator = torch.Generator().manual_seed(4)
    for _ in range(2):
        maps = memory.read(INDICES, VIEWS, (8, 8))
        drawn = method.draw(images, maps, generator)
        trace = stage.trace(small_net, images, LABELS, augmented, indices=INDICES, views=VIEWS)
        assert torch.equal(trace.saliency, maps)
        assert torch.equal(trace.inputs, method.apply(images, drawn, augmented))
        memory.write(INDICES, VIEWS, torch.rand(4, 3, 16, 16))
    assert not (maps == 1).all()


def test_without_a_map_keep_cutout_is_cutout(small_net):
    images, _ = batch()
    stage, _ = remembering(KeepCutout(6), seed=2)
    inputs, _ = stage(small_net, images, LABELS, indices=INDICES, views=VIEWS)
    cut, _ = selective_cut(images, torch.ones(4, 8, 8), 6, generator=torch.Generator().manual_seed(2))
    assert torch.equal(inputs, cut)


def step(net, stage, scale=1.0, parts=1):
    images, augmented = batch()
    inputs, targets = stage(net, images, LABELS, augmented, indices=INDICES, views=VIEWS)
    for part, wanted in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
        (loss_of(net, part, wanted) * scale).backward()


def test_the_scale_of_the_loss_does_not_matter(small_net):
    codes = []
    for scale in (1.0, 2.0**14):
        torch.manual_seed(0)
        stage, memory = remembering(KeepCutout(6))
        step(small_net, stage, scale)
        codes.append(memory.state_dict()["maps"])
    assert torch.equal(*codes)


def test_a_batch_whose_inputs_are_split_is_written_once_for_each_image(small_net):
    stage, memory = remembering(KeepCutout(6))
    step(small_net.eval(), stage, parts=2)
    whole, expected = remembering(KeepCutout(6))
    step(small_net, whole)
    torch.testing.assert_close(memory.read(INDICES, VIEWS), expected.read(INDICES, VIEWS), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_step_that_is_not_finite_is_not_remembered(small_net, value):
    stage, memory = remembering(KeepCutout(6))
    step(small_net, stage, value)
    assert memory.ages(INDICES).tolist() == [-1] * 4


def test_autocast(small_net):
    stage, memory = remembering(KeepCutout(6))
    with torch.autocast("cpu", torch.bfloat16):
        step(small_net.eval(), stage)
    plain, expected = remembering(KeepCutout(6))
    step(small_net, plain)
    got, wanted = memory.read(INDICES, VIEWS).flatten(), expected.read(INDICES, VIEWS).flatten()
    assert torch.corrcoef(torch.stack([got, wanted]))[0, 1] > 0.95


@pytest.mark.usefixtures("inductor")
def test_a_compiled_model(small_net):
    stage, memory = remembering(KeepCutout(6))
    step(torch.compile(small_net.eval()), stage)
    plain, expected = remembering(KeepCutout(6))
    step(small_net, plain)
    torch.testing.assert_close(memory.read(INDICES, VIEWS), expected.read(INDICES, VIEWS), rtol=1e-2, atol=1e-2)


def test_what_a_policy_moved_is_carried_back_by_its_matrix(small_net):
    """The augmented images are the clean ones, moved 3 pixels to the right."""
    images, _ = batch()
    moved = images.roll(3, 3)
    matrices = torch.tensor([[1.0, 0, 3], [0, 1, 0]]).expand(4, 2, 3)
    stage, memory = remembering(KeepPaste(4))
    trace = stage.trace(small_net, images, LABELS, moved, indices=INDICES, views=VIEWS, matrices=matrices)
    loss_of(small_net, trace.inputs, trace.targets).backward()
    saliency, own = trace.inputs.grad.abs().amax(1), stage.method.own_pixels(trace.drawn, (16, 16))
    total, weights = torch.zeros(4, 16, 16), torch.zeros(4, 16, 16)
    for i in range(4):
        for y in range(16):
            for x in range(16):
                parts = [(saliency[i, y, x], own[i, y, x])]
                if x + 3 < 16:
                    parts.append((saliency[i, y, x + 3], 1 - own[i, y, x + 3]))
                weights[i, y, x] = sum(weight for _, weight in parts)
                total[i, y, x] = sum(value * weight for value, weight in parts)
    expected = SaliencyMemory(9, grid=4, dtype="float16")
    expected.write(INDICES, VIEWS, (total / weights.clamp(min=1e-6))[:, None], weights.clamp(max=1))
    torch.testing.assert_close(memory.read(INDICES, VIEWS), expected.read(INDICES, VIEWS), rtol=2e-3, atol=2e-3)


def test_in_warm_up_the_clean_images_are_remembered(small_net):
    images, _ = batch()
    memory = SaliencyMemory(9)
    stage = SaliencyStage(SalfMix(4), saliency="memory", memory=memory)
    stage.set_epoch(0)
    inputs, _ = stage(small_net, images, LABELS, indices=INDICES, views=VIEWS)
    assert torch.equal(inputs, images)
    loss_of(small_net, inputs, LABELS).backward()
    expected = SaliencyMemory(9)
    expected.write(INDICES, VIEWS, inputs.grad)
    assert torch.equal(memory.read(INDICES, VIEWS), expected.read(INDICES, VIEWS))


def test_it_resumes_exactly(small_net):
    stage, _ = remembering(KeepCutout(6), seed=1)
    small_net.eval()
    stage.set_epoch(2)
    step(small_net, stage)
    state = stage.state_dict()
    images, _ = batch()

    def next_two(stage):
        for _ in range(2):
            inputs, _ = stage(small_net, images, LABELS, indices=INDICES, views=VIEWS)
            loss_of(small_net, inputs, LABELS).backward()
            yield inputs

    expected = list(next_two(stage))
    restored, memory = remembering(KeepCutout(6), seed=5)
    restored.load_state_dict(state)
    assert all(torch.equal(*pair) for pair in zip(next_two(restored), expected, strict=True))
    assert memory.ages(INDICES).tolist() == [0] * 4
    assert memory.epoch == 2


def test_nothing_is_asked_of_a_gradient_that_nobody_computes(small_net):
    images, _ = batch()
    stage, _ = remembering(KeepCutout(6))
    with torch.no_grad():
        inputs, _ = stage(small_net, images, LABELS, indices=INDICES, views=VIEWS)
    assert not inputs.requires_grad


@with_maps
def test_it_does_not_wait(no_waiting, small_net, entry, device):
    small_net.to(device)
    images, augmented = (images.to(device) for images in batch())
    labels, indices, views = LABELS.to(device), INDICES.to(device), VIEWS.to(device)
    stage, memory = remembering(entry.build(5, region_size=6))
    stage(small_net, images, labels, augmented, indices=indices, views=views)
    assert memory.device == images.device
    with no_waiting():
        inputs, targets = stage(
            small_net, images, labels, augmented, indices=indices, views=views, matrices=views.float()
        )
        loss_of(small_net, inputs, targets).backward()
        layered, _ = remembering(entry.build(5, region_size=6), layer="first")
    layered(small_net, images, labels, augmented, indices=indices, views=views)
    with no_waiting():
        inputs, targets = layered(small_net, images, labels, augmented, indices=indices, views=views)
        loss_of(small_net, inputs, targets).backward()


def test_arguments_are_checked(small_net):
    images, _ = batch()
    stage, memory = remembering(KeepCutout(6))
    for missing, given in (("indices", {"views": VIEWS}), ("views", {"indices": INDICES})):
        with pytest.raises(ValueError, match=rf"{missing} must be given where saliency is 'memory'.*with_views=True"):
            stage(small_net, images, LABELS, **given)
    with pytest.raises(ValueError, match=r"indices must be an int64 tensor \(4,\)"):
        stage(small_net, images, LABELS, indices=INDICES[:3], views=VIEWS[:3])
    with pytest.raises(ValueError, match="memory must be a SaliencyMemory where saliency is 'memory'; got None"):
        SaliencyStage(KeepCutout(6), saliency="memory")
    with pytest.raises(ValueError, match="memory must be None, or saliency 'memory'"):
        SaliencyStage(KeepCutout(6), memory=memory)
    with pytest.raises(ValueError, match="method must be one that uses saliency maps"):
        SaliencyStage(Cutout(6), saliency="memory", memory=memory)
    with pytest.raises(ValueError, match="head must not be given where saliency is 'memory'"):
        SaliencyStage(KeepCutout(6), saliency="memory", memory=memory, head=small_net)
    with pytest.raises(ValueError, match="state must have the keys 'epoch' and 'generator' and 'memory'"):
        stage.load_state_dict({"epoch": 1, "generator": None})


def strided_net():
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, stride=2, padding=1), torch.nn.ReLU(inplace=True), torch.nn.Conv2d(6, 5, 3),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
    )  # fmt: skip


@pytest.mark.parametrize("layer", ["first", "0"])
@pytest.mark.parametrize("warm_up", [False, True])
def test_the_gradient_of_a_layer_is_remembered_in_place_of_the_inputs(layer, warm_up):
    net, (images, _) = strided_net(), batch()
    stage, memory = remembering(KeepCutout(6), layer=layer)
    stage.warmup_epochs = int(warm_up)
    stage.set_epoch(0)
    trace = stage.trace(net, images, LABELS, indices=INDICES, views=VIEWS)
    assert not trace.inputs.requires_grad
    with torch.no_grad():
        net(images)  # a validation pass, which does not count
    saliency_map(net, images, LABELS)  # nor one that only observes
    assert len(net[0]._forward_hooks) == 1
    loss_of(net, trace.inputs, trace.targets).backward()
    assert len(net[0]._forward_hooks) == 0
    output = net[0](trace.inputs).detach().requires_grad_()
    loss_of(net[1:], output.clone(), trace.targets).backward()
    total = torch.zeros(4, 1, 16, 16)
    for y in range(16):
        for x in range(16):
            total[:, 0, y, x] = sum(output.grad[:, channel, y // 2, x // 2].abs() for channel in range(6))
    expected = SaliencyMemory(9, grid=4, dtype="float16")
    expected.write(INDICES, VIEWS, total, stage.method.own_pixels(trace.drawn, (16, 16)))
    torch.testing.assert_close(memory.read(INDICES, VIEWS), expected.read(INDICES, VIEWS), rtol=2e-3, atol=2e-3)


def test_a_layer_that_cannot_be_listened_to():
    net, (images, _) = strided_net(), batch()
    given = {"indices": INDICES, "views": VIEWS}
    stage, memory = remembering(KeepCutout(6), layer="first")
    for _ in range(PATIENCE):  # the model that is trained is another one
        stage(net, images, LABELS, **given)
        assert len(net[0]._forward_hooks) == 1
    with pytest.raises(ValueError, match="in the last 8 batches it has not been called"):
        stage(net, images, LABELS, **given)
    with pytest.raises(ValueError, match="layer must be None for a compiled model"):
        stage(torch.compile(net), images, LABELS, **given)
    with pytest.raises(ValueError, match="without a convolution; got 'first'"):
        stage(torch.nn.Flatten(), images, LABELS, **given)
    with pytest.raises(
        ValueError, match=r"layer must be None, 'first' or the name of a submodule of the model, such as '0'.*; got 'x'"
    ):
        remembering(KeepCutout(6), layer="x")[0](net, images, LABELS, **given)
    with pytest.raises(ValueError, match="layer must be None, 'first' or the name of a submodule; got 3"):
        remembering(KeepCutout(6), layer=3)
    for layer, net in (("0", strided_net().requires_grad_(False)), ("4", strided_net())):
        stage, memory = remembering(KeepCutout(6), layer=layer)
        inputs, _ = stage(net, images, LABELS, **given)
        with pytest.raises(ValueError, match="layer must be one that is trained, with an output"):
            net(inputs)
        assert memory.ages(INDICES).tolist() == [-1] * 4
