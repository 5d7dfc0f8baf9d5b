"""ResizeMix, and the resizing of boxes that it shares with SnapMix."""

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from dali_salaug import ResizeMix
from dali_salaug.compositing import paste_resized

SIDES = (20, 33)


def draws(method, count=4000, sides=SIDES):
    images = torch.randn(count, 2, *sides, generator=torch.Generator().manual_seed(1))
    return images, method.draw(images, None, torch.Generator().manual_seed(2))


def random_boxes(count, sides, seed):
    corners = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(seed)).sort(0).values
    low, high = (corners * torch.tensor(sides)).floor().long()
    return torch.cat([low, (high + 1).minimum(torch.tensor(sides))], 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_boxes_are_resized_as_interpolate_does_image_by_image(dtype, layout):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(60, 3, *SIDES, generator=generator, dtype=dtype).to(memory_format=layout)
    content = torch.randn(60, 3, *SIDES, generator=generator, dtype=dtype).to(memory_format=layout)
    boxes, sources = random_boxes(60, SIDES, 1), random_boxes(60, SIDES, 2)
    before = images.clone(), content.clone()
    pasted = paste_resized(images, boxes, content, sources)
    for i in range(60):
        top, left, bottom, right = boxes[i].tolist()
        from_top, from_left, from_bottom, from_right = sources[i].tolist()
        cut = content[i : i + 1, :, from_top:from_bottom, from_left:from_right].double()
        expected = images[i].double().clone()
        expected[:, top:bottom, left:right] = F.interpolate(cut, (bottom - top, right - left), mode="bilinear")[0]
        error = (pasted[i].double() - expected).abs().max()
        assert error < (2e-2 if dtype == torch.bfloat16 else 1e-5)
        outside = torch.ones(SIDES, dtype=torch.bool)
        outside[top:bottom, left:right] = False
        assert torch.equal(pasted[i][:, outside], images[i][:, outside])
    assert pasted.dtype == dtype
    assert pasted.is_contiguous(memory_format=layout)
    assert torch.equal(images, before[0])
    assert torch.equal(content, before[1])


def test_nothing_comes_from_outside_of_the_source_box():
    content = torch.full((1, 1, 9, 9), 100.0)
    content[:, :, 3:6, 2:4] = 1
    pasted = paste_resized(torch.zeros(1, 1, 9, 9), torch.tensor([[0, 0, 9, 9]]), content, torch.tensor([[3, 2, 6, 4]]))
    torch.testing.assert_close(pasted, torch.ones(1, 1, 9, 9), rtol=0, atol=1e-3)


def authors_place(side, size, centre):
    """getbox_new of the authors' code, for one axis of one image."""
    first = min(max(centre - size // 2, 0), side)
    last = min(max(first + size, 0), side)
    return min(max(last - size, 0), side), last


def test_boxes_have_the_authors_distribution():
    _, drawn = draws(ResizeMix(5))
    generator = torch.Generator().manual_seed(3)
    reference = []
    for _ in range(4000):
        tau = 0.1 + 0.7 * torch.rand((), generator=generator).item()
        axes = [
            authors_place(side, int(side * tau), int(torch.randint(side, (), generator=generator))) for side in SIDES
        ]
        reference.append([axes[0][0], axes[1][0], axes[0][1], axes[1][1]])
    reference = torch.tensor(reference)
    for measure in (lambda b: b[:, 2] - b[:, 0], lambda b: b[:, 3] - b[:, 1], lambda b: b[:, 0], lambda b: b[:, 1]):
        assert stats.ks_2samp(measure(drawn.boxes), measure(reference)).pvalue > 0.001
    top, left, bottom, right = drawn.boxes.unbind(1)
    assert ((top >= 0) & (top < bottom) & (bottom <= SIDES[0])).all()
    assert ((left >= 0) & (left < right) & (right <= SIDES[1])).all()
    assert ((bottom - top).double() / SIDES[0] - (right - left).double() / SIDES[1]).abs().max() < 1 / SIDES[0] + 1e-9


def test_pixels_and_targets_by_a_loop(soft_label):
    method = ResizeMix(4, scale=(0.2, 0.9))
    images, drawn = draws(method, count=40)
    labels = torch.arange(40) % 4
    inputs, targets = method.apply(images, drawn, None), method.targets(labels, drawn, SIDES)
    assert sorted(drawn.partners.tolist()) == list(range(40))
    for i in range(40):
        partner = int(drawn.partners[i])
        top, left, bottom, right = drawn.boxes[i].tolist()
        expected = images[i].double().clone()
        small = F.interpolate(images[partner : partner + 1].double(), (bottom - top, right - left), mode="bilinear")
        expected[:, top:bottom, left:right] = small[0]
        torch.testing.assert_close(inputs[i].double(), expected, rtol=0, atol=1e-5)
        share = (bottom - top) * (right - left) / (SIDES[0] * SIDES[1])
        assert targets[i].tolist() == soft_label(4, (labels[i], 1 - share), (labels[partner], share))


def test_a_patch_has_at_least_a_pixel():
    _, drawn = draws(ResizeMix(5, scale=(0.1, 0.1)), count=50, sides=(4, 4))
    assert ((drawn.boxes[:, 2:] - drawn.boxes[:, :2]) == 1).all()


@pytest.mark.parametrize("scale", [(0, 0.5), (0.5, 0.4), (0.5, 1.0)])
def test_bad_scales_are_named(scale):
    with pytest.raises(ValueError, match=r"scale must be \(least, greatest\) with 0 < least <= greatest < 1; got"):
        ResizeMix(3, scale=scale)
