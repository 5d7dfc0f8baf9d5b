"""What Hide-and-Seek, GridMask and FenceMask share: shares hidden, the probability, the compositing."""

import pytest
import torch
from scipy import stats

from dali_salaug import FenceMask, GridMask, HideAndSeek
from dali_salaug.compositing import replace

SIDES = (26, 41)
METHODS = [HideAndSeek(), GridMask(), FenceMask()]


@pytest.mark.parametrize("sides", [(224, 224), (32, 32), (96, 160)])
def test_shares_hidden_by_default(draw_masks, sides):
    count = 200
    grid = draw_masks(GridMask(probability=1.0), count, sides).float().mean((1, 2))
    # (1 − r)², to within the roundings of d and of its share.
    assert abs(grid.mean() - 0.16) < 0.025
    fence = draw_masks(FenceMask(probability=1.0), count, sides).float().mean((1, 2))
    assert abs(fence.mean() - 0.4) < 0.06
    assert fence.max() < 0.8
    hide = draw_masks(HideAndSeek(), count, sides).float().mean((1, 2))
    assert abs(hide.mean() - 0.4) < 0.04  # one half, but for the size 0 of five


def test_probability_is_that_of_an_image(draw_masks):
    for method in (GridMask(probability=0.3), FenceMask(probability=0.3)):
        masked = draw_masks(method, 3000, (32, 32)).flatten(1).any(1)
        assert stats.binomtest(int(masked.sum()), 3000, 0.3).pvalue > 1e-3
    assert not draw_masks(HideAndSeek(probability=0.0)).any()


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_only_what_is_masked_is_written(method, memory_format, dtype):
    images = torch.randn(8, 3, *SIDES, dtype=dtype).contiguous(memory_format=memory_format)
    before = images.clone()
    method.fill = 0.25
    drawn = method.draw(images, None, torch.Generator().manual_seed(2))
    inputs = method.apply(images, drawn, None)
    assert inputs.dtype == dtype
    assert inputs.is_contiguous(memory_format=memory_format)
    assert torch.equal(images, before)
    for image, was, mask in zip(inputs, before, drawn.masks[:, 0], strict=True):
        for channel in range(3):
            assert (image[channel][mask] == 0.25).all()
            assert torch.equal(image[channel][~mask], was[channel][~mask])
    labels = torch.arange(8)
    assert method.targets(labels, drawn, SIDES) is labels


def test_replace_takes_another_batch():
    images, other = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    masks = torch.rand(2, 1, 4, 5) < 0.5
    assert torch.equal(replace(images, masks, other), images * ~masks + other * masks)
