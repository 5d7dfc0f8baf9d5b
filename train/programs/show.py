"""Draw what a method does to your own images, by the model of a run or another one, as a contact sheet.

The columns are those that the method has of: clean | saliency with the region drawn | partner | augmented | the
network's input. The regions that the method writes to are outlined in cyan, those that it takes pixels from in green.
An image whose folder has the name of none of the model's classes counts as the class that the model predicts.

Without a run, --model names the model: an untrained one, or with --pretrained one of torchvision's with its weights.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from dali_salaug import METHODS
from pipelines import Dataset, find_dataset
from pipelines.formats import IMAGE_SUFFIXES
from pipelines.readers.files import Files
from pipelines.readers.s3 import is_address
from train.analysis.trained import OF_THE_METHOD, UNKNOWN, Trained, configure, load_best, loader_of
from train.analysis.unrun import load_unrun, torchvision_weights
from train.cli.checks import check_effect
from train.cli.parser import SEED, add_option, at_least, check_writable, names_of_methods, stated
from train.config import ResolvedConfig
from train.data.loaders import validation_folder
from train.errors import UserError
from train.tasks.classification.pictures import Column, contact_sheet, draw_sheet, mixed_labels, of_different_classes
from train.tasks.classification.stage import make_stage

OPTIONS = (  # of Config
    "method",
    "policy",
    "tau",
    "region_size",
    "saliency",
    "saliency_scale",
    "saliency_target",
    "interpolation",
)
MIXED = 16  # images among which partners are drawn


class Sheet(NamedTuple):
    """A contact sheet before it is drawn."""

    columns: list[Column]  # of all images of the batch
    names: list[str]  # classes of the images to show, which are the first of the batch
    files: list[str]  # their file names
    notes: list[str]  # their mixed labels; "" where labels are not mixed


def find_images(paths: Sequence[Path], classes: list[str] | None = None) -> Dataset:
    """Return the images in files and folders, with labels that number `classes`, or UNKNOWN for another class.

    A folder holds images, or is laid out as for training, as are lists (.txt) and s3:// addresses; of those, the
    validation images count. The class of a file is the name of its folder.

    Args:
        classes: of the model; None: those of the images.

    Raises:
        UserError: a path does not exist, or pickles or the like are not the only path.
        DataError: a folder without images.
    """
    parts = [_find(path) for path in paths]
    if classes is None:
        classes = sorted({name for part in parts for name in part.classes})
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number.get(part.classes[label], UNKNOWN) for part in parts for label in part.class_indices])
    if len(parts) == 1:
        return dataclasses.replace(parts[0], classes=classes, labels=labels, unlabelled=True)
    if any(part.reader.kind != "files" for part in parts):
        raise UserError(f"pickles, shards and LMDB folders must be the only path; got {', '.join(map(str, paths))}")
    files = Files([path for part in parts for path in part.reader.files])
    return Dataset(classes, labels, "", files, unlabelled=True)


def _find(path: Path) -> Dataset:
    if is_address(path):
        return find_dataset(path, train=False)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.suffix == ".txt":
        return find_dataset(path, train=False)
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        if not files:
            return find_dataset(path, train=False)
    folder = files[0].absolute().parent
    return Dataset([folder.name], np.zeros(len(files), dtype=np.int64), str(folder), Files([str(f) for f in files]))


def make_sheet(trained: Trained, config: ResolvedConfig, dataset: Dataset, *, count: int, seed: int) -> Sheet:
    """Return what the method of `config` does to images of the data set, by the model of `trained`.

    The images are cropped as in validation. Where there are more than `count`, those of different classes come first.
    Images of unknown class count as the class that the model predicts.

    Args:
        dataset: from `find_images`.
        count: images to show, at most. Partners may be others.
        seed: of the policy, the regions and the partners.

    Raises:
        UserError: the method cannot be shown on these images.
        DataError: an image cannot be decoded.
    """
    mixes = METHODS[config.method].kind == "two images"
    if mixes and len(dataset) == 1:
        raise UserError(f"--method {config.method} mixes two images; got one, {dataset.name(0)}")
    wanted = max(count, MIXED) if mixes else count
    chosen = np.arange(len(dataset)) if len(dataset) <= count else of_different_classes(dataset.class_indices, wanted)
    batch = next(iter(loader_of(trained, config, dataset.take(chosen), batch_size=len(chosen), seed=seed)))
    model, unknown = trained.model.eval(), batch.labels == UNKNOWN
    with torch.no_grad():
        labels = torch.where(unknown, model(batch.images).argmax(1), batch.labels)
    stage = make_stage(config, len(trained.classes), seed, warmup_epochs=0)
    try:
        trace = stage.trace(model, batch.images, labels, batch.augmented)
    except ValueError as error:
        raise UserError(f"--method {config.method}: {error}") from error
    augmented = None if trace.inputs is batch.augmented else batch.augmented
    columns = contact_sheet(stage.method, batch.images, trace, augmented, config.policy)
    names = [
        f"{trained.classes[label]}, predicted" if predicted else trained.classes[label]
        for label, predicted in zip(labels.tolist(), unknown.tolist(), strict=True)
    ]
    files = [Path(dataset.name(int(index))).name for index in chosen[:count]]
    return Sheet(columns, names[:count], files, mixed_labels(trace.targets, trained.classes)[:count])


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", nargs="?", type=Path, metavar="RUN", help="folder of a finished run, or its best.pt; none with --model"
    )
    parser.add_argument(
        "paths", nargs="*", type=Path, default=[], metavar="IMAGE_OR_DIR",
        help="images, folders of images, or data as for training (default: the run's validation images)",
    )  # fmt: skip
    parser.add_argument(
        "--data",
        type=Path,
        metavar="IMAGE_OR_DIR",
        help="the same, as an option (default: the run's validation images)",
    )
    parser.add_argument("--model", help="in place of a run: a model as for training (default: the run's)")
    parser.add_argument(
        "--pretrained",
        action="store_true",
        help="with --model: torchvision's weights, from torch's cache (default: untrained)",
    )
    parser.add_argument(
        "--image-size", type=at_least(8), help="with --model: side of its input in pixels (default: as for training)"
    )
    for name in OPTIONS:
        own = " if the method is the run's, else the method's" if name in OF_THE_METHOD else ""
        add_option(parser, name, default=f"the run's{own}")
    parser.add_argument("--count", type=at_least(1), default=6, help="images at most (default: %(default)s)")
    parser.add_argument("--seed", type=SEED, default=0, help="of policy, regions and partners (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        help="PNG file of the picture (default: METHOD.png); with --all, the folder (default: methods)",
    )
    parser.add_argument("--all", action="store_true", help="draw a picture of every method (default: of one)")
    parser.epilog = names_of_methods()


def _model_and_images(options: argparse.Namespace) -> tuple[Trained, Dataset]:
    """Return the model of the run, or that of --model, and the images to show."""
    images = [*options.paths, *([options.data] if options.data else [])]
    if options.model is None:
        if options.run is None:
            raise UserError("show needs the folder of a run, or --model NAME with --data IMAGE_OR_DIR")
        for name in ("pretrained", "image_size"):
            if getattr(options, name):
                raise UserError(f"--{name.replace('_', '-')} needs --model; a run has its own")
        trained = load_best(options.run)
        return trained, find_images(images or [validation_folder(trained.config)], trained.classes)
    if options.run is not None:  # without a run, the first path is an image too
        images.insert(0, options.run)
    if not images:
        raise UserError("--model needs --data IMAGE_OR_DIR: there is no run whose images could be shown")
    weights = torchvision_weights(options.model) if options.pretrained else None
    dataset = find_images(images, None if weights is None else weights.meta["categories"])
    size = options.image_size or (None if weights is None else 224)
    return load_unrun(options.model, dataset, weights=weights, image_size=size, seed=options.seed), dataset


def run(options: argparse.Namespace) -> int:
    """Draw as the command line states. Returns the exit status, 0.

    Raises:
        UserError, DataError: as `make_sheet` and `find_images`, and for an illegal option.
    """
    chosen = stated(options, OPTIONS)
    count, seed, every, out = options.count, options.seed, options.all, options.out
    if every and {"method", "policy"} & set(chosen):
        raise UserError("--all draws each method with its own policy; leave out --method and --policy")
    if out is not None and not every and out.suffix.lower() != ".png":
        raise UserError(f"--out must end in .png; got {out}")
    if out is not None and not every:
        out.parent.mkdir(parents=True, exist_ok=True)
        check_writable(out)
    trained, dataset = _model_and_images(options)
    methods = list(METHODS) if every else [chosen.get("method", trained.config.method)]
    for method in methods:
        config = configure(trained, chosen | {"method": method}, dataset)
        if not every:
            check_effect(chosen, config)
        sheet = make_sheet(trained, config, dataset, count=count, seed=seed)
        path = (out or Path("methods")) / f"{method}.png" if every else out or Path(f"{method}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        mean, std = (values.flatten().tolist() for values in (trained.mean, trained.std))
        draw_sheet(sheet.columns, sheet.names, sheet.notes, path, mean=mean, std=std, files=sheet.files)
        print(f"{len(sheet.names)} of {len(dataset)} images: {path}")
    return 0
