"""Measure how much of the object the methods remove or keep.

On validation images whose object has a known box, with the best checkpoint of a run: the share of the box that Cutout
and KeepCutout remove, and the share that a random clean square and KeepPaste's keep.
"""

import argparse
import csv
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from dali_salaug import Cutout, KeepCutout, KeepPaste, SaliencyStage
from dali_salaug.methods.base import Method
from pipelines import Dataset
from pipelines.decoding import DecodingError, decode, open_image
from train.analysis.intervals import half_normal_interval
from train.analysis.report import add_measuring_options, report
from train.analysis.trained import Trained, check_classes, load_best, spread_evenly
from train.cli.parser import add_boxes, at_least
from train.data.loaders import validation_folder, validation_images
from train.errors import UserError

BATCH = 64
_COLUMNS = ("path", "x0", "y0", "x1", "y1")  # of a table of boxes
_ON_ITS_SIDE = (5, 6, 7, 8)  # orientations by EXIF that exchange width and height


class Share(NamedTuple):
    """A mean over images, in [0, 1], and its standard error."""

    mean: float
    error: float


def box_shares(regions: Tensor, objects: Tensor) -> Tensor:
    """Return the share of each object's box that is in the region: (B,) float64 in [0, 1].

    Args:
        regions: (B, 4), top, left, bottom, right in pixels, half-open.
        objects: (B, 4), likewise; whole pixels or not, of positive area.
    """
    objects = objects.double()
    low = torch.maximum(regions[:, :2].double(), objects[:, :2])
    high = torch.minimum(regions[:, 2:].double(), objects[:, 2:])
    areas = (objects[:, 2:] - objects[:, :2]).prod(1)
    return (high - low).clamp(min=0).prod(1) / areas


def read_boxes(path: Path) -> dict[str, tuple[int, int, int, int]]:
    """Read boxes.tsv: path, x0, y0, x1, y1 in pixels, inclusive, of the image with its orientation applied.

    Returns:
        By the path of each image: top, left, bottom, right in pixels, half-open.

    Raises:
        UserError: the file does not exist, or lacks a column; or a line has no box, and the message has its number.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; pass --boxes, a table with the columns {', '.join(_COLUMNS)}")
    boxes: dict[str, tuple[int, int, int, int]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t")
        try:
            missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise UserError(
                    f"{path}: needs the tab-separated columns {', '.join(_COLUMNS)}; {missing[0]} is missing"
                )
            for row in rows:
                x0, y0, x1, y1 = (int(row[name]) for name in _COLUMNS[1:])
                if not (0 <= x0 <= x1 and 0 <= y0 <= y1):
                    raise ValueError(f"x0 <= x1 and y0 <= y1 from 0 on, got {x0}, {y0}, {x1}, {y1}")
                boxes[row["path"]] = y0, x0, y1 + 1, x1 + 1
        except (TypeError, ValueError, csv.Error) as error:
            numbers = ", ".join(_COLUMNS[1:])
            raise UserError(
                f"{path}, line {rows.line_num}: needs a path and four whole numbers, {numbers}: {error}"
            ) from error
    return boxes


@contextmanager
def readable(path: str) -> Iterator[bytes]:
    """Return the content of an image's file; its errors, and those of decoding it, name the file."""
    try:
        yield Path(path).read_bytes()
    except (OSError, DecodingError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot decode the image: {reason}") from error


def upright_size(path: str) -> tuple[int, int]:
    """Return the width and height of an image with the orientation in its metadata applied, by its header.

    Raises:
        UserError: the header cannot be read.
    """
    with readable(path) as content, open_image(content) as image:
        width, height = image.size
        turned = False
        with suppress(Exception):  # broken metadata, which a decoder ignores
            turned = image.getexif().get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
    return (height, width) if turned else (width, height)


def view(path: str, box: tuple[int, int, int, int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and its box as the network sees them: upright, shorter side resized to `size`, central square.

    The box is clipped to the square and may be empty.

    Returns:
        (size, size, 3) uint8, and the box's top, left, bottom, right in its pixels, float64.

    Raises:
        UserError: the image cannot be decoded.
    """
    with readable(path) as content:
        image = Image.fromarray(decode(content))
    width, height = image.size
    ratio = size / min(width, height)
    new_width, new_height = max(size, round(width * ratio)), max(size, round(height * ratio))
    left, top = (new_width - size) // 2, (new_height - size) // 2
    resized = image.resize((new_width, new_height), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized.crop((left, top, left + size, top + size)))
    scaled = np.array(box) * np.tile((new_height / height, new_width / width), 2) - np.tile((top, left), 2)
    return pixels, scaled.clip(0, size)


def batches(dataset: Dataset, boxes: dict, size: int, limit: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield images (B, 3, size, size) uint8, labels (B,) and boxes (B, 4), where the box is known and in view.

    Args:
        limit: images at most, spread evenly over the data set.
    """
    prefix = f"{dataset.root}/"  # a list may have paths of other folders: as they are
    names = [path.removeprefix(prefix) for path in dataset.reader.files]
    known = [i for i, name in enumerate(names) if name in boxes]
    if not known:
        raise UserError("boxes.tsv has none of the validation images; its paths are relative to the data folder")
    kept = []
    for i in (known[k] for k in spread_evenly(len(known), limit)):
        pixels, box = view(dataset.reader.files[i], boxes[names[i]], size)
        if box[2] > box[0] and box[3] > box[1]:
            kept.append(
                (
                    torch.from_numpy(pixels.copy()).permute(2, 0, 1),
                    torch.tensor(dataset.class_indices[i]),
                    torch.from_numpy(box),
                )
            )
    for first in range(0, len(kept), BATCH):
        images, labels, objects = (torch.stack(part) for part in zip(*kept[first : first + BATCH], strict=True))
        yield images, labels, objects


def measure(
    trained: Trained, run: Path, boxes: Path | None, data: Path | None, limit: int, repeats: int
) -> dict[str, Any]:
    """Measure the shares for the best checkpoint of a run.

    Args:
        trained: that checkpoint, with the map's options to measure.
        boxes: the table of `read_boxes`; None: boxes.tsv in the data folder.
        limit: images at most.
        repeats: draws for each image.

    Returns:
        "images", "repeats"; and for "cut" (share removed) and "paste" (share kept) "random" and "salient", each with
        the mean over images and its standard error, and "difference" (salient − random, paired by image), which has the
        normal 95 % interval "ci95" too.
    """
    config, model, device = trained.config, trained.model, trained.device
    root = data or validation_folder(config)
    dataset = validation_images(config, trained.classes, data)
    if dataset.reader.kind != "files":
        raise UserError(f"{root}: it has no image files, which boxes belong to; pass --data")
    if any("://" in path for path in dataset.reader.files):
        raise UserError(f"{root}: coverage reads images on this machine only, not from s3://; pass --data")
    check_classes(trained, dataset, run)

    methods: dict[tuple[str, str], Method] = {
        ("cut", "random"): Cutout(config.region_size),
        ("cut", "salient"): KeepCutout(config.region_size, tau=config.tau),
        ("paste", "random"): KeepPaste(config.region_size, tau=0.0),  # every square qualifies
        ("paste", "salient"): KeepPaste(config.region_size, tau=config.tau),
    }
    how: dict[str, Any] = {
        "saliency": config.live_saliency,
        "scale": config.saliency_scale,
        "target": config.saliency_target,
    }
    stages = {key: SaliencyStage(method, **how) for key, method in methods.items()}
    shares: dict[tuple[str, str], list[Tensor]] = {key: [] for key in methods}
    for batch in batches(dataset, read_boxes(boxes or Path(dataset.root) / "boxes.tsv"), config.image_size, limit):
        pixels, labels, objects = (part.to(device) for part in batch)
        images = (pixels / 255 - trained.mean) / trained.std
        for key, stage in stages.items():
            drawn = [stage.trace(model, images, labels, images).boxes for _ in range(repeats)]
            shares[key].append(torch.stack([box_shares(b, objects) for b in drawn if b is not None]).mean(0).cpu())
    per_image = {key: torch.cat(parts) for key, parts in shares.items()}

    result: dict = {"run": str(run), "images": len(per_image["cut", "random"]), "repeats": repeats}
    for what in ("cut", "paste"):
        random, salient = per_image[what, "random"], per_image[what, "salient"]
        difference = _share(salient - random)
        half = half_normal_interval(difference.error)
        interval = [difference.mean - half, difference.mean + half]
        result[what] = {
            "random": _share(random)._asdict(),
            "salient": _share(salient)._asdict(),
            "difference": difference._asdict() | {"ci95": interval},
        }
    return result


def _share(values: Tensor) -> Share:
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else float("nan")
    return Share(values.mean().item(), error)


def _print(result: dict) -> None:
    print(f"{result['images']} images, {result['repeats']} draws each; share of the object's box, per cent")
    for what, title, names in (
        ("cut", "removed by", ("Cutout", "KeepCutout")),
        ("paste", "kept clean by", ("random square", "KeepPaste")),
    ):
        for key, name in zip(("random", "salient"), names, strict=True):
            share = result[what][key]
            print(f"  {title:<14} {name:<14} {100 * share['mean']:6.2f} ± {100 * share['error']:.2f} (standard error)")
        d = result[what]["difference"]
        low, high = (100 * v for v in d["ci95"])
        print(
            f"  {'':<14} {'difference':<14} {100 * d['mean']:+6.2f}, 95 % in [{low:+.2f}, {high:+.2f}], paired by image"
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    add_measuring_options(parser)
    add_boxes(parser, "boxes.tsv in the data folder")
    parser.add_argument("--repeats", type=at_least(1), default=8, help="draws for each image (default: %(default)s)")


def run(options: argparse.Namespace) -> int:
    """Measure as the command line states. Returns the exit status, 0.

    Raises:
        UserError, DataError: the run, the images or an option cannot be used.
    """
    rest = options.run, options.boxes, options.data, options.images, options.repeats
    return report(options, lambda: measure(load_best(options.run), *rest), _print)
