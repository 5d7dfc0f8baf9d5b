"""SaliencyMix: its boxes against the authors' formula and OpenCV's map, its pixels and labels by a loop."""

import math

import cv2
import numpy as np
import pytest
import torch

from dali_salaug import SaliencyMix, saliency_map
from dali_salaug.saliency.fine_grained import fine_grained_map

SIDES = (80, 97)


def spots(count):
    """A grey spot in a dark square on a bright ground: a peak for the near surrounds and for the far ones."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(180, 190, (count, 3, *SIDES), generator=generator).float()
    for i in range(count):
        y, x = (int(torch.randint(16, side - 16, (), generator=generator)) for side in SIDES)
        images[i, :, y - 14 : y + 15, x - 14 : x + 15] = 20
        images[i, :, y, x] = 180
    return images


def authors_box(peak, lam, sides):
    """saliency_bbox() of the authors' code, with the map's peak given."""
    cut = [int(side * math.sqrt(1 - lam)) for side in sides]
    low = [min(max(p - c // 2, 0), side) for p, c, side in zip(peak, cut, sides, strict=True)]
    return [*low, *(min(max(p + c // 2, 0), side) for p, c, side in zip(peak, cut, sides, strict=True))]


@pytest.mark.parametrize("partners", ["permutation", "replacement"])
def test_boxes_are_the_authors_around_a_peak_of_opencvs_map_of_the_partner(partners):
    """One of its peaks, up to its rounding: OpenCV cuts its map off at 1, where it has several."""
    images = spots(40)
    drawn = SaliencyMix(5, partners=partners, scale=1).draw(images, None, torch.Generator().manual_seed(3))
    lam = torch.rand(40, generator=torch.Generator().manual_seed(3), dtype=torch.float64)  # the first numbers drawn
    detector = cv2.saliency.StaticSaliencyFineGrained_create()
    for i, partner in enumerate(drawn.partners.tolist()):
        _, opencv = detector.computeSaliency(images[partner].permute(1, 2, 0).numpy()[..., ::-1].astype(np.uint8))
        peaks = np.argwhere(opencv > opencv.max() - 5.5 / 255).tolist()
        assert len(peaks) < 30
        assert drawn.boxes[i].tolist() in [authors_box(peak, float(lam[i]), SIDES) for peak in peaks]


@pytest.mark.parametrize(("scale", "sides"), [(0.5, SIDES), (0.25, (64, 50)), (1.0, (31, 30))])
def test_boxes_are_around_the_peak_of_the_reduced_map(scale, sides):
    images = torch.randn(30, 3, *sides, generator=torch.Generator().manual_seed(2))
    drawn = SaliencyMix(5, scale=scale).draw(images, None, torch.Generator().manual_seed(3))
    lam = torch.rand(30, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for i, partner in enumerate(drawn.partners.tolist()):
        saliency = saliency_map(None, images[partner : partner + 1], method="fine_grained", scale=scale)[0]
        peak = divmod(int(saliency.argmax()), saliency.shape[1])
        centre = [
            math.floor((p + 0.5) * side / cells) for p, side, cells in zip(peak, sides, saliency.shape, strict=True)
        ]
        assert drawn.boxes[i].tolist() == authors_box(centre, float(lam[i]), sides)


def test_pixels_and_targets_by_a_loop(replace_box, soft_label):
    method = SaliencyMix(4, partners="replacement")
    images, labels = spots(20), torch.arange(20) % 4
    before, drawn = images.clone(), method.draw(images, None, torch.Generator().manual_seed(0))
    inputs, targets = method.apply(images, drawn, None), method.targets(labels, drawn, SIDES)
    for i in range(20):
        partner = int(drawn.partners[i])
        expected, taken = replace_box(images[i], drawn.boxes[i].tolist(), images[partner])
        assert torch.equal(inputs[i], expected)
        share = taken / (SIDES[0] * SIDES[1])
        assert targets[i].tolist() == soft_label(4, (labels[i], 1 - share), (labels[partner], share))
    assert torch.equal(images, before)


def test_it_does_not_ask_the_stage_for_a_map_and_a_flat_image_is_taken_at_its_first_corner():
    assert not SaliencyMix(5).uses_saliency
    images = torch.zeros(8, 3, 16, 16)
    assert (fine_grained_map(images) == 0).all()
    drawn = SaliencyMix(5, scale=1).draw(images, None, None)
    assert (drawn.boxes[:, :2] == 0).all()
    assert (drawn.boxes[:, 2:] <= 8).all()


def test_a_bad_scale_is_named():
    with pytest.raises(ValueError, match=r"scale must be a number in \(0, 1\]; got 0"):
        SaliencyMix(5, scale=0)
