"""`image_loader`, which checks its arguments and builds the loader."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from nvidia.dali.backend import GetCUDADeviceCount  # type: ignore[attr-defined]

from .arguments import (
    INT32_MAX,
    explains_unknown,
    flag,
    numbers,
    pair,
    path,
    refuse,
    require,
    require_one,
    share,
    whole,
)
from .datasets import Dataset
from .decoding import MAX_PIXELS
from .forks import check_process
from .graph.crops import (
    CROP_RATIO,
    LEAST,
    MAX_SIDE,
    PADDING,
    check_crop,
    check_fits,
    check_validation,
    choose_crop,
    image_size_of,
    stored_size,
)
from .graph.recipe import DTYPES, Recipe
from .graph.transform import GraphTransform
from .graph.trial import place
from .labels.objects import Objects
from .loading.loader import ImageLoader
from .options import LoaderOptions
from .order.samplers import Sampler, Weights, choose_order
from .policies.base import Policy
from .policies.registry import find_policy
from .readers.hugging_face import is_hugging_face
from .readers.image_folders import is_folder
from .sources import find_dataset

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_MAX_HINT = 65_535  # JPEG's
_MAX_THREADS = 1024
_MAX_VIEWS = 32  # the graph grows with each


@explains_unknown
def image_loader(
    root: str | os.PathLike[str] | Dataset | torch.utils.data.Dataset,
    *,
    batch_size: int,
    image_size: int | tuple[int, int] = 224,
    train: bool = True,
    images: int | None = None,
    shuffle: bool | None = None,
    sampler: Sampler | None = None,
    weights: Weights | None = None,
    repeats: int = 1,
    drop_last: bool = False,
    policy: str | os.PathLike[str] | Policy | None = None,
    before_policy: GraphTransform | Sequence[GraphTransform] = (),
    after_policy: GraphTransform | Sequence[GraphTransform] = (),
    device: str | torch.device = "auto",
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_threads: int | None = None,
    dtype: str | torch.dtype = "float32",
    interpolation: str = "nearest",
    crop: str = "auto",
    crop_scale: tuple[float, float] = (0.08, 1.0),
    crop_ratio: tuple[float, float] = CROP_RATIO,
    padding: int = PADDING,
    horizontal_flip: float = 0.5,
    vertical_flip: float = 0.0,
    val_resize: int | None = None,
    crop_pct: float | None = None,
    val_crop: str = "center",
    resize_interpolation: str = "bilinear",
    color_jitter: float = 0.0,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    with_matrices: bool = False,
    views: int = 1,
    with_views: bool = False,
    on_bad_file: str = "raise",
    max_bad_share: float = 0.1,
    max_pixels: int = MAX_PIXELS,
    hw_decoder_load: float | None = None,
    decode_size_hint: tuple[int, int] | None = None,
    decode_region: bool | None = None,
) -> ImageLoader:
    """Return a loader of the images under `root`.

    Training: each epoch in a new random order; per image one decode, one random crop, one random mirroring,
    then `policy`. Validation (`train=False`): in the data set's order, without randomness. Files are resized
    and cropped in the middle, see `crop_pct`; CIFAR images keep their size. Validation may have a `policy` too; the
    arguments of random crops and flips have no effect on it.

    The same arguments give the same batches on any machine, whatever `num_threads`. On the GPU, another decoder
    makes small differences in the pixels.

    Args:
        root: Folder of the data, see `find_dataset` for the layouts; a `Dataset`; or an `ImageFolder` of torchvision,
            see `Dataset.from_torchvision`.
        batch_size: Images per batch and process. The last batch of an epoch may be smaller, see `drop_last`.
        image_size: Of the returned images, in pixels: a side of squares, or (height, width). CIFAR images are resized
            if it is not 32. `ImageLoader.set_image_size` changes it between epochs.
        train: Training, or else validation.
        images: Number of images to use, the first of each class (`Dataset.first`); None: all.
        shuffle: Whether each epoch has a new random order, or that of the data set. None: in training, it has.
        sampler: The samples of an epoch in their order: integers from 0 to the number of images − 1, at least one. A
            function of the epoch that returns an iterable of them; an iterable with `set_epoch`, read for each epoch;
            or another iterable, such as a list or a torch `Sampler`, read once. It must be a function of the epoch: a
            state has a hash of the epoch's indices, and is refused where they are others. It returns the samples of
            all ranks.
        weights: One number of at least 0 for each image. An epoch draws as many samples as there are images, with
            replacement, each in proportion to its weight, like torch's `WeightedRandomSampler`. "balanced": all classes
            alike. Excludes `sampler`.
        repeats: How often each sample occurs in succession (repeated augmentation). An epoch keeps its length, and so
            has the first part of its order only, like timm's `RepeatAugSampler` with `selected_round=0`. Rank r takes
            every `world_size`-th sample of a global batch, so that the copies are on different ranks. Excludes
            `sampler`.
        drop_last: Leave out the last global batch of an epoch where it has fewer than `world_size * batch_size` images:
            batch normalisation cannot train on a batch of one. In training other images are left out in each epoch.
        policy: None, a name in `POLICIES`, a policy object such as `RandAugment(n=2, m=9)`, or a file of
            sub-policies, see `SubPolicies.from_file`.
        before_policy: Your own transforms of the clean image, and so of the augmented one: a `GraphTransform`, or
            several, applied one after the other. They come after crop and `color_jitter`. As `policy`, they act in
            validation too.
        after_policy: The same, of the augmented image alone, after `policy`. Without a policy the augmented image is
            the clean one, transformed. AugMix's sum is rounded to whole numbers first.
        device: "auto" (the current GPU where DALI and torch both have one, else the CPU), "cpu", "cuda" or
            "cuda:N".
        seed: Of all random numbers, from 0 to 2⁶⁴ − 1. The same on all ranks.
        rank, world_size: This process's share of each global batch, and the number of shares. The batches of the
            ranks together are those of one process with `world_size * batch_size`.
        num_threads: Of DALI's CPU work; by default the CPU cores this process may use.
        dtype: Of the images: "float32", "float16", "bfloat16" (float32, rounded) or "uint8", or torch's. "uint8" is
            the pixels from 0 to 255 (AugMix's sum is rounded), for `ImageLoader.normalize`.
        interpolation: Of the policy's geometric operations: "nearest" or "linear". Nearest is torchvision's
            default for them, and the policies were published with it (AugMix and SimCLR with linear). On the CPU,
            linear takes several times as long.
        crop: "random_resized" (random area and aspect), "pad" (the whole image, resized to `image_size` whatever its
            aspect, then padded with zeros and cropped at random), or "auto": "pad" for CIFAR, else "random_resized".
        crop_scale: Least and greatest share of the image's area in "random_resized".
        crop_ratio: Least and greatest aspect (width / height) of the window in "random_resized", before it is resized
            to `image_size`, whatever its aspect; from 0.001 to 1000.
        padding: Of "pad", on each side, in pixels; from 0 to 16384.
        horizontal_flip, vertical_flip: In training, the probability that an image is mirrored left to right, and top
            to bottom; from 0 to 1. Digits and text need a `horizontal_flip` of 0.
        val_resize: In validation, the shorter edge of a file's image before the central crop, at least the longer side
            of `image_size`. CIFAR images are then resized and cropped too.
        crop_pct: In validation, in place of `val_resize`: `image_size` over the size before the crop, from 0.1 to 1.
            As in timm, an image is resized, its aspect kept, until it just covers floor(height / crop_pct) ×
            floor(width / crop_pct). By default 0.875, rounded to the nearest; 1 if a side is below 128.
        val_crop: In validation, "center": the middle of the image, as above; or "squash", timm's word: the whole image,
            resized to `image_size` whatever its aspect. The size before the crop then has no meaning.
        resize_interpolation: Of the resizes to `image_size` and before the central crop: "bilinear" or "bicubic", both
            with a low-pass filter where they shrink (torchvision's `antialias`).
        color_jitter: In training, change brightness, contrast (about mid-grey) and saturation of the clean image, and
            so of the augmented one, each by a factor uniform in 1 ± `color_jitter`; from 0 to 1.
        mean, std: Of the channels R, G, B in [0, 1] units; images are (pixel / 255 − mean) / std.
        with_matrices: Also return the geometry of the policy (`Batch.matrices`). Needs a policy of one chain (any but
            AugMix).
        views: Number of augmented images of each clean one, from 1 to 32; 2 or more need a policy. They have the same
            crop and mirroring; each has its own draw of the policy. `Batch.augmented` and `Batch.matrices` are then
            tuples.
        with_views: Also return which part of its image each crop shows (`Batch.views`).
        on_bad_file: What happens if a file cannot be decoded: "raise" an error that names it, or "replace" it by
            another sample, drawn for its place in the epoch: see `Batch.replaced` and `ImageLoader.bad_files`. The
            logger "pipelines" warns of each file once.
        max_bad_share: Share of an epoch's samples that may be replaced, from 0 to 1: more is an error.
        max_pixels: Of a file's image, width times height, at least 1. A larger one is a bad file, as it takes 3 bytes a
            pixel and thread to decode. The default is Pillow's limit, 179 million. A state may be loaded with another.
        hw_decoder_load: Share of a batch that a GPU's hardware JPEG decoder takes, if it has one (A100, H100); CUDA
            kernels decode the rest. From 0 to 1; None: 1 from compute capability 9 on (H100, H200), where that was
            fastest, else 0.65, DALI's own default.
        decode_size_hint: Width and height in pixels of the largest images. The hardware decoder then allocates its
            memory at the start, not image by image.
        decode_region: With "random_resized", whether to decode of a file only the window, and little more, or the whole
            image, of which the window is then cut out. The pixels are the same. None: only the window on the CPU. On a
            GPU the whole image, 3 bytes a pixel for each image of the batches being made, as DALI's decoder of regions
            ends the process on some GPUs (nvImageCodec 0.9).

    Raises:
        DataError: The data cannot be used; see `find_dataset`. While iterating: a file cannot be decoded, or too many.
        ValueError: An argument is out of its range.
        TypeError: There is no such argument. For those of other loaders, the error names ours.
        RuntimeError: The process was forked while a loader was at work.
    """
    check_process()
    train, drop_last = flag("train", train), flag("drop_last", drop_last)
    shuffle = None if shuffle is None else flag("shuffle", shuffle, "None, True or False")
    legal = "None or False with a sampler or weights, which make the order"
    require("shuffle", shuffle, legal, not shuffle or (sampler is None and weights is None))
    repeats = whole("repeats", repeats, 1, INT32_MAX)
    with_matrices, with_views = flag("with_matrices", with_matrices), flag("with_views", with_views)
    policy = _find_policy(policy)
    batch_size = whole("batch_size", batch_size, 1, INT32_MAX)
    size = image_size_of(image_size)
    images = (
        None if images is None else whole("images", images, 1, INT32_MAX, f"None or an integer from 1 to {INT32_MAX}")
    )
    seed = whole("seed", seed, 0, 2**64 - 1, "an integer from 0 to 2**64 - 1")
    world_size = whole("world_size", world_size, 1, INT32_MAX)
    rank = whole("rank", rank, 0, world_size - 1, f"an integer from 0 to world_size - 1 = {world_size - 1}")
    threads = f"None or an integer from 1 to {_MAX_THREADS}"
    num_threads = None if num_threads is None else whole("num_threads", num_threads, 1, _MAX_THREADS, threads)
    require("dtype", dtype, f"one of {', '.join(DTYPES)}, or torch's", isinstance(dtype, str | torch.dtype))
    dtype = str(dtype).removeprefix("torch.")
    require_one("dtype", dtype, DTYPES)
    require_one("interpolation", interpolation, ("nearest", "linear"))
    crop_scale, crop_ratio = check_crop(crop, crop_scale, crop_ratio, resize_interpolation)
    horizontal_flip = share("horizontal_flip", horizontal_flip)
    vertical_flip = share("vertical_flip", vertical_flip)
    padding = whole("padding", padding, 0, MAX_SIDE)
    val_resize, crop_pct = check_validation(val_resize, crop_pct, val_crop)
    color_jitter = share("color_jitter", color_jitter)
    mean, std = channels("mean", mean, "three numbers", 0), channels("std", std, "three numbers above 0", LEAST)
    require("with_matrices", with_matrices, "False without a policy", not with_matrices or policy is not None)
    if with_matrices and policy is not None and policy.chains > 1:
        raise ValueError(f"with_matrices must be False for {policy!r}: a mixture of images has no single matrix")
    views = whole("views", views, 1, _MAX_VIEWS)
    require("views", views, "1 without a policy", views == 1 or policy is not None)
    require_one("on_bad_file", on_bad_file, ("raise", "replace"))
    max_bad_share = share("max_bad_share", max_bad_share)
    max_pixels = whole("max_pixels", max_pixels, 1, 2**62, "an integer from 1 to 2**62")
    if hw_decoder_load is not None:
        hw_decoder_load = share("hw_decoder_load", hw_decoder_load, legal="None or a number from 0 to 1")
    decode_size_hint = size_hint(decode_size_hint)
    decode_region = None if decode_region is None else flag("decode_region", decode_region, "None, True or False")
    given = _given(root)
    chosen = choose_device(device)
    dataset = given if isinstance(given, Dataset) else find_dataset(given, train)
    require(
        "root", dataset.labels, "without boxes; detection_loader loads them", not isinstance(dataset.labels, Objects)
    )
    if train:
        dataset.require_labels()
    if images is not None:
        dataset = dataset.first(images)
    if train:
        val_resize = crop_pct = None
    check_fits(size, val_resize)
    resized = "squash" if val_crop == "squash" else None if val_resize is None and crop_pct is None else "center"
    chosen_crop = choose_crop(dataset, crop, train=train, val_crop=resized)
    shuffle = train if shuffle is None else shuffle
    order = choose_order(dataset, shuffle=shuffle, sampler=sampler, weights=weights, repeats=repeats, seed=seed)
    graph_device = "gpu" if chosen.type == "cuda" else "cpu"
    trial: dict[str, Any] = {"image_size": size, "device": graph_device, "device_id": chosen.index}
    recipe = Recipe(
        reads=dataset.reader.feed,
        device=graph_device,
        image_size=size,
        crop=chosen_crop,
        padding=padding if chosen_crop == "pad" else 0,
        stored=stored_size(dataset),
        val_resize=val_resize,
        crop_pct=crop_pct,
        resize_interpolation=resize_interpolation,
        ratio=crop_ratio,
        vertical_flip=train and vertical_flip > 0,
        color_jitter=float(color_jitter) if train else 0.0,
        operations=policy.operations(size) if policy else (),
        chains=policy.chains if policy else 0,
        stages=policy.stages if policy else 0,
        interpolation=interpolation,
        with_matrices=with_matrices,
        with_views=with_views,
        mean=mean,
        std=std,
        dtype=dtype,
        max_pixels=max_pixels,
        hw_decoder_load=hardware_share(chosen) if hw_decoder_load is None else hw_decoder_load,
        decode_size_hint=decode_size_hint,
        decode_region=decode_region,
        views=views,
        before_policy=place("before_policy", before_policy, **trial),
        after_policy=place("after_policy", after_policy, **trial),
    )
    options = LoaderOptions(
        batch_size=batch_size,
        drop_last=drop_last,
        train=train,
        order=order,
        policy=policy,
        device=chosen,
        seed=seed,
        rank=rank,
        world_size=world_size,
        num_threads=num_threads or usable_cores(),
        crop_scale=crop_scale,
        horizontal_flip=horizontal_flip,
        vertical_flip=vertical_flip,
        replace_bad_files=on_bad_file == "replace",
        max_bad_share=max_bad_share,
    )
    return ImageLoader(dataset, recipe, options)


def _given(root: object) -> str | Dataset:
    """Return a path or a data set."""
    if isinstance(root, Dataset):
        return root
    if is_folder(root):
        return Dataset.from_torchvision(root)  # type: ignore[arg-type] # it is one
    legal = "a folder, an s3:// address, a Dataset or an ImageFolder"
    if is_hugging_face(root):
        legal += "; Dataset.from_hugging_face makes a Dataset of Hugging Face's"
    elif isinstance(root, list | tuple):
        legal += "; Dataset.from_samples makes a Dataset of a list"
    return path("root", root, legal)


def _find_policy(policy: object) -> Policy | None:
    if policy is None:
        return None
    if isinstance(policy, str | os.PathLike):
        return find_policy(policy)
    legal = "None, a name, a file or a policy object"
    if isinstance(policy, type):
        legal += f", such as {policy.__name__}()"
    if not isinstance(policy, Policy) or isinstance(policy, type):
        refuse("policy", policy, legal)
    return policy


def channels(name: str, value: object, legal: str, least: float) -> tuple[float, float, float]:
    """Return the numbers of the three channels, from `least` to 1; above 0 unless they are a mean."""
    red, green, blue = numbers(name, value, 3, legal)
    require(name, value, legal, name == "mean" or min(red, green, blue) > 0)
    within = f"three numbers from {least:g} to 1, as channels are in [0, 1] units (those of 0 … 255 over 255)"
    require(name, value, within, least <= min(red, green, blue) and max(red, green, blue) <= 1)
    return red, green, blue


def size_hint(hint: Any) -> tuple[int, int] | None:
    """Return `decode_size_hint`."""
    if hint is None:
        return None
    legal = f"None or (width, height), each an integer from 1 to {_MAX_HINT}"
    return pair("decode_size_hint", hint, 1, _MAX_HINT, legal)


def hardware_share(device: torch.device) -> float:
    """Return the share of a batch for the JPEG decoder of a device. Measured: benchmarks/results/2026-11-26-gpu.md."""
    if device.type == "cpu":
        return 0.0
    return 1.0 if torch.cuda.get_device_capability(device) >= (9, 0) else 0.65


def choose_device(device: object) -> torch.device:
    """Return the device that an argument names."""
    legal = "'auto', 'cpu', 'cuda' or 'cuda:N'"
    if not isinstance(device, str | torch.device):
        refuse("device", device, legal)
    usable = GetCUDADeviceCount() > 0 and torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if usable else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = torch.device("meta")
    require("device", str(device), legal, chosen.type in ("cpu", "cuda"))
    if chosen.type == "cpu":
        return torch.device("cpu")
    if not usable:
        raise ValueError(f"device {str(device)!r} asked for, but there is no GPU that DALI and torch can use")
    count = torch.cuda.device_count()
    index = torch.cuda.current_device() if chosen.index is None else chosen.index
    require("device", str(device), f"{legal}, N from 0 to {count - 1}", index < count)
    return torch.device("cuda", index)


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
