"""The images of a semi-supervised run: the labelled and the unlabelled ones, and the loader of the labelled."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipelines import DataError, Dataset, ImageLoader, find_dataset
from pipelines.formats import IMAGE_SUFFIXES
from train.data.endless import Endless
from train.data.loaders import make_loader, training_images
from train.distributed import ALONE, World
from train.errors import UserError
from train.tasks.semi.config import ResolvedSemiConfig, SemiConfig


def labelled_images(config: SemiConfig) -> Dataset:
    """Return the labelled images of a configuration.

    Raises:
        UserError: there are not as many of each class as --labels needs.
        DataError: the data cannot be found, or its labels are not class indices.
    """
    dataset = training_images(config)
    if config.labels is None:
        return dataset
    labels, classes = dataset.class_indices, len(dataset.classes)
    least = int(np.bincount(labels[labels >= 0], minlength=classes).min())
    if not classes <= config.labels <= classes * least:
        raise UserError(
            f"--labels must be from {classes}, one of each class, to {classes * least}, as the smallest of the"
            f" {classes} classes of {dataset.root} has {least} training images; got {config.labels}"
        )
    return dataset.take(draw_balanced(labels, classes, config.labels, config.seed))


def draw_balanced(labels: np.ndarray, classes: int, count: int, seed: int) -> np.ndarray:
    """Return `count` places of images, in ascending order, as many of each class, or one more of some.

    Args:
        labels: class indices, (n,) int64.
        classes: number of classes, each with enough images.
        count: at least `classes`.
        seed: of the draw.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    each, more = divmod(count, classes)
    with_one_more = set(generator.permutation(classes)[:more].tolist())
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[: each + (label in with_one_more)]
        for label in range(classes)
    ]
    return np.sort(np.concatenate(chosen))


def unlabelled_images(config: SemiConfig, classes: list[str]) -> tuple[Dataset, bool]:
    """Return the unlabelled images of a configuration, and whether their classes are known, to measure pseudo-labels.

    Args:
        classes: of the labelled images, which the data set has too. Where the classes of the images are not known, or
            are others, all labels are 0.

    Raises:
        DataError: the data cannot be found.
    """
    if config.unlabelled is None:
        return training_images(config), True
    dataset = _found(config.unlabelled)
    known = (
        dataset.has_class_indices and set(dataset.classes) <= set(classes) and bool((dataset.class_indices >= 0).all())
    )
    if known:
        labels = np.array([classes.index(name) for name in dataset.classes])[dataset.class_indices]
    else:
        labels = np.zeros(len(dataset), dtype=np.int64)
    return replace(dataset, classes=classes, labels=labels, unlabelled=False), known


def _found(folder: str) -> Dataset:
    """Return the images of a folder: in any layout, or directly in it."""
    try:
        return find_dataset(folder)
    except DataError:
        path = Path(folder)
        entries = sorted(path.iterdir()) if path.is_dir() else []
        files = [file for file in entries if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
        if not files:
            raise
        return Dataset.from_samples(files)


def labelled_loader(config: ResolvedSemiConfig, dataset: Dataset, unlabelled: int, world: World = ALONE) -> ImageLoader:
    """Return the loader of the labelled images: clean crops, a full batch for each batch of unlabelled images.

    Args:
        dataset: the labelled images.
        unlabelled: number of unlabelled images.
    """
    size = config.batch_size // config.accumulate  # over all processes
    batches = -(-unlabelled // (size * config.unlabelled_ratio))
    sampler = Endless(len(dataset), batches * size, config.seed)
    changes = {"sampler": sampler, "images": None, "policy": None, "batch_size": size // world.size}
    return make_loader(config, train=True, dataset=dataset, world=world, **changes)
