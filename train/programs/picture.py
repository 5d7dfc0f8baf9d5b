"""Draw the README's first picture from a finished run: what an augmentation leaves of the object.

A row for the first validation image of each class: the clean image, its saliency map, Cutout beside KeepCutout,
RandAugment beside KeepRandAugment. Under each of these four is the share of the object's box that is left. Of several
draws of a square, the picture shows the one with the median share. The last row has the means over all validation
images. The data needs a table of the objects' boxes, boxes.tsv.
"""

import argparse
import dataclasses
import functools
import itertools
import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dali_salaug import saliency_map
from train.analysis.boxes import with_boxes, with_objects
from train.analysis.coverage import box_shares, measure
from train.analysis.trained import Trained, load_best, loader_of, options_of
from train.cli.checks import check
from train.cli.parser import SEED, add_boxes, add_option, add_run, at_least, check_writable, stated
from train.config import Config
from train.data.loaders import validation_folder, validation_images
from train.errors import UserError
from train.tasks.classification.pictures import REGION, of_different_classes
from train.tasks.classification.stage import make_stage

SIDE = 192  # of an image on the page, in pixels, as are all lengths below
GAP, PAIR_GAP, MARGIN = 6, 22, 10  # between the images of a pair, between pairs, around all
HEADER, CAPTION, FOOTER, BAR = 40, 42, 84, 7
MAP_OPTIONS = ("saliency", "saliency_scale", "saliency_target")  # of Config
INK, FAINT, LEFT, LOST, OBJECT = "#202428", "#58646c", "#30a450", "#ffcccc", "white"


class Column(NamedTuple):
    """One column of the picture, for all its images."""

    title: str
    pictures: np.ndarray  # (B, h, w, 3), uint8
    regions: Tensor | None = None  # (B, 4): top, left, bottom, right in pixels of the network's input, half-open
    shares: Tensor | None = None  # (B,), float64 in [0, 1]: what is left of the object's box
    verb: str = ""  # how it is left


class Examples(NamedTuple):
    """The rows of the picture."""

    names: list[str]  # B classes
    objects: Tensor  # (B, 4), float64: the objects' boxes, like Column.regions
    columns: list[Column]


def make_examples(trained: Trained, boxes: Path, *, count: int, draws: int, seed: int) -> Examples:
    """Return what the methods make of the first validation images of each class, by the run's network.

    RandAugment and KeepRandAugment have the same augmented image. Of a method's squares, each image has the one whose
    share is the median, the lower of two: the luck of a single draw would say little.

    Args:
        trained: from `load_best`.
        boxes: table of the objects' boxes, see `read_boxes`.
        count: images at most: the first of each class, then the second, and so on, of those with their object in view.
        draws: of each square.
        seed: of policy and squares.

    Raises:
        UserError: the table does not exist, or has none of the images.
    """
    config, dataset = trained.config, validation_images(trained.config, trained.classes)
    places = of_different_classes(dataset.class_indices, len(dataset))
    places = places[np.isin(places, with_boxes(dataset, boxes))]
    in_view = (
        (place, thing)
        for some, _, _, things in with_objects(trained, dataset, boxes, places)
        for place, thing in zip(some, things, strict=True)
    )
    found = list(itertools.islice(in_view, count))
    shown = dataset.take(np.array([place for place, _ in found]))
    batch = next(iter(loader_of(trained, config, shown, policy="randaugment", batch_size=len(found), seed=seed)))
    objects = torch.stack([thing for _, thing in found]).to(batch.images.device)

    saliency = saliency_map(
        trained.model,
        batch.images,
        batch.labels,
        method=config.live_saliency,
        target=config.saliency_target,
        scale=config.saliency_scale,
        generator=torch.Generator(batch.images.device).manual_seed(seed),
    )

    def pixels(images: Tensor) -> np.ndarray:
        levels = (images * trained.std + trained.mean).clamp(0, 1) * 255
        return levels.round().byte().permute(0, 2, 3, 1).cpu().numpy()

    def column(title: str, method: str) -> Column:
        stage = make_stage(dataclasses.replace(config, method=method), len(trained.classes), seed, warmup_epochs=0)
        made: list[Any] = [
            stage.trace(trained.model, batch.images, batch.labels, batch.augmented) for _ in range(draws)
        ]
        pastes = stage.method.uses_augmented
        covered = torch.stack([box_shares(trace.boxes, objects) for trace in made])
        shares, which = (covered if pastes else 1 - covered).median(dim=0)
        each = torch.arange(len(objects), device=which.device)
        inputs = torch.stack([trace.inputs for trace in made])[which, each]
        regions = torch.stack([trace.boxes for trace in made])[which, each]
        return Column(title, pixels(inputs), regions, shares, "kept clean" if pastes else "left")

    kept = column("KeepRandAugment", "keep_randaugment")
    policy = make_stage(dataclasses.replace(config, method="randaugment"), len(trained.classes), seed)
    augmented, _ = policy(trained.model, batch.images, batch.labels, batch.augmented)
    columns = [
        Column("clean image", pixels(batch.images)),
        Column("saliency map", _in_colour(saliency)),
        column("Cutout", "cutout"),
        column("KeepCutout", "keep_cutout"),
        Column("RandAugment", pixels(augmented), None, torch.zeros(len(objects), dtype=torch.float64), kept.verb),
        kept,
    ]
    return Examples([trained.classes[label] for label in batch.labels.tolist()], objects, columns)


def _in_colour(maps: Tensor) -> np.ndarray:
    """Return maps (B, h, w), each from its least to its greatest value, as (B, h, w, 3) uint8."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    levels = ((maps - low) / (high - low).clamp(min=1e-30)).cpu().numpy()
    return matplotlib.colormaps["inferno"](levels, bytes=True)[..., :3]


def draw(examples: Examples, means: dict[str, Any], path: Path, *, image_size: int) -> None:
    """Write the picture as PNG.

    Args:
        examples: from `make_examples`.
        means: over the validation images, from `measure`.
        path: of the PNG.
        image_size: side of the network's input in pixels.
    """
    rows, scale = len(examples.names), SIDE / image_size
    lefts = [MARGIN + i * (SIDE + GAP) + i // 2 * (PAIR_GAP - GAP) for i in range(len(examples.columns))]
    foot = HEADER + rows * (SIDE + CAPTION)
    sheet = Image.new("RGB", (lefts[-1] + SIDE + MARGIN, foot + FOOTER), "white")
    on = ImageDraw.Draw(sheet)
    cut, paste = means["cut"], means["paste"]
    overall = (None, None, 1 - cut["random"]["mean"], 1 - cut["salient"]["mean"], 0.0, paste["salient"]["mean"])
    for left, column, mean in zip(lefts, examples.columns, overall, strict=True):
        on.text((left + SIDE / 2, HEADER / 2), column.title, INK, _font(18, "-Bold"), anchor="mm")
        for row in range(rows):
            top = HEADER + row * (SIDE + CAPTION)
            picture = Image.fromarray(column.pictures[row])
            sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, top))
            if not column.verb:
                _outline(on, left, top, examples.objects[row] * scale, OBJECT)
            if column.regions is not None:
                _outline(on, left, top, column.regions[row] * scale, REGION)
            if column.shares is not None:
                _share(on, left, top + SIDE, column.shares[row].item(), column.verb, _font(18))
        if mean is not None:
            _share(on, left, foot, mean, column.verb, _font(18, "-Bold"))
    for row, name in enumerate(examples.names):
        middle = HEADER + row * (SIDE + CAPTION) + SIDE + 13 + BAR
        on.text((MARGIN, middle), name, INK, _font(18), anchor="lm")
        on.text((lefts[1] + SIDE, middle), "of the object:", FAINT, _font(18), anchor="rm")
    text = f"mean of {means['images']} validation images:"
    on.text((lefts[1] + SIDE, foot + 13 + BAR), text, INK, _font(18, "-Bold"), anchor="rm")
    text = (
        f"Shares of the object's box (white); of {means['repeats']} draws of a square (cyan), the median one."
        f" A clean square at a random place keeps {_percent(paste['random']['mean'])} on average."
    )
    on.text((MARGIN, foot + FOOTER - 20), text, FAINT, _font(16), anchor="lm")
    # To every fourth level: a third fewer bytes, and no visible difference.
    sheet.point(lambda level: min(255, (level + 2) // 4 * 4)).save(path, optimize=True)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


@functools.cache
def _font(size: int, style: str = "") -> ImageFont.FreeTypeFont:
    """Return the font that comes with matplotlib, so that the picture is the same everywhere."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / f"fonts/ttf/DejaVuSans{style}.ttf"), size)


def _outline(on: ImageDraw.ImageDraw, left: int, top: int, box: Tensor, colour: str) -> None:
    y0, x0, y1, x1 = box.round().int().tolist()
    for inset, edge in ((0, "black"), (1, colour), (2, colour), (3, "black")):
        corners = (left + x0 + inset, top + y0 + inset, left + x1 - 1 - inset, top + y1 - 1 - inset)
        on.rectangle(corners, outline=edge)


def _share(on: ImageDraw.ImageDraw, left: int, top: int, share: float, verb: str, font: ImageFont.FreeTypeFont) -> None:
    """Draw a bar and its number, below `top`."""
    on.rectangle((left, top + 4, left + SIDE - 1, top + 3 + BAR), fill=LOST)
    if share > 0:
        on.rectangle((left, top + 4, left + round(share * SIDE) - 1, top + 3 + BAR), fill=LEFT)
    on.text((left + SIDE / 2, top + 13 + BAR), f"{_percent(share)} {verb}", INK, font, anchor="mm")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_boxes(parser, "boxes.tsv in the run's data")
    parser.add_argument("--count", type=at_least(1), default=4, help="images at most (default: %(default)s)")
    parser.add_argument("--draws", type=at_least(1), default=9, help="of each square (default: %(default)s)")
    for name in MAP_OPTIONS:
        add_option(parser, name, default="the run's")
    parser.add_argument("--seed", type=SEED, default=0, help="of policy and squares (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", default=Path("picture.png"), help="PNG to write (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Draw as the command line states. Returns the exit status, 0.

    Raises:
        UserError: RUN is not a run, or its data has no boxes.
    """
    if options.out.suffix.lower() != ".png":
        raise UserError(f"--out must end in .png; got {options.out}")
    check_writable(options.out)
    trained = load_best(options.run)
    given = stated(options, MAP_OPTIONS)
    check(Config(**options_of(trained) | given))
    trained = trained._replace(config=dataclasses.replace(trained.config, **given))
    boxes = options.boxes or validation_folder(trained.config) / "boxes.tsv"
    examples = make_examples(trained, boxes, count=options.count, draws=options.draws, seed=options.seed)
    means = measure(trained, options.run, boxes, data=None, limit=sys.maxsize, repeats=options.draws)
    draw(examples, means, options.out, image_size=trained.config.image_size)
    print(f"{', '.join(examples.names)}; means over {means['images']} images: {options.out}")
    return 0
