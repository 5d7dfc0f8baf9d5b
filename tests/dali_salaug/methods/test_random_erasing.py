"""Random Erasing and KeepRandomErasing: distribution as torchvision's and timm's, pixels, sparing of the salient."""

import random

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from dali_salaug import KeepRandomErasing, RandomErasing

SIDES = (24, 40)


def draws(method, count=4000, saliency=None, seed=0):
    images = torch.zeros(count, 1, *SIDES)
    return images, method.draw(images, saliency, torch.Generator().manual_seed(seed))


def torchvisions_boxes(area, aspect, count):
    method = v2.RandomErasing(p=1.0, scale=area, ratio=aspect)
    torch.manual_seed(1)
    draws = [method.make_params([torch.zeros(1, *SIDES)]) for _ in range(count)]
    boxes = torch.tensor([(d["i"], d["j"], d["i"] + d["h"], d["j"] + d["w"]) for d in draws])
    whole = (boxes == torch.tensor([0, 0, *SIDES])).all(1)  # what it gives, with v=None, where nothing fits
    return boxes * ~whole[:, None]


def timms_boxes(area, aspect, count):
    """Read off the pixels: it keeps its draws to itself."""
    timm_erasing = pytest.importorskip("timm.data.random_erasing")
    options = {"min_area": area[0], "max_area": area[1], "min_aspect": aspect[0], "max_aspect": aspect[1]}
    method = timm_erasing.RandomErasing(1.0, mode="pixel", device="cpu", **options)
    random.seed(1)
    boxes = []
    for _ in range(count):
        erased = (method(torch.zeros(1, *SIDES))[0] != 0).nonzero()
        boxes.append((*erased.min(0).values, *(erased.max(0).values + 1)) if len(erased) else (0, 0, 0, 0))
    return torch.tensor(boxes)


@pytest.mark.parametrize("library", [torchvisions_boxes, timms_boxes])
@pytest.mark.parametrize(
    ("area", "aspect"),
    [((0.02, 0.4), (0.3, 1 / 0.3)), ((0.02, 1 / 3), (0.3, 1 / 0.3)), ((0.3, 0.9), (0.2, 5.0))],
    ids=["the paper's", "timm's defaults", "often none fits"],
)
def test_sizes_and_places_are_the_libraries(library, area, aspect):
    """Kolmogorov-Smirnov on heights, widths and corners; and how often no attempt fits.

    Nothing else differs but defaults: the area's upper end is 1/3 in torchvision and timm, 0.4 in the paper and here;
    what is written is normal noise for each value here and in timm's mode "pixel", zeros in both libraries by default.
    """
    _, drawn = draws(RandomErasing(1.0, area=area, aspect=aspect))
    reference = library(area, aspect, 4000)
    found, found_reference = (boxes[:, 2] > boxes[:, 0] for boxes in (drawn.boxes, reference))
    assert abs(found.float().mean() - found_reference.float().mean()) < 0.03
    ours, reference = drawn.boxes[found], reference[found_reference]
    for measure in (lambda b: b[:, 2] - b[:, 0], lambda b: b[:, 3] - b[:, 1], lambda b: b[:, 0], lambda b: b[:, 1]):
        assert stats.ks_2samp(measure(ours), measure(reference)).pvalue > 0.001


def test_noise_is_that_of_timms_mode_pixel():
    """On the same rectangle; and an image is erased as often."""
    timm_erasing = pytest.importorskip("timm.data.random_erasing")
    random.seed(2)
    torch.manual_seed(2)
    reference = timm_erasing.RandomErasing(0.4, mode="pixel", device="cpu")(torch.zeros(2000, 3, 8, 8))
    images, drawn = torch.zeros(2000, 3, 8, 8), RandomErasing(0.4, area=(0.02, 1 / 3))
    inputs = drawn.apply(images, drawn.draw(images, None, torch.Generator().manual_seed(2)), None)
    assert stats.ks_2samp(inputs[inputs != 0], reference[reference != 0]).pvalue > 0.001
    erased = [(x != 0).flatten(1).any(1).float().mean() for x in (inputs, reference)]
    assert abs(erased[0] - erased[1]) < 0.06  # four standard deviations
    for x in (inputs, reference):
        assert torch.equal((x != 0).any(1), (x != 0).all(1))  # each channel a value of its own


def test_probability_and_noise():
    images, drawn = draws(RandomErasing(0.3))
    erased = drawn.boxes[:, 2] > drawn.boxes[:, 0]
    assert abs(erased.float().mean() - 0.3) < 0.03
    inputs = RandomErasing(0.3).apply(images, drawn, None)
    for image, box, noise, before in zip(inputs[:50], drawn.boxes[:50], drawn.noise[:50], images[:50], strict=True):
        top, left, bottom, right = box.tolist()
        expected = before.clone()
        expected[:, top:bottom, left:right] = noise[:, top:bottom, left:right]
        assert torch.equal(image, expected)
    assert stats.kstest(drawn.noise[:100].flatten(), "norm").pvalue > 0.001


def test_keep_random_erasing_spares_what_is_salient_and_keeps_the_sizes():
    saliency = torch.full((4000, 12, 20), 0.01)
    saliency[:, 3:6, 4:8] = 1.0
    options = {"area": (0.02, 0.1)}
    _, plain = draws(RandomErasing(1.0, **options))
    _, keep = draws(KeepRandomErasing(1.0, tau=0.4, **options), saliency=saliency)
    sizes = [(d.boxes[:, 2:] - d.boxes[:, :2]) for d in (plain, keep)]
    assert torch.equal(*sizes)  # the same draw of sizes: only places differ

    def hit(drawn):
        top, left, bottom, right = drawn.boxes.unbind(1)
        return ((top < 12) & (bottom > 6) & (left < 16) & (right > 8)).float().mean()

    assert hit(plain) > 0.25
    assert hit(keep) < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 1.5}, r"probability must be a number in \[0, 1\]; got 1.5"),
        ({"area": (0.5, 0.2)}, r"area must be \(least, greatest\) with 0 < least <= greatest < 1; got"),
        ({"area": (0.5, 1.0)}, "area must be"),
        ({"area": 0.2}, r"area must be \(least, greatest\) .*; got 0.2"),
        ({"aspect": (0.0, 2.0)}, "aspect must be"),
        ({"aspect": (0.5, True)}, r"aspect must be .*; got \(0.5, True\)"),
        ({"aspect": ("0.5", 2.0)}, r"aspect must be .*; got \('0.5', 2.0\)"),
        ({"tau": -1}, "tau must be"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        KeepRandomErasing(**options)
