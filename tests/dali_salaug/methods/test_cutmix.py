"""CutMix and KeepCutMix: boxes as torchvision's and timm's, weights by pixels really left, sparing."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from dali_salaug import CutMix, KeepCutMix, SaliencyStage
from dali_salaug.methods.mixing import BoxPairDraw
from dali_salaug.regions import draw_boxes

SIDES = (20, 33)


def draws(method, count=4000, saliency=None):
    images = torch.randn(count, 2, *SIDES, generator=torch.Generator().manual_seed(1))
    return images, method.draw(images, saliency, torch.Generator().manual_seed(2))


def torchvision_box(lam, centre, sides):
    """torchvision v2.CutMix.make_params, line by line."""
    height, width = sides
    y, x = centre
    r = 0.5 * math.sqrt(1.0 - lam)
    half_height, half_width = int(r * height), int(r * width)
    return max(y - half_height, 0), max(x - half_width, 0), min(y + half_height, height), min(x + half_width, width)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_boxes_have_torchvisions_distribution(alpha):
    _, drawn = draws(CutMix(5, alpha=alpha))
    torch.manual_seed(3)
    lam = torch.distributions.Beta(alpha, alpha).sample((4000,)).tolist()
    y, x = torch.randint(SIDES[0], (4000,)).tolist(), torch.randint(SIDES[1], (4000,)).tolist()
    reference = torch.tensor([torchvision_box(*draw, SIDES) for draw in zip(lam, zip(y, x, strict=True), strict=True)])
    for measure in (lambda b: b[:, 2] - b[:, 0], lambda b: b[:, 3] - b[:, 1], lambda b: b[:, 0], lambda b: b[:, 1]):
        assert stats.ks_2samp(measure(drawn.boxes), measure(reference)).pvalue > 0.001


class EveryCentre(CutMix):
    """One λ for all images, and each pixel once as the centre."""

    def __init__(self, lam):
        super().__init__(2)
        self.lam = lam

    def _draw_lambda(self, images, generator):
        return torch.full((len(images),), self.lam, dtype=torch.float64)

    def _draw_boxes(self, images, size, saliency, generator):
        uniforms = (torch.arange(len(images)) + 0.5).double() / len(images)
        return draw_boxes(images.shape[-2:], size, uniforms, border=self.border)


@pytest.mark.parametrize("lam", [0.0, 0.2, 0.37, 0.5, 0.81, 0.97, 1.0])
def test_boxes_with_a_shared_lambda_are_timms_but_for_odd_sides(lam, monkeypatch):
    """timm rounds the side down; here, as in torchvision and the authors' code, half a side is rounded down.

    So the upper left corner is the same, and timm's box at most a pixel longer and wider.
    """
    timm_mixup = pytest.importorskip("timm.data.mixup")
    count = SIDES[0] * SIDES[1]
    centres = iter((np.arange(count) // SIDES[1], np.arange(count) % SIDES[1]))
    monkeypatch.setattr(np.random, "randint", lambda *_, **__: next(centres))
    (top, bottom, left, right), own = timm_mixup.cutmix_bbox_and_lam((3, *SIDES), lam, count=count)

    method = EveryCentre(lam)
    drawn = method.draw(torch.zeros(count, 1, *SIDES), None, None)
    ours = drawn.boxes.numpy()
    assert (ours[:, 0] == top).all()
    assert (ours[:, 1] == left).all()
    sides = [int(side * math.sqrt(1 - lam)) for side in SIDES]
    for end, axis, side in ((bottom, 0, sides[0]), (right, 1, sides[1])):
        longer = np.minimum(ours[:, axis + 2] + side % 2, SIDES[axis])
        assert (end == longer).all()
    labels = (torch.arange(count) == count - 1).long()
    drawn = replace(drawn, partners=torch.full((count,), count - 1))
    weights = method.targets(labels, drawn, SIDES)[:-1, 0].numpy()
    assert (weights >= own[:-1] - 1e-6).all()
    assert (weights <= own[:-1] + sum(sides) / count + 1e-6).all()


def test_partners_are_a_permutation():
    _, drawn = draws(CutMix(5))
    assert sorted(drawn.partners.tolist()) == list(range(4000))
    assert (drawn.partners == torch.arange(4000)).sum() < 10


def test_pixels_and_targets_by_a_loop(replace_box, soft_label):
    method = CutMix(4)
    images, drawn = draws(method, count=40)
    labels = torch.arange(40) % 4
    inputs, targets = method.apply(images, drawn, None), method.targets(labels, drawn, SIDES)
    for i in range(40):
        partner = int(drawn.partners[i])
        expected, count = replace_box(images[i], drawn.boxes[i].tolist(), images[partner])
        assert torch.equal(inputs[i], expected)
        share = count / (SIDES[0] * SIDES[1])
        assert targets[i].tolist() == soft_label(4, (labels[i], 1 - share), (labels[partner], share))
    assert targets.dtype == torch.float32


def test_channels_last_is_kept():
    images, drawn = draws(CutMix(4), count=8)
    inputs = CutMix(4).apply(images.to(memory_format=torch.channels_last), drawn, None)
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_an_empty_box_leaves_image_and_label():
    method = CutMix(3)
    images = torch.randn(2, 3, 8, 8)
    drawn = BoxPairDraw(partners=torch.tensor([1, 0]), boxes=torch.tensor([[3, 3, 3, 3], [0, 0, 8, 8]]))
    assert torch.equal(method.apply(images, drawn, None)[0], images[0])
    assert method.targets(torch.tensor([0, 2]), drawn, (8, 8)).tolist() == [[1, 0, 0], [1, 0, 0]]


def test_keep_cutmix_cuts_less_of_what_is_salient():
    saliency = torch.full((4000, 10, 17), 0.01)
    saliency[:, 3:6, 5:9] = 1.0
    _, plain = draws(CutMix(5))
    _, keep = draws(KeepCutMix(5, tau=0.3), saliency=saliency)

    def salient_share(drawn):
        top, left, bottom, right = drawn.boxes.unbind(1)
        height = (bottom.clamp(max=12) - top.clamp(min=6)).clamp(min=0)
        width = (right.clamp(max=18) - left.clamp(min=10)).clamp(min=0)
        return (height * width / 48).mean()

    assert salient_share(keep) < 0.6 * salient_share(plain)


def test_the_stage_gives_soft_targets_that_the_loss_takes(small_net):
    images, labels = torch.randn(6, 3, 16, 16), torch.tensor([0, 1, 2, 3, 4, 0])
    inputs, targets = SaliencyStage(KeepCutMix(5))(small_net, images, labels)
    assert targets.shape == (6, 5)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    torch.nn.functional.cross_entropy(small_net(inputs), targets).backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be a whole number of classes, 1 or more; got 0"),
        ({"num_classes": 2.0}, "num_classes must be"),
        ({"num_classes": 3, "alpha": 0}, r"alpha must be a number in \[0.05, 1e\+06\]; got 0"),
        ({"num_classes": 3, "tau": 2}, "tau must be"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        KeepCutMix(**options)
