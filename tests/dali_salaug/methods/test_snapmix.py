"""SnapMix: two boxes as CutMix's, pixels and weights by a loop after the authors' code, and their loss."""

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from dali_salaug import CutMix, SnapMix, saliency_map
from dali_salaug.methods.snapmix import SnapMixDraw

SIDES = (20, 33)


def draws(method, count=40, cells=(10, 11), seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 2, *SIDES, generator=generator)
    saliency = torch.rand(count, *cells, generator=generator).square()
    return images, saliency, method.draw(images, saliency, torch.Generator().manual_seed(2))


def percent_map(saliency):
    """The end of get_spm of the authors' code, for one image."""
    out = F.interpolate(saliency.double()[None, None], SIDES, mode="bilinear", align_corners=False).squeeze()
    out = out - out.min()
    return out / out.sum()


def test_pixels_and_weights_by_a_loop(soft_label):
    method = SnapMix(4, probability=0.8)
    images, saliency, drawn = draws(method)
    before = images.clone()
    labels = torch.arange(40) % 4
    inputs, targets = method.apply(images, drawn, None), method.targets(labels, drawn, SIDES)
    unmixed = 0
    for i in range(40):
        partner = int(drawn.partners[i])
        top, left, bottom, right = drawn.boxes[i].tolist()
        from_top, from_left, from_bottom, from_right = drawn.sources[i].tolist()
        expected, own, other = images[i].double().clone(), 1.0, 0.0
        if (bottom - top) * (right - left) * (from_bottom - from_top) * (from_right - from_left) > 0:
            cut = images[partner : partner + 1, :, from_top:from_bottom, from_left:from_right].double()
            expected[:, top:bottom, left:right] = F.interpolate(cut, (bottom - top, right - left), mode="bilinear")[0]
            own -= percent_map(saliency[i])[top:bottom, left:right].sum().item()
            other += percent_map(saliency[partner])[from_top:from_bottom, from_left:from_right].sum().item()
        else:
            unmixed += 1
        torch.testing.assert_close(inputs[i].double(), expected, rtol=0, atol=1e-5)
        assert targets[i].tolist() == soft_label(4, (labels[i], own), (labels[partner], other))
    assert 2 <= unmixed <= 16
    assert (targets.sum(1) - 1).abs().max() > 0.1
    assert torch.equal(images, before)


def test_both_boxes_are_cutmixs_and_independent():
    _, _, drawn = draws(SnapMix(4), count=4000)
    cutmix = CutMix(4, alpha=5.0).draw(torch.empty(4000, 1, *SIDES), None, torch.Generator().manual_seed(9)).boxes
    mixed = (drawn.boxes[:, 2] > drawn.boxes[:, 0]) & (drawn.boxes[:, 3] > drawn.boxes[:, 1])
    assert mixed.float().mean() > 0.98
    for measure in (lambda b: b[:, 2] - b[:, 0], lambda b: b[:, 3] - b[:, 1], lambda b: b[:, 0], lambda b: b[:, 1]):
        for boxes in (drawn.boxes, drawn.sources):
            assert stats.ks_2samp(measure(boxes[mixed]), measure(cutmix)).pvalue > 0.001
        assert stats.spearmanr(measure(drawn.boxes[mixed]), measure(drawn.sources[mixed])).pvalue > 0.001


def test_the_loss_is_the_authors():
    method = SnapMix(5)
    _, _, drawn = draws(method)
    logits, labels = torch.randn(40, 5), torch.arange(40) % 5
    other = labels[drawn.partners]
    apart = labels != other
    targets = method.targets(labels, drawn, SIDES)
    loss_a, loss_b = (F.cross_entropy(logits, of, reduction="none") for of in (labels, other))
    expected = (loss_a * drawn.weights[:, 0] + loss_b * drawn.weights[:, 1]).float()
    got = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(got[apart], expected[apart])
    torch.testing.assert_close(got[~apart], (loss_a * drawn.weights.sum(1)).float()[~apart])


def test_where_a_map_is_flat_the_share_of_the_pixels_counts():
    images = torch.randn(2, 3, *SIDES)
    saliency = torch.stack([torch.full((5, 5), 0.3), torch.rand(5, 5)])
    for seed in range(20):
        drawn = SnapMix(4).draw(images, saliency, torch.Generator().manual_seed(seed))
        area = (drawn.boxes[:, 2:] - drawn.boxes[:, :2]).prod(1) / (SIDES[0] * SIDES[1])
        assert drawn.weights[0, 0].item() == pytest.approx(1 - area[0].item())
        assert drawn.weights[1, 0].item() != pytest.approx(1 - area[1].item())
        for i in range(2):
            if drawn.partners[i] == 0:
                assert drawn.weights[i, 1].item() == pytest.approx(area[i].item())


def test_without_a_box_image_and_label_stay():
    method = SnapMix(4, probability=0.0)
    images, _, drawn = draws(method)
    labels = torch.arange(40) % 4
    assert torch.equal(method.apply(images, drawn, None), images)
    torch.testing.assert_close(method.targets(labels, drawn, SIDES), F.one_hot(labels, 4).float())
    # A box that is clipped away, with one that is not: α far below 1 gives both.
    _, _, drawn = draws(SnapMix(4, alpha=0.1), count=500)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (drawn.boxes, drawn.sources)]
    assert torch.equal(areas[0] > 0, areas[1] > 0)
    assert (areas[0] == 0).any()
    assert (drawn.weights[areas[0] == 0] == torch.tensor([1.0, 0.0])).all()


def test_grad_cam_is_the_class_activation_map_cut_off_at_zero():
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.ReLU())
    net = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    images, labels = torch.randn(8, 3, *SIDES), torch.arange(8) % 5
    got = saliency_map(net, images, labels, method="grad_cam", scale=1.0)
    with torch.no_grad():
        activations = torch.einsum("bkhw,bk->bhw", features(images), net[-1].weight[labels]).relu()
        expected = F.interpolate(activations[:, None], SIDES, mode="bilinear").squeeze(1)
    torch.testing.assert_close(got / got.sum((1, 2), True), expected / expected.sum((1, 2), True))


def test_channels_last_is_kept():
    method = SnapMix(4)
    images, _, drawn = draws(method)
    inputs = method.apply(images.to(memory_format=torch.channels_last), drawn, None)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(inputs, method.apply(images, drawn, None))


def test_weights_injected_are_those_used():
    empty, weights = torch.zeros(2, 4).long(), torch.tensor([[0.9, 0.7], [0.2, 0.1]])
    drawn = SnapMixDraw(partners=torch.tensor([1, 0]), boxes=empty, sources=empty, weights=weights)
    targets = SnapMix(2).targets(torch.tensor([0, 1]), drawn, SIDES)
    torch.testing.assert_close(targets, torch.tensor([[0.9, 0.7], [0.1, 0.2]]))


def test_a_bad_probability_is_named():
    with pytest.raises(ValueError, match=r"probability must be a number in \[0, 1\]; got 2"):
        SnapMix(3, probability=2)
