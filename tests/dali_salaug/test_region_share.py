"""The share of the saliency in the drawn region, against a sum over pixels, for every method that has regions."""

import pytest
import torch
import torch.nn.functional as F

from dali_salaug import METHODS as REGISTERED
from dali_salaug import (
    AttentiveCutMix,
    BoxDraw,
    Clean,
    CutMix,
    GridMask,
    HybridMix,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    MaskDraw,
    Mixup,
    PuzzleMix,
    SalfMix,
    SaliencyCutout,
    SnapMix,
)
from dali_salaug.compositing import box_mask
from dali_salaug.methods.hybridmix import HybridMixDraw
from dali_salaug.methods.puzzlemix import PuzzleMixDraw
from dali_salaug.region_share import region_share

SIZE = (32, 24)
METHODS = [KeepCutout(7), KeepRandomErasing(0.5), KeepCutMix(5), KeepPaste(7), SaliencyCutout(4), SalfMix(4)]
METHODS += [
    HybridMix("cutmix", 5),
    HybridMix("mixup", 5),
    SnapMix(5),
    AttentiveCutMix(5, grid=4),
    GridMask(),
    CutMix(5),
]


@pytest.mark.parametrize("grid", [(32, 24), (16, 12), (7, 5)], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_it_is_the_sum_over_the_pixels(method, grid):
    generator = torch.Generator().manual_seed(0)
    images, saliency = torch.randn(12, 3, *SIZE, generator=generator), torch.rand(12, *grid, generator=generator)
    drawn = method.draw(images, saliency, generator)
    share, area = region_share(saliency, drawn, SIZE)
    own = drawn.first if isinstance(drawn, HybridMixDraw) else drawn
    masks = own.masks if isinstance(own, MaskDraw) else box_mask(own.boxes, SIZE)
    # On a grid that is a common multiple of pixels and cells each point has one value of both.
    common = tuple(pixels * cells for pixels, cells in zip(SIZE, grid, strict=True))
    fine_mask = F.interpolate(masks.double(), common, mode="nearest-exact")[:, 0]
    fine_map = F.interpolate(saliency.double()[:, None], common, mode="nearest-exact")[:, 0]
    expected = (fine_mask * fine_map).sum((1, 2)) / fine_map.sum((1, 2))
    torch.testing.assert_close(share.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(area.double(), masks.double().mean((1, 2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", REGISTERED)
def test_a_method_says_whether_its_region_is_kept(name):
    """By the pixels: within the region the input has those of the clean image, or others."""
    generator = torch.Generator().manual_seed(0)
    images, augmented = torch.randn(2, 8, 3, 32, 32, generator=generator)
    method = REGISTERED[name].build(5)
    drawn = method.draw(images, torch.rand(8, 16, 16, generator=generator), generator)
    own = drawn.first if isinstance(drawn, HybridMixDraw) else drawn
    if not isinstance(own, BoxDraw | MaskDraw):
        assert not method.keeps_region
        return
    unchanged = (method.apply(images, drawn, augmented) == images).all(1, keepdim=True)
    masks = own.masks if isinstance(own, MaskDraw) else box_mask(own.boxes, (32, 32))
    if "partners" in vars(own):  # an image may be its own partner
        masks &= (own.partners != torch.arange(8))[:, None, None, None]
    assert masks.any()
    assert bool(unchanged[masks].all()) is method.keeps_region
    assert method.keeps_region or unchanged[masks].float().mean() < 0.1


def test_of_puzzlemix_what_is_no_longer_shown():
    """By PuzzleMix's own compositing, of maps whose partner's is zero."""
    generator = torch.Generator().manual_seed(0)
    images, saliency = torch.randn(6, 3, 32, 32, generator=generator), torch.rand(6, 32, 32, generator=generator)
    method = PuzzleMix(5, blocks=(2, 4, 8))
    drawn = method.draw(images, saliency, generator)
    share, area = region_share(saliency, drawn, (32, 32))
    maps = torch.cat([saliency, torch.zeros_like(saliency)])[:, None]
    own = PuzzleMixDraw(
        partners=torch.cat([torch.arange(6, 12), torch.arange(6)]),
        shares=torch.cat([drawn.shares, drawn.shares]),
        moves=torch.cat([drawn.moves, drawn.moves]),
    )
    shown = method.apply(maps, own, None)[:6, 0]
    torch.testing.assert_close(share, 1 - shown.sum((1, 2)) / saliency.sum((1, 2)))
    torch.testing.assert_close(area, 1 - drawn.shares.mean((1, 2)).float())


def test_flat_empty_and_broken_maps():
    boxes = torch.tensor([[0, 0, 16, 12], [0, 0, 16, 12], [0, 0, 0, 0], [0, 0, 16, 24]])
    saliency = torch.ones(4, 8, 6)
    saliency[1] = 0
    saliency[3, :4] = torch.inf
    share, area = region_share(saliency, BoxDraw(boxes), SIZE)
    assert share.tolist() == [0.25, 0.25, 0, 0]
    assert area.tolist() == [0.25, 0.25, 0, 0.5]


def test_without_regions_there_is_none():
    saliency = torch.rand(2, 8, 6)
    images = torch.randn(2, 3, *SIZE)
    for method in (Clean(), Mixup(5)):
        assert region_share(saliency, method.draw(images, saliency, None), SIZE) is None


def test_the_salient_region_holds_more_than_its_area_and_nothing_waits(no_waiting):
    images = torch.randn(64, 3, *SIZE)
    saliency = torch.rand(64, 16, 12) ** 4
    for method, more in ((KeepPaste(8), True), (KeepCutout(8), False)):
        drawn = method.draw(images, saliency, torch.Generator().manual_seed(0))
        with no_waiting():
            share, area = region_share(saliency, drawn, SIZE)
        assert bool(share.mean() > area.mean()) is more
