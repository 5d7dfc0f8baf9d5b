"""Maps carried back through a matrix, composed, scaled and compared, against loops and exact moves."""

import math

import pytest
import torch
import torch.nn.functional as F

from dali_salaug import BoxDraw, CutMix, Cutout, GridMask, MaskDraw, Mixup
from dali_salaug.consistency.map_geometry import composed, map_distance, scaled, unwarp
from dali_salaug.methods.mixing import BoxPairDraw
from dali_salaug.methods.mixup import MixupDraw

H, W = 6, 8
MOVES = {  # the images moved, and the matrix: source to destination, pixels (x, y), centres at +0.5
    "none": (lambda x: x, [[1, 0, 0], [0, 1, 0]]),
    "horizontal flip": (lambda x: x.flip(-1), [[-1, 0, W], [0, 1, 0]]),
    "vertical flip": (lambda x: x.flip(-2), [[1, 0, 0], [0, -1, H]]),
    "both": (lambda x: x.flip(-1, -2), [[-1, 0, W], [0, -1, H]]),
    "enlarged": (
        lambda x: x[..., 1:4, 2:6].repeat_interleave(2, -1).repeat_interleave(2, -2),
        [[2, 0, -4], [0, 2, -2]],
    ),
}


@pytest.mark.parametrize("move", MOVES)
def test_flips_come_back_exactly(move):
    maps = torch.rand(3, H, W, generator=torch.Generator().manual_seed(0))
    moved, matrix = MOVES[move]
    carried, view = unwarp(moved(maps), torch.tensor([matrix] * 3).float(), (H, W))
    if move == "enlarged":
        assert view.sum((1, 2)).tolist() == [12] * 3
        assert view[:, 1:4, 2:6].all()
    else:
        assert view.all()
    torch.testing.assert_close(carried[view], maps[view], rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_right_angles_come_back_exactly(turns, scale):
    """Also with maps at half the images' resolution."""
    side = 6
    maps = torch.rand(2, side, side, dtype=torch.float64)
    cos, sin, centre = round(math.cos(turns * math.pi / 2)), round(math.sin(turns * math.pi / 2)), side * scale / 2
    # rot90 turns the picture against the clock, in coordinates whose y goes down.
    matrix = [[cos, sin, centre * (1 - cos - sin)], [-sin, cos, centre * (1 - cos + sin)]]
    carried, view = unwarp(maps.rot90(turns, (1, 2)), torch.tensor([matrix] * 2).double(), (side * scale, side * scale))
    assert view.all()
    torch.testing.assert_close(carried, maps)


def test_it_samples_where_the_pixel_went_loop():
    torch.manual_seed(1)
    batch = 4
    maps = torch.rand(batch, H, W, dtype=torch.float64)
    matrices = torch.eye(2, 3).expand(batch, 2, 3) + 0.3 * torch.randn(batch, 2, 3) * torch.tensor([1, 1, 5])
    carried, view = unwarp(maps, matrices, (H, W))
    assert 0.3 < view.double().mean() < 0.95
    for i in range(batch):
        for row in range(H):
            for column in range(W):
                x, y = (
                    matrices[i].double() @ torch.tensor([column + 0.5, row + 0.5, 1.0], dtype=torch.float64)
                ).tolist()
                assert view[i, row, column] == (0 <= x <= W and 0 <= y <= H)
                if not view[i, row, column]:
                    continue
                x, y = min(max(x - 0.5, 0), W - 1), min(max(y - 0.5, 0), H - 1)
                left, top = min(int(x), W - 2), min(int(y), H - 2)
                s, t = x - left, y - top
                corner = maps[i, top : top + 2, left : left + 2]
                expected = (1 - t) * ((1 - s) * corner[0, 0] + s * corner[0, 1])
                expected += t * ((1 - s) * corner[1, 0] + s * corner[1, 1])
                torch.testing.assert_close(carried[i, row, column], expected, rtol=0, atol=1e-6)


def test_a_shift_of_part_of_a_pixel():
    ramp = torch.arange(W, dtype=torch.float64).expand(1, H, W)
    carried, view = unwarp(ramp - 0.25, torch.tensor([[[1, 0, 0.25], [0, 1, 0]]]), (H, W))
    assert view.all()
    torch.testing.assert_close(carried[..., :-1], ramp[..., :-1])  # of the last pixel half lies beyond


def test_composed_maps_are_those_that_a_loop_composes():
    torch.manual_seed(2)
    maps = torch.rand(3, H, W)
    boxes = torch.tensor([[0, 0, 2, 3], [4, 1, 6, 8], [2, 2, 2, 2]])
    partners, weights = torch.tensor([2, 0, 1]), torch.tensor([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    cut, mixed, blended = maps.clone(), maps.clone(), torch.empty_like(maps)
    for i, (top, left, bottom, right) in enumerate(boxes.tolist()):
        cut[i, top:bottom, left:right] = 0
        mixed[i, top:bottom, left:right] = maps[partners[i], top:bottom, left:right]
        blended[i] = weights[i, 0] * maps[i] + weights[i, 1] * maps[partners[i]]
    for method in (Cutout(2), Cutout(2, fill=0.5)):
        torch.testing.assert_close(composed(maps, method, BoxDraw(boxes), (H, W)), cut)
    torch.testing.assert_close(composed(maps, CutMix(5), BoxPairDraw(partners, boxes), (H, W)), mixed)
    torch.testing.assert_close(composed(maps, Mixup(5), MixupDraw(partners, weights), (H, W)), blended)
    masks = torch.rand(3, 1, H, W) < 0.5
    torch.testing.assert_close(
        composed(maps, GridMask(fill=2.0), MaskDraw(masks), (H, W)), torch.where(masks[:, 0], 0, maps)
    )


def test_maps_at_half_the_resolution_are_composed_at_the_images():
    maps, boxes = torch.rand(2, H, W), torch.tensor([[0, 2, 4, 6], [2, 0, 6, 8]])
    small = composed(maps, Cutout(2), BoxDraw(boxes // 2), (H, W))
    large = composed(maps, Cutout(2), BoxDraw(boxes), (2 * H, 2 * W))
    assert torch.equal(large, F.interpolate(small[:, None], scale_factor=2)[:, 0])


def test_each_map_is_scaled_on_its_own_within_the_view():
    maps = torch.tensor([[[1.0, 3.0, 9.0]], [[-2.0, 0.0, 0.0]], [[4.0, 4.0, 5.0]], [[1.0, 2.0, 3.0]]])
    view = torch.tensor([[[1, 1, 0]], [[1, 1, 1]], [[1, 1, 0]], [[0, 0, 0]]]).bool()
    maps.requires_grad_()
    result = scaled(maps, view)
    assert result[0].tolist()[0][:2] == [0, 1]
    assert result[1].tolist() == [[0, 1, 1]]
    assert result[2:].tolist() == [[[0, 0, 0]], [[0, 0, 0]]]  # flat in view; nothing in view
    result.square().sum().backward()
    assert maps.grad.isfinite().all()
    assert not maps.grad[2:].any()


def test_the_distance_is_over_what_is_in_view_loop():
    torch.manual_seed(3)
    first, second = torch.rand(4, H, W), 100 * torch.rand(4, H, W)
    view = torch.rand(4, H, W) < torch.tensor([1.0, 0.5, 0.1, 0.0])[:, None, None]
    total, count = 0.0, 0
    for a, b, seen in zip(first, second, view, strict=True):
        pairs = [((x - a[seen].min()) / (a[seen].max() - a[seen].min())).item() for x in a[seen]]
        others = [((x - b[seen].min()) / (b[seen].max() - b[seen].min())).item() for x in b[seen]]
        total += sum((x - y) ** 2 for x, y in zip(pairs, others, strict=True))
        count += len(pairs)
    assert map_distance(first, second, view).item() == pytest.approx(total / count, rel=1e-5)
    assert map_distance(first, 3 * first + 7, view).item() == pytest.approx(0, abs=1e-10)
    assert map_distance(first, second, torch.zeros_like(view)) == 0
