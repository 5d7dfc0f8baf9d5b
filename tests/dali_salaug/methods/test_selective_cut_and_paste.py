"""Selective-cut, selective-paste and their method objects: pixels, what must not change, errors."""

import pytest
import torch

from dali_salaug import Augmented, BoxDraw, Clean, Cutout, Draw, KeepCutout, KeepPaste, selective_cut, selective_paste

SHAPES = [(4, 3, 16, 16), (3, 1, 15, 22), (2, 3, 32, 20)]


def batch(shape, scale=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(shape, generator=generator)
    augmented = torch.randn(shape, generator=generator)
    map_size = [max(1, round(side * scale)) for side in shape[-2:]]
    return images, augmented, torch.rand(shape[0], *map_size, generator=generator)


@pytest.mark.parametrize("border", ["clip", "inside"])
@pytest.mark.parametrize("size", [6, (5, 9), (1, 1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_selective_cut_fills_its_boxes_and_nothing_else(replace_box, shape, size, border):
    images, _, saliency = batch(shape)
    before = images.clone()
    generator = torch.Generator().manual_seed(1)
    cut, boxes = selective_cut(images, saliency, size, border=border, fill=0.25, generator=generator)
    assert boxes.dtype == torch.int64
    assert boxes.shape == (shape[0], 4)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= shape[2]).all()
    assert (boxes[:, 3] <= shape[3]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    for image, box, got in zip(images, boxes.tolist(), cut, strict=True):
        assert torch.equal(got, replace_box(image, box, 0.25)[0])
    assert torch.equal(images, before)
    if border == "inside":
        height, width = size if isinstance(size, tuple) else (size, size)
        assert ((boxes[:, 2:] - boxes[:, :2]) == torch.tensor([height, width])).all()


@pytest.mark.parametrize("size", [6, (5, 9)])
@pytest.mark.parametrize("shape", SHAPES)
def test_selective_paste_keeps_its_boxes_and_nothing_else(replace_box, shape, size):
    images, augmented, saliency = batch(shape)
    copies = images.clone(), augmented.clone()
    mixed, boxes = selective_paste(images, augmented, saliency, size, generator=torch.Generator().manual_seed(2))
    for policy, box, image, got in zip(augmented, boxes.tolist(), images, mixed, strict=True):
        assert torch.equal(got, replace_box(policy, box, image)[0])
    assert torch.equal(images, copies[0])
    assert torch.equal(augmented, copies[1])


def test_cut_avoids_and_paste_finds_the_salient_part():
    images, augmented, _ = batch((200, 3, 32, 32))
    saliency = torch.full((200, 16, 16), 0.01)
    saliency[:, 4:8, 4:8] = 1.0  # image pixels 8..16 in both axes
    generator = torch.Generator().manual_seed(3)
    _, cut = selective_cut(images, saliency, 8, generator=generator)
    _, kept = selective_paste(images, augmented, saliency, 8, tau=0.98, generator=generator)

    def overlap(boxes):
        height = (boxes[:, 2].clamp(max=16) - boxes[:, 0].clamp(min=8)).clamp(min=0)
        width = (boxes[:, 3].clamp(max=16) - boxes[:, 1].clamp(min=8)).clamp(min=0)
        return height * width

    assert overlap(cut).max() == 0
    assert overlap(kept).min() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_and_memory_format_are_kept(dtype):
    images, augmented, saliency = batch((2, 3, 16, 16))
    images = images.to(dtype, memory_format=torch.channels_last)
    augmented = augmented.to(dtype, memory_format=torch.channels_last)
    for result, _ in (selective_cut(images, saliency, 4), selective_paste(images, augmented, saliency, 4)):
        assert result.dtype == dtype
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_a_generator_decides_and_the_global_one_is_left_alone():
    images, augmented, saliency = batch((8, 3, 32, 32))
    for draw in (
        lambda g: selective_cut(images, saliency, 8, generator=g)[1],
        lambda g: selective_paste(images, augmented, saliency, 8, generator=g)[1],
    ):
        state = torch.get_rng_state()
        first, again, other = (draw(torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
        assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


@pytest.mark.parametrize("shape", SHAPES)
def test_method_objects_do_what_the_functions_do(shape):
    images, augmented, saliency = batch(shape)

    def generator():
        return torch.Generator().manual_seed(7)

    cut = KeepCutout((5, 9), tau=0.4, border="inside", fill=2.0)
    expected, boxes = selective_cut(images, saliency, (5, 9), tau=0.4, border="inside", fill=2.0, generator=generator())
    assert torch.equal(cut.draw(images, saliency, generator()).boxes, boxes)
    assert torch.equal(cut.apply(images, BoxDraw(boxes), None), expected)
    paste = KeepPaste(7, tau=0.8)
    expected, boxes = selective_paste(images, augmented, saliency, 7, tau=0.8, generator=generator())
    assert torch.equal(paste.draw(images, saliency, generator()).boxes, boxes)
    assert torch.equal(paste.apply(images, BoxDraw(boxes), augmented), expected)
    assert Clean().apply(images, Draw(), None) is images
    assert Augmented().apply(images, Draw(), augmented) is augmented


def test_cutout_covers_as_its_authors_do():
    """DeVries & Taylor's code: centre uniform over all pixels, square clipped to the image."""
    images = torch.ones(30_000, 1, 8, 8)
    method = Cutout(4)
    drawn = method.draw(images, None, torch.Generator().manual_seed(0))
    covered = 1 - method.apply(images, drawn, None).mean((0, 1))
    expected = torch.zeros(8, 8)
    for centre_y in range(8):
        for centre_x in range(8):
            expected[max(centre_y - 2, 0) : centre_y + 2, max(centre_x - 2, 0) : centre_x + 2] += 1 / 64
    # the standard error of a share at 30,000 images is under 0.003
    torch.testing.assert_close(covered, expected, atol=0.015, rtol=0)


def test_default_size_follows_the_image():
    boxes = KeepPaste().draw(torch.zeros(2, 3, 224, 224), torch.rand(2, 112, 112), None).boxes
    assert ((boxes[:, 2:] - boxes[:, :2]) == 40).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i, a, s: selective_cut(i, s, 4, tau=1.5), r"tau must be a number in \[0, 1\]; got 1.5"),
        (lambda i, a, s: selective_paste(i, a, s, 4, tau=-0.1), r"tau must be .* got -0.1"),
        (lambda i, a, s: selective_cut(i, s, 17), "at most 16×16 pixels here; got a region of 17×17"),
        (lambda i, a, s: selective_paste(i, a, s, (4, 20)), "got a region of 4×20"),
        (lambda i, a, s: selective_cut(i, s, 0), "size must be a positive whole number"),
        (lambda i, a, s: selective_cut(i, s, (4, True)), "size must be .* got \\(4, True\\)"),
        (lambda i, a, s: selective_cut(i, s, 2.5), "size must be .* got 2.5"),
        (lambda i, a, s: selective_cut(i, s, 4, border="wrap"), "border must be one of 'inside', 'clip'; got 'wrap'"),
        (lambda i, a, s: selective_cut(i, s[:1], 4), "saliency must be .* B = 2 .* got float32"),
        (lambda i, a, s: selective_cut(i, s[:, None], 4), "saliency must be"),
        (lambda i, a, s: selective_cut(i.byte(), s, 4), "images must be floating point and normalised"),
        (lambda i, a, s: selective_cut(i[0], s, 4), "images must be a floating-point tensor"),
        (lambda i, a, s: selective_paste(i, a[:, :1], s, 4), "augmented must be like images"),
        (lambda i, a, s: selective_paste(i, a.double(), s, 4), "augmented must be like images"),
        (lambda i, a, s: selective_paste(i, None, s, 4), "augmented must be like images .* got None"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*batch((2, 3, 16, 16)))
