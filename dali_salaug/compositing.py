"""The one place that writes pixels: what a region holds comes from elsewhere."""

import torch
import torch.nn.functional as F
from torch import Tensor


def box_mask(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """True inside each image's box.

    Args:
        boxes: (B, 4), int64: top, left, bottom, right in pixels, half-open.
        image_size: (H, W).

    Returns:
        (B, 1, H, W), bool.
    """
    top, left, bottom, right = boxes[:, :, None].unbind(1)
    y = torch.arange(image_size[0], device=boxes.device)
    x = torch.arange(image_size[1], device=boxes.device)
    in_rows, in_columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def box_areas(boxes: Tensor) -> Tensor:
    """The pixels in each of the boxes (B, 4), see :func:`box_mask`: (B,), int64."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def replace(images: Tensor, masks: Tensor, content: Tensor | float) -> Tensor:
    """A copy of ``images`` with the pixels under the masks taken from ``content``: M ⊙ content + (1 − M) ⊙ images.

    Args:
        images: (B, C, H, W).
        masks: (B, 1, H, W), bool: true where ``content`` goes.
        content: (B, C, H, W) like ``images``, or one value.

    Returns:
        (B, C, H, W), the dtype and memory format of ``images``; the inputs are not written to.
    """
    # torch.where, not masked_fill: the latter turns channels-last images into contiguous ones. The images come first,
    # since the memory format is that of the first of two tensors that differ.
    return torch.where(~masks, images, content)


def replace_boxes(images: Tensor, boxes: Tensor, content: Tensor | float) -> Tensor:
    """:func:`replace` within each image's box (B, 4), see :func:`box_mask`.

    KeepAugment eq. 2 (content 0) and eq. 3 (images the augmented, content the clean ones).
    """
    return replace(images, box_mask(boxes, (images.shape[-2], images.shape[-1])), content)


def move_boxes(images: Tensor, sources: Tensor, targets: Tensor, size: tuple[int, int]) -> Tensor:
    """A copy of ``images`` with each image's target box holding what its source box holds in ``images``.

    Args:
        images: (B, C, H, W).
        sources, targets: (B, 4), int64, see :func:`box_mask`; inside the image. The two may overlap.
        size: height and width of all the boxes. It is known to the host, so that no more than the boxes is touched.

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
    """(1 − w) ⊙ images + w ⊙ others.

    Args:
        images, others: (B, C, H, W).
        weights: (B,), floating point in [0, 1]: w, of ``others``.

    Returns:
        (B, C, H, W), the dtype and memory format of ``images``; the inputs are not written to.
    """
    return torch.lerp(images, others, weights.to(images.dtype)[:, None, None, None])


def paste_resized(images: Tensor, boxes: Tensor, content: Tensor, sources: Tensor) -> Tensor:
    """A copy of ``images`` with each image's box taken from a box of ``content``, resized to it bilinearly.

    The pixels are those of ``F.interpolate(mode="bilinear")`` of the cut-out: from pixel centres, nothing from outside
    of the source box, no antialiasing. Each image has sizes of its own; the batch is sampled by one ``grid_sample``.

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
    dtype = torch.promote_types(images.dtype, torch.float32)  # places in half precision would be off by whole pixels
    resized = F.grid_sample(content.to(dtype), grid.to(dtype), padding_mode="border", align_corners=False)
    return replace_boxes(images, boxes, resized.to(images.dtype))


def blend_blocks(images: Tensor, partners: Tensor, shares: Tensor, moves: Tensor) -> Tensor:
    """Each image with its blocks moved, blended block by block with its partner with its own moved.

    Args:
        images: (B, C, H, W); n divides H and W.
        partners: (B,), int64: the place in the batch of each image's partner.
        shares: (B, n, n), floating point: of the image in each block.
        moves: (B, 2, n, n), int64 in [0, n²): the number, row by row, of the image's and of the partner's block that
            comes to each place.

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
    """Along one axis, where each pixel's content lies, −1 and 1 being the borders of the image: (B, pixels), float64.

    Args:
        pixels: the image's length.
        box: begin and end of the box that is written, (B, 2), int64.
        source: begin and end of the box that is read, (B, 2), int64.
    """
    start, stop = box.split(1, 1)
    source_start, source_stop = source.split(1, 1)
    scale = (source_stop - source_start).double() / (stop - start).clamp(min=1)
    within = (torch.arange(pixels, device=box.device) - start + 0.5) * scale
    # Within half a pixel of its border the source is held constant, as interpolation does at the border of an image.
    places = source_start + within.clamp(min=0.5).minimum(source_stop - source_start - 0.5)
    return 2 * places / pixels - 1
