"""A batch, and how it comes out of the pipeline."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from nvidia.dali.plugin.pytorch.torch_utils import feed_ndarray, to_torch_type

from ..datasets import Dataset
from ..graph.recipe import Recipe
from ..graph.trial import check_sizes
from ..labels import LabelTable
from ..labels.objects import Objects, ObjectTable
from ..names import printable
from ..readers.base import DataError
from .feed import Made

# tuple[torch.Tensor, ...], if there are 2 or more views. Any, so that with one view no type checker asks which it is.
Views: TypeAlias = Any


class Batch(NamedTuple):
    """One batch, on the loader's device. On the CPU, the image tensors may be DALI's memory: do not write into them.

    On a GPU, they are torch's memory, of the stream that was current when the batch was taken. As with any tensor of
    torch's, work on another stream has to wait for that stream (`Stream.wait_stream`), and has to be made known by
    `Tensor.record_stream` if the tensor may be dropped before that work is done.

    A named tuple, which frameworks such as Lightning move and cast like any collection. It does not unpack into two:
    `ImageLoader.pairs` returns (inputs, labels).

    Attributes:
        images: (B, 3, H, W), channels-last in memory: the clean images. Floating point, normalised; or uint8 from 0 to
            255.
        augmented: The same crops and flips after the policy and `after_policy`, like `images`; None without either.
            With 2 or more `views`, a tuple of such tensors, each with its own draws.
        labels: As the data set has them: class indices, (B,) int64; rows, (B, K) float32; numbers, (B,) float32; or a
            dictionary of tensors (B, ...). Of `detection_loader`: `BatchObjects`.
        indices: (B,) int64, the samples' places in the data set.
        matrices: (B, 2, 3) float32, None unless requested: the geometry of the policy, from `images` to
            `augmented`, acting on (x, y, 1) in pixels with pixel centres at +0.5. A tuple if `augmented` is one.
        replaced: The places in the data set of the samples that could not be decoded and were replaced
            (`on_bad_file="replace"`). All else describes the samples that replace them.
        views: (B, 2, 3) float32, None unless requested by `with_views`: crop and flips, from the whole image to
            `images`, acting on (x, y, 1). Both are in shares of their width and height: (0, 0) is the upper left
            corner, (1, 1) the lower right. What a crop shows beyond its image is padding.
        sizes: Of `detection_loader`, the height and width of each image without the padding, on the host; else empty.
    """

    images: torch.Tensor
    augmented: torch.Tensor | Views | None
    labels: Any  # a tensor, in nearly all data sets: a union would trouble the type checkers of all users
    indices: torch.Tensor
    matrices: torch.Tensor | Views | None = None
    replaced: tuple[int, ...] = ()
    views: torch.Tensor | None = None
    sizes: tuple[tuple[int, int], ...] = ()


def batches_of(
    outputs: tuple,
    recipe: Recipe,
    dataset: Dataset,
    labels: LabelTable | ObjectTable,
    run: tuple[Made, ...],
    device: torch.device,
) -> list[Batch]:
    """Return what a run of the pipeline of `recipe` has returned, as its batches, on the pipeline's device."""
    sizes = np.empty((0, 2), dtype=np.int64)
    if recipe.fit is not None:  # of one batch
        decoded, sizes = np.asarray(outputs[-1].as_tensor()).transpose(1, 0, 2)
        outputs = outputs[:-1]
        if isinstance(dataset.labels, Objects):
            _check_sizes(dataset, dataset.labels, run[0].indices, decoded)
    if recipe.transforms:
        views = recipe.views if recipe.augments else 0
        for output in (outputs[0], *outputs[2 : 2 + views]):
            check_sizes(recipe.transforms, output, recipe.image_size)
    counts = [len(made.indices) for made in run]
    tensors = (_in_torch(output.as_tensor(), device).split(counts) for output in outputs)
    parts = zip(run, zip(*tensors, strict=True), strict=True)
    return [_batch(part, recipe, labels, made, sizes) for made, part in parts]


def _batch(
    tensors: tuple[torch.Tensor, ...],
    recipe: Recipe,
    labels: LabelTable | ObjectTable,
    made: Made,
    sizes: np.ndarray,
) -> Batch:
    """Return a batch of what the pipeline has returned of it."""
    images, indices, *others = tensors
    views = recipe.views if recipe.augments else 0
    crops: Any = others.pop() if recipe.with_views else None
    return Batch(
        images=_images(images, recipe),
        augmented=_alone_or_all(tuple(_images(view, recipe) for view in others[:views])),
        labels=labels(indices, made.indices) if isinstance(labels, LabelTable) else labels(made.indices, sizes, crops),
        indices=indices,
        matrices=_alone_or_all(tuple(others[views:])),
        replaced=made.replaced,
        views=crops,
        sizes=tuple((height, width) for height, width in sizes.tolist()),
    )


def _check_sizes(dataset: Dataset, objects: Objects, indices: np.ndarray, decoded: np.ndarray) -> None:
    """Raise DataError if an image has another size than its annotation states: its boxes might be wrong.

    Args:
        indices: The images' places in the data set, (B,) int64.
        decoded: (B, 2): height and width of each image.
    """
    for row in np.flatnonzero((decoded != objects.sizes[indices]).any(axis=1))[:1]:
        (height, width), (stated_height, stated_width) = decoded[row].tolist(), objects.sizes[indices[row]].tolist()
        raise DataError(
            f"'{printable(dataset.name(int(indices[row])))}' has {width}×{height} pixels, and its annotation states "
            f"{stated_width}×{stated_height}: its boxes may be wrong. Correct the annotation."
        )


def _in_torch(tensor: Any, device: torch.device) -> torch.Tensor:
    """Return a tensor of DALI's as one of torch's: on the CPU the same memory, on a GPU a copy.

    The copy is ordered on torch's current stream, and DALI's stream waits for it before DALI writes into the memory
    again. Handed over by DLPack, the memory itself would return to DALI only after a synchronization of the whole
    device by a thread of DALI's, which ends the process if a CUDA graph is being captured then.
    """
    if device.type == "cpu":
        return torch.from_dlpack(tensor)
    copy = torch.empty(tensor.shape(), dtype=to_torch_type[tensor.dtype], device=device)
    return feed_ndarray(tensor, copy, cuda_stream=torch.cuda.current_stream(device))


def _images(pixels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    return pixels.to(getattr(torch, recipe.dtype)).permute(0, 3, 1, 2)  # from (B, H, W, 3)


def _alone_or_all(tensors: tuple[torch.Tensor, ...]) -> torch.Tensor | Views | None:
    return tensors if len(tensors) > 1 else tensors[0] if tensors else None
