"""`detection_loader`: whole images at sizes of their own, with the boxes of the objects in them."""

from typing import Any

import torch

from .arguments import (
    INT32_MAX,
    explains_unknown,
    flag,
    is_sequence,
    refuse,
    require,
    require_one,
    share,
    whole,
)
from .build import IMAGENET_MEAN, IMAGENET_STD, channels, choose_device, hardware_share, size_hint, usable_cores
from .datasets import Dataset
from .decoding import MAX_PIXELS
from .graph.crops import RESIZE_INTERPOLATIONS, Fit
from .graph.recipe import DTYPES, Recipe
from .labels.objects import Objects
from .loading.loader import ImageLoader
from .options import LoaderOptions
from .order.samplers import Sampler, choose_order

SHORT_SIDES = (640, 672, 704, 736, 768, 800)  # Detectron2's
LONG_SIDE = 1333
_MAX_SIDE = 16_384
_MAX_THREADS = 1024


@explains_unknown
def detection_loader(
    dataset: Dataset,
    *,
    batch_size: int,
    short_side: int | tuple[int, ...] = SHORT_SIDES,
    long_side: int = LONG_SIDE,
    train: bool = True,
    shuffle: bool | None = None,
    sampler: Sampler | None = None,
    drop_last: bool = False,
    device: str | torch.device = "auto",
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_threads: int | None = None,
    dtype: str | torch.dtype = "float32",
    horizontal_flip: float = 0.5,
    vertical_flip: float = 0.0,
    resize_interpolation: str = "bilinear",
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    on_bad_file: str = "raise",
    max_bad_share: float = 0.1,
    max_pixels: int = MAX_PIXELS,
    hw_decoder_load: float | None = None,
    decode_size_hint: tuple[int, int] | None = None,
) -> ImageLoader:
    """Return a loader of whole images and of the boxes in them, as detectors are trained on.

    Each image is resized, its aspect kept: its shorter side becomes `short_side`, unless its longer side would then
    exceed `long_side`, which it has instead. Sides are rounded to the nearest pixel, as by Detectron2. In training,
    images are mirrored too. Those of a batch are padded with zeros, at the right and below, to one size whose sides are
    multiples of 32.

    `Batch.sizes` are the sizes without padding, `Batch.labels` the boxes in pixels of the batch's images
    (`BatchObjects`). In training the boxes around crowds are left out. Where boxes are, is computed on the device.

    All else is as of `image_loader`: the order, epochs, states, several processes, bad files.

    Args:
        dataset: Of `find_detection`.
        batch_size: Images per batch and process.
        short_side: In pixels; several: one of them, drawn for each image, in training, and the last one in validation.
        long_side: The most that the longer side may have, in pixels.
        train: Training, or else validation: in the data set's order, without randomness.
        shuffle, sampler, drop_last, device, seed, rank, world_size, num_threads: As of `image_loader`.
        dtype: Of the images, as of `image_loader`. Of "uint8", the padding is black.
        horizontal_flip, vertical_flip: In training, the probability that an image is mirrored left to right, and top
            to bottom.
        resize_interpolation, mean, std: As of `image_loader`.
        on_bad_file, max_bad_share, max_pixels, hw_decoder_load, decode_size_hint: As of `image_loader`.

    Raises:
        ValueError: An argument is not legal.
        DataError: The data set has fewer images than there are processes. While iterating: an image cannot be decoded,
            or has another size than its annotation states.
    """
    is_dataset = isinstance(dataset, Dataset) and isinstance(dataset.labels, Objects)
    require("dataset", dataset, "a Dataset with boxes, of find_detection", is_dataset)
    short_sides = _short_sides(short_side)
    legal = f"an integer from the least short_side, {min(short_sides)}, to {_MAX_SIDE}"
    long_side = whole("long_side", long_side, min(short_sides), _MAX_SIDE, legal)
    batch_size = whole("batch_size", batch_size, 1, INT32_MAX)
    train, drop_last = flag("train", train), flag("drop_last", drop_last)
    shuffle = None if shuffle is None else flag("shuffle", shuffle, "None, True or False")
    require("shuffle", shuffle, "None or False with a sampler, which makes the order", not shuffle or sampler is None)
    shuffle = train if shuffle is None else shuffle
    seed = whole("seed", seed, 0, 2**64 - 1, "an integer from 0 to 2**64 - 1")
    world_size = whole("world_size", world_size, 1, INT32_MAX)
    rank = whole("rank", rank, 0, world_size - 1, f"an integer from 0 to world_size - 1 = {world_size - 1}")
    if num_threads is not None:
        num_threads = whole("num_threads", num_threads, 1, _MAX_THREADS)
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    require_one("dtype", dtype, DTYPES)
    require_one("resize_interpolation", resize_interpolation, RESIZE_INTERPOLATIONS)
    require_one("on_bad_file", on_bad_file, ("raise", "replace"))
    vertical_flip = share("vertical_flip", vertical_flip)
    if hw_decoder_load is not None:
        hw_decoder_load = share("hw_decoder_load", hw_decoder_load, legal="None or a number from 0 to 1")
    chosen = choose_device(device)
    recipe = Recipe(
        reads=dataset.reader.feed,
        device="gpu" if chosen.type == "cuda" else "cpu",
        image_size=(max(short_sides), long_side),
        crop="fit",
        ratio=(1.0, 1.0),
        color_jitter=0.0,
        operations=(),
        chains=0,
        stages=0,
        interpolation="nearest",
        with_matrices=False,
        with_views=True,
        mean=channels("mean", mean, "three numbers", 0),
        std=channels("std", std, "three numbers above 0", 1e-6),
        dtype=str(dtype),
        max_pixels=whole("max_pixels", max_pixels, 1, 2**62, "an integer from 1 to 2**62"),
        hw_decoder_load=hardware_share(chosen) if hw_decoder_load is None else hw_decoder_load,
        decode_size_hint=size_hint(decode_size_hint),
        resize_interpolation=resize_interpolation,
        vertical_flip=train and vertical_flip > 0,
        fit=Fit(short_sides, long_side),
    )
    options = LoaderOptions(
        batch_size=batch_size,
        drop_last=drop_last,
        train=train,
        order=choose_order(dataset, shuffle=shuffle, sampler=sampler, weights=None, repeats=1, seed=seed),
        policy=None,
        device=chosen,
        seed=seed,
        rank=rank,
        world_size=world_size,
        num_threads=num_threads or usable_cores(),
        crop_scale=(1.0, 1.0),
        horizontal_flip=share("horizontal_flip", horizontal_flip),
        vertical_flip=vertical_flip,
        replace_bad_files=on_bad_file == "replace",
        max_bad_share=share("max_bad_share", max_bad_share),
    )
    return ImageLoader(dataset, recipe, options)


def _short_sides(value: Any) -> tuple[int, ...]:
    legal = f"an integer from 1 to {_MAX_SIDE}, or several"
    if not is_sequence(value, len(value) if hasattr(value, "__len__") else 1):
        return (whole("short_side", value, 1, _MAX_SIDE, legal),)
    if not len(value):
        refuse("short_side", value, legal)
    return tuple(whole("short_side", each, 1, _MAX_SIDE, legal) for each in value)
