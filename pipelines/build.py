"""`image_loader`, which checks its arguments and builds the loader."""

import os
from numbers import Integral
from typing import Any

import torch
from nvidia.dali.backend import GetCUDADeviceCount  # type: ignore[attr-defined]

from .arguments import INT32_MAX, flag, is_sequence, numbers, path, refuse, require, require_one, share, span, whole
from .datasets import Dataset
from .graph.pipeline import MAX_PIXELS, Recipe
from .loader import ImageLoader
from .options import LoaderOptions
from .policies.base import Policy
from .policies.registry import find_policy
from .readers.hugging_face import is_hugging_face
from .readers.image_folders import is_folder
from .sources import find_dataset

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROP_RATIO = (3 / 4, 4 / 3)  # torchvision's
_LEAST = 1e-6  # that is above 0: its reciprocal is far from the largest float
_MAX_SIDE = 16_384  # of images returned: one takes 3 GiB
_MAX_HINT = 65_535  # JPEG's
_MAX_THREADS = 1024
CROPS = ("auto", "random_resized", "pad")


def image_loader(
    root: str | os.PathLike[str] | Dataset | torch.utils.data.Dataset,
    *,
    batch_size: int,
    image_size: int = 224,
    train: bool = True,
    images: int | None = None,
    drop_last: bool = False,
    policy: str | os.PathLike[str] | Policy | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_threads: int | None = None,
    dtype: str | torch.dtype = "float32",
    interpolation: str = "nearest",
    crop: str = "auto",
    crop_scale: tuple[float, float] = (0.08, 1.0),
    color_jitter: float = 0.0,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    with_matrices: bool = False,
    on_bad_file: str = "raise",
    max_bad_share: float = 0.1,
    max_pixels: int = MAX_PIXELS,
    hw_decoder_load: float = 0.65,
    decode_size_hint: tuple[int, int] | None = None,
) -> ImageLoader:
    """Return a loader of the images under `root`.

    Training: each epoch in a new random order; per image one decode, one random crop, one random mirroring,
    then `policy`. Validation (`train=False`): in the data set's order, without randomness. Files are resized
    (shorter side to image_size / 0.875; to image_size where that is below 128) and cropped in the middle;
    CIFAR images keep their size. Validation may have a `policy` too; `crop` and `crop_scale` have no effect on it.

    The same arguments give the same batches on any machine, whatever `num_threads`. On the GPU, another decoder
    makes small differences in the pixels.

    Args:
        root: Folder of the data, see `find_dataset` for the layouts; a `Dataset`; or an `ImageFolder` of torchvision,
            see `Dataset.from_torchvision`.
        batch_size: Images per batch and process. The last batch of an epoch may be smaller, see `drop_last`.
        image_size: Side of the returned images, in pixels. CIFAR images are resized if it is not 32.
        train: Training, or else validation.
        images: Number of images to use, the first of each class (`Dataset.first`); None: all.
        drop_last: Leave out the last global batch of an epoch where it has fewer than `world_size * batch_size` images:
            batch normalisation cannot train on a batch of one. In training other images are left out in each epoch.
        policy: None, a name in `POLICIES`, a policy object such as `RandAugment(n=2, m=9)`, or a file of
            sub-policies, see `SubPolicies.from_file`.
        device: "auto" (the current GPU where DALI and torch both have one, else the CPU), "cpu", "cuda" or
            "cuda:N".
        seed: Of all random numbers, from 0 to 2⁶⁴ − 1. The same on all ranks.
        rank, world_size: This process's share of each global batch, and the number of shares. The batches of the
            ranks together are those of one process with `world_size * batch_size`.
        num_threads: Of DALI's CPU work; by default the CPU cores this process may use.
        dtype: Of the images: "float32" or "float16", or torch's.
        interpolation: Of the policy's geometric operations: "nearest" or "linear". Nearest is torchvision's
            default for them, and the policies were published with it (AugMix and SimCLR with linear). On the CPU,
            linear takes several times as long.
        crop: "random_resized" (random area and aspect), "pad" (zero padding of 4 pixels, random crop), or
            "auto": "pad" for CIFAR, else "random_resized".
        crop_scale: Least and greatest share of the image's area in "random_resized".
        color_jitter: In training, change brightness, contrast (about mid-grey) and saturation of the clean image, and
            so of the augmented one, each by a factor uniform in 1 ± `color_jitter`; from 0 to 1.
        mean, std: Of the channels R, G, B in [0, 1] units; images are (pixel / 255 − mean) / std.
        with_matrices: Also return the geometry of the policy (`Batch.matrices`). Needs a policy of one chain (any but
            AugMix).
        on_bad_file: What happens if a file cannot be decoded: "raise" an error that names it, or "replace" it by
            another sample, drawn for its place in the epoch: see `Batch.replaced` and `ImageLoader.bad_files`. The
            logger "pipelines" warns of each file once.
        max_bad_share: Share of an epoch's samples that may be replaced, from 0 to 1: more is an error.
        max_pixels: Of a file's image, width times height, at least 1. A larger one is a bad file, as it takes 3 bytes a
            pixel and thread to decode. The default is Pillow's limit, 179 million. A state may be loaded with another.
        hw_decoder_load: Share of a batch that a GPU's hardware JPEG decoder takes, if it has one (A100, H100); CUDA
            kernels decode the rest. From 0 to 1.
        decode_size_hint: Width and height in pixels of the largest images. The hardware decoder then allocates its
            memory at the start, not image by image.

    Raises:
        DataError: The data cannot be used; see `find_dataset`. While iterating: a file cannot be decoded, or too many.
        ValueError: An argument is out of its range.
    """
    train, drop_last = flag("train", train), flag("drop_last", drop_last)
    with_matrices = flag("with_matrices", with_matrices)
    policy = _find_policy(policy)
    batch_size = whole("batch_size", batch_size, 1, INT32_MAX)
    image_size = whole("image_size", image_size, 1, _MAX_SIDE)
    images = (
        None if images is None else whole("images", images, 1, INT32_MAX, f"None or an integer from 1 to {INT32_MAX}")
    )
    seed = whole("seed", seed, 0, 2**64 - 1, "an integer from 0 to 2**64 - 1")
    world_size = whole("world_size", world_size, 1, INT32_MAX)
    rank = whole("rank", rank, 0, world_size - 1, f"an integer from 0 to world_size - 1 = {world_size - 1}")
    threads = f"None or an integer from 1 to {_MAX_THREADS}"
    num_threads = None if num_threads is None else whole("num_threads", num_threads, 1, _MAX_THREADS, threads)
    require("dtype", dtype, "float32 or float16, or torch's", isinstance(dtype, str | torch.dtype))
    dtype = str(dtype).removeprefix("torch.")
    require_one("dtype", dtype, ("float32", "float16"))
    require_one("interpolation", interpolation, ("nearest", "linear"))
    require_one("crop", crop, CROPS)
    crop_scale = span("crop_scale", crop_scale, "two numbers, 0 < least <= greatest <= 1", least=_LEAST, most=1)
    color_jitter = share("color_jitter", color_jitter)
    mean, std = _channels("mean", mean, "three numbers", 0), _channels("std", std, "three numbers above 0", _LEAST)
    require("with_matrices", with_matrices, "False without a policy", not with_matrices or policy is not None)
    if with_matrices and policy is not None and policy.chains > 1:
        raise ValueError(f"with_matrices must be False for {policy!r}: a mixture of images has no single matrix")
    require_one("on_bad_file", on_bad_file, ("raise", "replace"))
    max_bad_share = share("max_bad_share", max_bad_share)
    max_pixels = whole("max_pixels", max_pixels, 1, 2**62, "an integer from 1 to 2**62")
    hw_decoder_load = share("hw_decoder_load", hw_decoder_load)
    decode_size_hint = _size_hint(decode_size_hint)
    given = _given(root)
    chosen = _choose_device(device)
    dataset = given if isinstance(given, Dataset) else find_dataset(given, train)
    if train:
        dataset.require_labels()
    if images is not None:
        dataset = dataset.first(images)
    crop, resize_to = _choose_crop(dataset, crop, train, image_size)
    recipe = Recipe(
        reads=dataset.reader.feed,
        device="gpu" if chosen.type == "cuda" else "cpu",
        image_size=image_size,
        crop=crop,
        resize_to=resize_to,
        ratio=CROP_RATIO,
        color_jitter=float(color_jitter) if train else 0.0,
        operations=policy.operations(image_size) if policy else (),
        chains=policy.chains if policy else 0,
        stages=policy.stages if policy else 0,
        interpolation=interpolation,
        with_matrices=with_matrices,
        mean=mean,
        std=std,
        dtype=dtype,
        max_pixels=max_pixels,
        hw_decoder_load=hw_decoder_load,
        decode_size_hint=decode_size_hint,
    )
    options = LoaderOptions(
        batch_size=batch_size,
        drop_last=drop_last,
        train=train,
        policy=policy,
        device=chosen,
        seed=seed,
        rank=rank,
        world_size=world_size,
        num_threads=num_threads or usable_cores(),
        crop_scale=crop_scale,
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


def _channels(name: str, value: object, legal: str, least: float) -> tuple[float, float, float]:
    red, green, blue = numbers(name, value, 3, legal)
    require(name, value, legal, name == "mean" or min(red, green, blue) > 0)
    within = f"three numbers from {least:g} to 1, as channels are in [0, 1] units (those of 0 … 255 over 255)"
    require(name, value, within, least <= min(red, green, blue) and max(red, green, blue) <= 1)
    return red, green, blue


def _size_hint(hint: Any) -> tuple[int, int] | None:
    if hint is None:
        return None
    legal = f"None or (width, height), each an integer from 1 to {_MAX_HINT}"
    if not is_sequence(hint, 2):
        refuse("decode_size_hint", hint, legal)
    width, height = (int(side) if isinstance(side, Integral) and not isinstance(side, bool) else 0 for side in hint)
    require("decode_size_hint", hint, legal, min(width, height) >= 1 and max(width, height) <= _MAX_HINT)
    return width, height


def _choose_crop(dataset: Dataset, crop: str, train: bool, image_size: int) -> tuple[str, int | None]:
    """Return `Recipe.crop` and `Recipe.resize_to`."""
    if dataset.reader.kind == "pixels":
        resize_to = None if dataset.reader.side(0) == image_size else image_size
        crop = "pad" if crop == "auto" else crop
        return (crop, None if crop == "random_resized" else resize_to) if train else ("none", resize_to)
    if not train:
        return "center", round(image_size / 0.875) if image_size >= 128 else image_size
    return ("pad", image_size) if crop == "pad" else ("random_resized", None)


def _choose_device(device: object) -> torch.device:
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
