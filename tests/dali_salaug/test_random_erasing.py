"""Random Erasing and KeepRandomErasing: distribution as torchvision's, pixels, sparing of what is salient."""

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from dali_salaug import KeepRandomErasing, RandomErasing

SIDES = (24, 40)


def draws(method, count=4000, saliency=None, seed=0):
    images = torch.zeros(count, 1, *SIDES)
    return images, method.draw(images, saliency, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("area", "aspect"), [((0.02, 0.4), (0.3, 1 / 0.3)), ((0.3, 0.9), (0.2, 5.0))])
def test_sizes_and_places_are_torchvisions(area, aspect):
    """Kolmogorov-Smirnov on heights, widths and corners; and how often no attempt fits (second case)."""
    images, drawn = draws(RandomErasing(1.0, area=area, aspect=aspect))
    theirs = v2.RandomErasing(p=1.0, scale=area, ratio=aspect)
    torch.manual_seed(1)
    reference = []
    for _ in range(4000):
        params = theirs.make_params([images[0]])
        reference.append((params["i"], params["j"], params["i"] + params["h"], params["j"] + params["w"]))
    reference = torch.tensor(reference)
    found, found_reference = ((boxes[:, 2] > boxes[:, 0]).float() for boxes in (drawn.boxes, _empty(reference)))
    assert abs(found.mean() - found_reference.mean()) < 0.03
    ours, reference = drawn.boxes[found.bool()], reference[found_reference.bool()]
    for measure in (lambda b: b[:, 2] - b[:, 0], lambda b: b[:, 3] - b[:, 1], lambda b: b[:, 0], lambda b: b[:, 1]):
        assert stats.ks_2samp(measure(ours), measure(reference)).pvalue > 0.001


def _empty(reference):
    """torchvision gives the whole image, unchanged, where nothing fits."""
    whole = (reference == torch.tensor([0, 0, *SIDES])).all(1)
    return reference * ~whole[:, None]


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
        ({"aspect": (0.0, 2.0)}, "aspect must be"),
        ({"tau": -1}, "tau must be"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        KeepRandomErasing(**options)
