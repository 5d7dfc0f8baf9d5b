"""The one place that writes pixels: what a region holds comes from elsewhere."""

import torch
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
