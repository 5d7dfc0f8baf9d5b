"""The images of a detection run, and their loaders."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines import Batch, BatchObjects, DataError, Dataset, ImageLoader, Objects, detection_loader, find_detection
from train.data.endless import Endless
from train.data.scenes import embedded_scenes
from train.distributed import ALONE, World
from train.errors import UserError
from train.tasks.detection.config import DetectionConfig, ResolvedDetectionConfig


def data_folder(config: DetectionConfig) -> Path:
    """Return the folder of the images; the first use of the embedded scenes generates it."""
    return Path(config.data) if config.data else embedded_scenes()


def training_images(config: DetectionConfig) -> Dataset:
    """Return the training images of a configuration: those in which there is an object to train on.

    Raises:
        UserError: there are not as many as --train-images asks for.
        DataError: the data cannot be found or used.
    """
    roots = [data_folder(config), *map(Path, config.more_data or ())]
    if config.annotations is not None:
        dataset = find_detection(roots[0], annotations=config.annotations)
    else:
        dataset = find_detection(roots, config.train_split)
    dataset = dataset.take(objects_of(dataset).counts(with_crowds=False) > 0)
    if not len(dataset):
        raise DataError(f"'{dataset.root}' has no training image with an object that is no crowd")
    if config.train_images is None:
        return dataset
    if config.train_images > len(dataset):
        raise UserError(
            f"--train-images must be at most {len(dataset)}, the training images with objects; got"
            f" {config.train_images}"
        )
    return dataset.take(np.arange(config.train_images))


def validation_images(config: DetectionConfig, classes: list[str]) -> Dataset:
    """Return the validation images of a configuration.

    Args:
        classes: of the training images.

    Raises:
        DataError: the data cannot be found or used, or has no objects.
    """
    own = config.val_data is not None
    roots = [Path(str(config.val_data))] if own else [data_folder(config), *map(Path, config.more_data or ())]
    if config.val_annotations is not None:
        dataset = find_detection(roots[0], annotations=config.val_annotations, classes=classes)
    else:
        dataset = find_detection(roots, config.val_split, classes=classes)
    if not (objects_of(dataset).kinds == 0).any():
        raise DataError(f"'{dataset.root}' has no objects to validate on in '{config.val_split}'")
    return dataset


def objects_of(dataset: Dataset) -> Objects:
    """Return the objects of a data set of `find_detection`."""
    assert isinstance(dataset.labels, Objects)
    return dataset.labels


def make_loader(
    config: ResolvedDetectionConfig, dataset: Dataset, *, train: bool, world: World = ALONE, **changes: Any
) -> ImageLoader:
    """Build the training or validation loader of a configuration.

    Args:
        train: which of the two.
        changes: arguments of `pipelines.detection_loader` in place of the configuration's.
    """
    options: dict[str, Any] = {
        "batch_size": config.batch_size // world.size // config.accumulate,
        "short_side": config.short_sides,
        "long_side": config.long_side,
        "device": config.device,
        "seed": config.seed,
        "rank": world.rank,
        "world_size": world.size,
        "num_threads": config.workers or max(1, len(os.sched_getaffinity(0)) // world.local_size),
        "horizontal_flip": config.horizontal_flip,
        "vertical_flip": config.vertical_flip,
        "on_bad_file": config.on_bad_file,
        "max_bad_share": config.max_bad_share,
        "max_pixels": config.max_pixels,
        "hw_decoder_load": config.hw_decoder_load,
        "decode_size_hint": config.decode_size_hint,
    }
    if config.mean is not None and config.std is not None:
        options |= {"mean": config.mean, "std": config.std}
    if train and config.iterations is not None:
        options["sampler"] = Endless(len(dataset), config.samples(len(dataset)), config.seed)
    return detection_loader(dataset, train=train, **(options | changes))


def empty_batch(device: torch.device) -> Batch:
    """Return a black image without objects, for a process that has none left while others have some."""
    images = torch.zeros(1, 3, 64, 64, device=device).to(memory_format=torch.channels_last)
    numbers = torch.zeros(1, dtype=torch.int64, device=device)
    objects = BatchObjects((torch.zeros(0, 4, device=device),), (numbers[:0],))
    return Batch(images=images, augmented=None, labels=objects, indices=numbers, sizes=((64, 64),))
