"""The one place that writes pixels. Other modules decide where and what."""

import torch
import torch.nn.functional as F
from torch import Tensor


def box_mask(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return a mask that is true inside each image's box.

    Args:
        boxes: (B, 4), int64: top, left, bottom, right in pixels, half-open.
        image_size: (H, W).

    Returns:
        (B, 1, H, W), bool.
    """
    place = torch.arange(max(image_size), device=boxes.device)
    inside = (place >= boxes[:, :2, None]) & (place < boxes[:, 2:, None])  # of rows, and of columns
    in_rows, in_columns = inside[:, 0, : image_size[0]], inside[:, 1, : image_size[1]]
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def box_areas(boxes: Tensor) -> Tensor:
    """Return the number of pixels in each of the boxes (B, 4), see :func:`box_mask`: (B,), int64."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def replace(images: Tensor, masks: Tensor, content: Tensor | float) -> Tensor:
    """Return a copy of ``images`` whose pixels under the masks are ``content``: M ⊙ content + (1 − M) ⊙ images.

    Args:
        images: (B, C, H, W).
        masks: (B, 1, H, W), bool: true where ``content`` is written.
        content: (B, C, H, W) like ``images``, or one value.

    Returns:
        (B, C, H, W), the dtype and memory format of ``images``; the inputs are not written to.
    """
    # torch.where, not masked_fill, which turns channels-last images into contiguous ones. The images come first: the
    # result takes its memory format from the first of two tensors that differ.
    return torch.where(~masks, images, content)


def replace_boxes(images: Tensor, boxes: Tensor, content: Tensor | float) -> Tensor:
    """Call :func:`replace` with each image's box (B, 4) as its mask, see :func:`box_mask`.

    This is KeepAugment eq. 2 (content 0) and eq. 3 (``images`` augmented, ``content`` clean).
    """
    return replace(images, box_mask(boxes, (images.shape[-2], images.shape[-1])), content)


def move_boxes(images: Tensor, sources: Tensor, targets: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a copy of ``images`` in which each image's source box is copied over its target box.

    Args:
        images: (B, C, H, W).
        sources, targets: (B, 4), int64, see :func:`box_mask`; inside the image. The two may overlap; the
            copy comes from the original image.
        size: height and width of all the boxes. The host knows it, so only the boxes' pixels are read and written.

    Returns:
        (B, C, H, W), the dtype and memory format of ``images``; the inputs are not written to.
    """
    image = torch.arange(len(images), device=images.device)[:, None, None]
    row = torch.arange(size[0], device=images.device)[:, None]
    column = torch.arange(size[1], device=images.device)

    def pixels(boxes: Tensor) -> tuple[Tensor, slice, Tensor, Tensor]:
        return image, slice(None), boxes[:, 0, None, None] + row, boxes[:, 1, None, None] + column

    moved = images.clone()
    moved[pixels(targets)] = images[pixels(sources)]
    return moved


def blend(images: Tensor, others: Tensor, weights: Tensor) -> Tensor:
    """Return (1 − w) ⊙ images + w ⊙ others.

    Args:
        images, others: (B, C, H, W).
        weights: (B,), floating point in [0, 1]: w, of ``others``.

    Returns:
        (B, C, H, W), the dtype and memory format of ``images``; the inputs are not written to.
    """
    return torch.lerp(images, others, weights.to(images.dtype)[:, None, None, None])


def paste_resized(images: Tensor, boxes: Tensor, content: Tensor, sources: Tensor) -> Tensor:
    """Return a copy of ``images`` with a box of ``content`` resized bilinearly into each image's box.

    The pixels equal ``F.interpolate(mode="bilinear")`` of the cut-out: sampled at pixel centres, from nothing outside
    the source box, without antialiasing. Each image has its own sizes; one ``grid_sample`` samples the whole batch.

    Args:
        images: (B, C, H, W).
        boxes: (B, 4), int64, see :func:`box_mask`.
        content: (B, C, H, W) like ``images``.
        sources: (B, 4), int64, not empty where ``boxes`` is not.

    Returns:
        (B, C, H, W), the dtype and memory format of ``images``; the inputs are not written to.
    """
    height, width = images.shape[-2:]
    y = _source_places(height, boxes[:, 0::2], sources[:, 0::2])
    x = _source_places(width, boxes[:, 1::2], sources[:, 1::2])
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], 3)
    dtype = torch.promote_types(images.dtype, torch.float32)  # in half precision places would be off by whole pixels
    resized = F.grid_sample(content.to(dtype), grid.to(dtype), padding_mode="border", align_corners=False)
    return replace_boxes(images, boxes, resized.to(images.dtype))


def blend_blocks(images: Tensor, partners: Tensor, shares: Tensor, moves: Tensor) -> Tensor:
    """Move the blocks of each image and of its partner, and blend the two block by block.

    Args:
        images: (B, C, H, W); n divides H and W.
        partners: (B,), int64: the place in the batch of each image's partner.
        shares: (B, n, n), floating point: the image's share of each block.
        moves: (B, 2, n, n), int64 in [0, n²): the number, row by row, of the image's block and of the partner's block
            that moves to each place.

    Returns:
        (B, C, H, W), the dtype and memory format of ``images``; the inputs are not written to.
    """
    batch, channels, height, width = images.shape
    n = shares.shape[-1]
    grid = (batch, channels, n, height // n, n, width // n)
    blocks = images.reshape(grid).permute(0, 2, 4, 1, 3, 5).reshape(batch * n * n, -1)
    first = n * n * torch.stack([torch.arange(batch, device=images.device), partners], 1)
    own, other = (
        blocks.index_select(0, numbers.flatten()) for numbers in (first[:, :, None] + moves.flatten(2)).unbind(1)
    )
    mixed = torch.lerp(other, own, shares.reshape(-1, 1).to(images.dtype))
    inputs = torch.empty_like(images)
    inputs.view(grid).copy_(mixed.view(batch, n, n, channels, height // n, width // n).permute(0, 3, 1, 4, 2, 5))
    return inputs


def _source_places(pixels: int, box: Tensor, source: Tensor) -> Tensor:
    """Return where each pixel's content is along one axis, with the image's borders at −1 and 1: (B, pixels), float64.

    Args:
        pixels: the image's length.
        box: start and stop of the box that is written, (B, 2), int64.
        source: start and stop of the box that is read, (B, 2), int64.
    """
    start, stop = box.split(1, 1)
    source_start, source_stop = source.split(1, 1)
    scale = (source_stop - source_start).double() / (stop - start).clamp(min=1)
    within = (torch.arange(pixels, device=box.device) - start + 0.5) * scale
    # Within half a pixel of its border the source is constant, as in interpolation at the border of an image.
    places = source_start + within.clamp(min=0.5).minimum(source_stop - source_start - 0.5)
    return 2 * places / pixels - 1
