"""The images of a run: their folder, the options that they decide, and the loaders."""

import os
from pathlib import Path
from typing import Any

import torch

from dali_salaug.remembering import MEMORY
from pipelines import Batch, Dataset, ImageLoader, find_dataset, find_policy, find_validation, image_loader
from train.config import Config, ResolvedConfig
from train.data.shapes import embedded_data
from train.distributed import ALONE, World
from train.errors import UserError
from train.models.published import UNKNOWN, Facts
from train.models.sizes import map_scale, only_side


def data_folder(config: Config) -> Path:
    """Return the folder of the images; the first use of the embedded data generates it."""
    return Path(config.data) if config.data else embedded_data()


def validation_folder(config: Config) -> Path:
    """Return the folder of the validation images, which may be that of all images."""
    return data_folder(config) if config.val_data is None else Path(config.val_data)


def absolute(data: str) -> str:
    """Return the absolute path of a folder of images; an s3:// address unchanged."""
    return data if data.startswith("s3://") else os.path.abspath(data)


def training_images(config: Config, data: Path | None = None) -> Dataset:
    """Return the training images of a configuration, as many as it uses.

    Args:
        data: a folder in place of the configuration's.

    Raises:
        DataError: there are none.
    """
    dataset = _trained_on(config, find_dataset(data or data_folder(config)))
    return dataset if config.train_images is None else dataset.first(config.train_images)


def _trained_on(config: Config, dataset: Dataset) -> Dataset:
    """Return the training images without those that are held out."""
    return dataset if config.held_out is None else dataset.without_first(config.held_out)


def validation_images(config: Config, classes: list[str] | None = None, data: Path | None = None) -> Dataset:
    """Return the validation images of a configuration.

    Args:
        classes: of the training images, if already known.
        data: a folder in place of the configuration's.

    Raises:
        DataError: there are none, or they have a class that the training images lack.
    """
    if data is None and config.held_out is not None:
        return find_dataset(data_folder(config)).first(config.held_out)
    if data is not None or config.val_data is None:
        return find_dataset(data or data_folder(config), train=False)
    return find_validation(config.val_data, classes or find_dataset(data_folder(config)).classes)


def resolve_for_data(config: Config, dataset: Dataset | None = None, facts: Facts = UNKNOWN) -> ResolvedConfig:
    """Return the configuration with the defaults that the data, the method and the model decide.

    Args:
        dataset: the training images, if already found.
        facts: what is known of the weights to start from.

    Raises:
        UserError: the first image cannot be read, or an option is impossible with this data.
        DataError: the data cannot be found.
    """
    dataset = dataset or find_dataset(data_folder(config))
    _check_numbers(config, dataset)
    side = _first_side(dataset, replace=config.on_bad_file == "replace")
    images = min(len(dataset) - (config.held_out or 0), config.train_images or len(dataset))
    model_side = config.image_size or facts.image_size or only_side(config.model)
    cifar = dataset.reader.kind == "pixels"
    resolved = config.resolved(
        side=side, embedded=config.data is None, cifar=cifar, images=images, model_side=model_side
    )
    resolved.saliency_scale = map_scale(config, resolved)
    resolved.mean, resolved.std = config.mean or facts.mean, config.std or facts.std
    return resolved


def _check_numbers(config: Config, dataset: Dataset) -> None:
    """Raise UserError where the numbers of images and classes make an option impossible."""
    count, classes = len(dataset), len(dataset.classes)
    if config.held_out is not None and not classes <= config.held_out <= count - classes:
        raise UserError(
            f"--held-out must be from {classes}, one of each class, to {count - classes}, as {dataset.root} has"
            f" {count} training images; got {config.held_out}"
        )
    count -= config.held_out or 0
    if config.train_images is not None and not classes <= config.train_images <= count:
        which = "all that" if config.held_out is None else "those that --held-out leaves of what"
        raise UserError(
            f"--train-images must be from {classes}, one of each class, to {count}, {which} {dataset.root} has; got"
            f" {config.train_images}"
        )
    images = config.train_images or count
    if config.lr_per_256 is not None and config.batch_size is not None and config.batch_size > images:
        raise UserError(
            f"--lr-per-256 {config.lr_per_256:g} would be scaled to --batch-size {config.batch_size}, but a step has no"
            f" more than the {images} training images: lower --batch-size to at most {images}, or state --lr"
        )


def shares_images(train: Dataset, validation: Dataset) -> bool:
    """Return whether both have files in common, as with a folder that has no train/ and val/."""
    return train.shares_files(validation)


def _first_side(dataset: Dataset, *, replace: bool) -> int:
    """Return the shorter side of the first image; with `replace`, of the first readable one."""
    for index in range(len(dataset)):
        try:
            return dataset.reader.side(index)
        except OSError as error:
            if not replace:
                name = dataset.name(index)
                raise UserError(f"{name}: cannot be read ({error}); remove it, or give --image-size") from error
    raise UserError(f"{dataset.root}: none of its {len(dataset)} images can be read")


def make_loader(
    config: ResolvedConfig, *, train: bool, dataset: Dataset | None = None, world: World = ALONE, **changes: Any
) -> ImageLoader:
    """Build the training or validation loader of a configuration.

    Args:
        train: which of the two.
        dataset: the data, if already found, as that of a semi-supervised run always is.
        world: the processes that share the images.
        changes: arguments of `pipelines.image_loader` in place of the configuration's.

    Raises:
        DataError: the data cannot be found or used, or its labels are not class indices.
    """
    root: Path | Dataset = data_folder(config) if dataset is None else dataset
    if dataset is None and config.held_out is not None:
        root = _trained_on(config, find_dataset(data_folder(config))) if train else validation_images(config)
    elif dataset is None and not train and config.val_data is not None:
        root = validation_images(config)
    options: dict[str, Any] = {
        "batch_size": (config.step_images if train else config.batch_size) // world.size // config.accumulate,
        "image_size": config.image_size,
        "policy": config.policy if train else None,
        "device": config.device,
        "seed": config.seed,
        "rank": world.rank,
        "world_size": world.size,
        "num_threads": config.workers or max(1, len(os.sched_getaffinity(0)) // world.local_size),
        "interpolation": config.interpolation,
        "crop": config.crop,
        "crop_scale": config.crop_scale,
        "horizontal_flip": config.horizontal_flip,
        "vertical_flip": config.vertical_flip,
        "color_jitter": config.color_jitter,
        "on_bad_file": config.on_bad_file,
        "max_bad_share": config.max_bad_share,
        "max_pixels": config.max_pixels,
        "hw_decoder_load": config.hw_decoder_load,
        "decode_size_hint": config.decode_size_hint,
    }
    if config.mean is not None and config.std is not None:
        options |= {"mean": config.mean, "std": config.std}
    if train:
        options["images"] = config.train_images
        options["with_views"] = config.saliency == MEMORY
        needed = options["with_views"] or config.consistency is not None
        # The mixture of several chains has no geometry: then only clean regions are remembered.
        options["with_matrices"] = needed and config.policy is not None and find_policy(config.policy).chains == 1
    loader = image_loader(root, train=train, **(options | config.loading(train=train) | changes))
    loader.dataset.require_class_indices()
    return loader


def empty_batch(loader: ImageLoader) -> Batch:
    """Return two black images in the loader's form, for a process that has none left while others have some."""
    device = loader.device
    images = torch.zeros(2, 3, *loader.image_size, device=device).to(memory_format=torch.channels_last)
    numbers = torch.zeros(2, dtype=torch.int64, device=device)
    return Batch(
        images=images,
        augmented=images if loader.recipe.chains else None,
        labels=numbers,
        indices=numbers,
        matrices=torch.eye(2, 3, device=device).expand(2, 2, 3) if loader.recipe.with_matrices else None,
        views=torch.eye(2, 3, device=device).expand(2, 2, 3) if loader.recipe.with_views else None,
    )
