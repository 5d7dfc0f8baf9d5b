"""HybridMix: SalfMix on every image, then the two-image method between self-mixed images, as Algorithm 2 has it."""

import pytest
import torch

from dali_salaug import CutMix, Cutout, HybridMix, KeepCutMix, Mixup, MoveDraw, SalfMix, SaliencyMix, SaliencyStage
from dali_salaug.methods.hybridmix import HybridMixDraw
from dali_salaug.methods.mixing import BoxPairDraw
from dali_salaug.saliency.fine_grained import fine_grained_map

SIDES = (32, 44)


def batch(count=10):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, *SIDES, generator=generator)
    return images, torch.rand(count, 16, 22, generator=generator), torch.arange(count) % 4


@pytest.mark.parametrize("name", ["mixup", "saliencymix", "cutmix"])
def test_algorithm_2_by_a_loop(move_box, soft_label, name):
    images, saliency, labels = batch()
    method, before = HybridMix(name, 4), images.clone()
    drawn = method.draw(images, saliency, torch.Generator().manual_seed(1))
    inputs, targets = method.apply(images, drawn, None), method.targets(labels, drawn, SIDES)
    first, second = SalfMix().draw(images, saliency, torch.Generator().manual_seed(1)), drawn.second
    for i in range(len(images)):
        z = int(second.partners[i])
        x1, x2 = (move_box(images[k], first.sources[k].tolist(), first.boxes[k].tolist()) for k in (i, z))
        if name == "mixup":
            own = float(second.weights[i, 0])
            torch.testing.assert_close(inputs[i], (own * x1.double() + (1 - own) * x2.double()).float())
        else:
            top, left, bottom, right = second.boxes[i].tolist()
            own = 1 - (bottom - top) * (right - left) / (SIDES[0] * SIDES[1])
            x1[:, top:bottom, left:right] = x2[:, top:bottom, left:right]
            assert torch.equal(inputs[i], x1)
        assert targets[i].tolist() == soft_label(4, (labels[i], own), (labels[z], 1 - own))
    assert torch.equal(images, before)


def test_saliencymix_looks_at_the_self_mixed_partner(move_box):
    """Of noise with one strong spot, in the patch that is overwritten: the self-mixed image's peak is elsewhere."""
    images, saliency, _ = batch(24)
    second = SaliencyMix(4, scale=1.0)
    generator = torch.Generator().manual_seed(1)
    first = SalfMix().draw(images, saliency, generator)
    images[torch.arange(24), :, first.boxes[:, 0] + 4, first.boxes[:, 1] + 4] = 30.0
    state = generator.get_state()
    lam = torch.rand(24, generator=torch.Generator().manual_seed(0).set_state(state), dtype=torch.float64)
    drawn = HybridMix(second).draw(images, saliency, torch.Generator().manual_seed(1))
    moved = 0
    for i, z in enumerate(drawn.second.partners.tolist()):
        clean = images[z]
        mixed = move_box(clean, drawn.first.sources[z].tolist(), drawn.first.boxes[z].tolist())
        peak, clean_peak = (divmod(int(fine_grained_map(x[None])[0].argmax()), SIDES[1]) for x in (mixed, clean))
        moved += peak != clean_peak
        half = [int(side * float(1 - lam[i]) ** 0.5) // 2 for side in SIDES]
        assert drawn.second.boxes[i, :2].tolist() == [max(p - h, 0) for p, h in zip(peak, half, strict=True)]
    assert moved > 12


@pytest.mark.parametrize(("name", "kind"), [("mixup", Mixup), ("saliencymix", SaliencyMix), ("cutmix", CutMix)])
def test_a_name_stands_for_the_method_with_the_papers_partners(name, kind):
    method = HybridMix(name, 4)
    assert type(method.second) is kind
    assert (method.second.num_classes, method.second.alpha, method.second.partners) == (4, 1.0, "replacement")
    images, saliency, _ = batch()
    own = kind(4, partners="permutation")
    drawn = HybridMix(own).draw(images, saliency, None)
    assert sorted(drawn.second.partners.tolist()) == list(range(10))


def test_the_first_may_be_without_saliency():
    method = HybridMix("cutmix", 4, first=SalfMix(3, ratio=0.5, use_saliency=False))
    images, _, labels = batch()
    inputs, targets = SaliencyStage(method, warmup_epochs=0)(None, images, labels)  # no map, so no model
    assert not torch.equal(inputs, images)
    assert targets.shape == (10, 4)


def test_an_injected_draw_is_applied():
    images = torch.randn(2, 3, 8, 8)
    first = MoveDraw(boxes=torch.tensor([[0, 0, 2, 2]] * 2), sources=torch.tensor([[4, 4, 6, 6]] * 2))
    second = BoxPairDraw(partners=torch.tensor([1, 1]), boxes=torch.tensor([[0, 0, 8, 4], [0, 0, 0, 0]]))
    drawn = HybridMixDraw(first, second)
    mixed = HybridMix("cutmix", 4).apply(images, drawn, None)
    assert torch.equal(mixed[:, :, :2, :2], images[[1, 1], :, 4:6, 4:6])
    assert torch.equal(mixed[0, :, 2:], torch.cat([images[1, :, 2:, :4], images[0, :, 2:, 4:]], 2))


def test_a_whole_step_through_the_stage(small_net):
    images, _, labels = batch()
    stage = SaliencyStage(HybridMix("mixup", 5), target="loss")
    with pytest.raises(ValueError, match="set_epoch must be called before a stage with warmup_epochs=1"):
        stage(small_net, images, labels)
    stage.set_epoch(1)
    inputs, targets = stage(small_net, images, labels)
    torch.testing.assert_close(targets.sum(1), torch.ones(10))
    torch.nn.functional.cross_entropy(small_net(inputs), targets).backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("keepcutmix", 4), "second must be one of 'mixup', 'saliencymix', 'cutmix'; got 'keepcutmix'"),
        (("cutmix",), "num_classes must be given with second='cutmix'; got None"),
        (("cutmix", 0), "num_classes must be a whole number of classes"),
        ((CutMix(4), 4), "num_classes must not be given beside CutMix"),
        ((KeepCutMix(4),), r"takes no map from the stage \(that is of the images before SalfMix\); got KeepCutMix"),
        ((Cutout(4),), "second must be one of 'mixup', 'saliencymix', 'cutmix', or a two-image method"),
    ],
)
def test_bad_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        HybridMix(*arguments)
    with pytest.raises(ValueError, match="first must be a SalfMix; got Cutout"):
        HybridMix("cutmix", 4, first=Cutout(4))
