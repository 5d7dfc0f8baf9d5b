"""Hide-and-Seek: whole patches, independent, and the authors' sizes."""

import pytest
import torch
from scipy import stats

from dali_salaug import HideAndSeek


def patches(mask, size):
    return [
        mask[top : top + size, left : left + size]
        for top in range(0, mask.shape[0], size)
        for left in range(0, mask.shape[1], size)
    ]


def test_it_hides_whole_patches_independently(draw_masks):
    masks = draw_masks(HideAndSeek((7,), probability=0.3), 2000)
    hidden = torch.empty(2000, 4, 6)
    for image, mask in enumerate(masks):
        for place, patch in enumerate(patches(mask, 7)):
            assert patch.all() or not patch.any()
            hidden[image, place // 6, place % 6] = patch[0, 0]
    assert stats.binomtest(int(hidden.sum()), hidden.numel(), 0.3).pvalue > 1e-3
    correlations = torch.corrcoef(hidden.flatten(1).T) - torch.eye(24)
    assert correlations.abs().max() < 0.1


def test_it_draws_a_size_for_each_image(draw_masks):
    masks = draw_masks(HideAndSeek((0, 4, 9)), 1200, (36, 72))
    counts = {0: 0, 4: 0, 9: 0}
    for mask in masks:
        fits = [size for size in (4, 9) if all(patch.all() or not patch.any() for patch in patches(mask, size))]
        # Each of 32 patches or more is hidden with probability one half: none is, only where nothing is to be hidden.
        counts[fits[0] if mask.any() else 0] += 1
        assert len(fits) == (1 if mask.any() else 2)
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize(("side", "sizes"), [(224, {16, 32, 44, 56}), (32, {2, 5, 6, 8}), (448, {32, 64, 88, 112})])
def test_the_default_sizes_are_the_authors_at_224(draw_masks, side, sizes):
    masks = draw_masks(HideAndSeek(), 60, (side, side + 10))
    found = {
        next(size for size in sorted(sizes, reverse=True) if all(p.all() or not p.any() for p in patches(mask, size)))
        for mask in masks
        if mask.any()
    }
    assert found == sizes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (16, -1)}, "each of sizes must be a whole number of pixels, 0 or more; got -1"),
        ({"sizes": (0, 0)}, r"sizes must have one above 0; got \(0, 0\)"),
        ({"sizes": 16}, "sizes must be whole numbers of pixels in a tuple or list; got 16"),
        ({"sizes": (True, 16)}, "each of sizes must be a whole number of pixels, 0 or more; got True"),
        ({"probability": 2}, r"probability must be a number in \[0, 1\]; got 2"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        HideAndSeek(**options)
