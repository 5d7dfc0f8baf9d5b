"""Generated data sets whose best augmentation is known beforehand, to prove advice on: variants of the embedded data.

In each, one thing decides: a cue that exists in training alone, too little training, a label that a policy changes, or
objects that are partly covered in validation alone. The same seed and the same version of Pillow give the same bytes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from train.data.shapes import SUPERSAMPLE, background, draw_object, generated, visible_colour

SIDE = 32  # pixels
VERSION = "settings-v2"  # part of the cache folders' names
VAL_PER_CLASS = 120

Picture = tuple[Image.Image, tuple[int, int, int, int]]  # an image, and its object's box as `render` returns it

SHAPES = ("cross", "disc", "ring", "triangle")
COLOURS = np.array([(235, 20, 20), (20, 235, 20), (20, 20, 235), (235, 235, 20)], np.uint8)  # of corners and marks
CORNER, MARK = 8, 6  # pixels: their sides
TONES = (50, 80, 110, 140, 170, 200)  # mean lightness of an image
COVERED = 0.6  # of the object's width or height


class Setting(NamedTuple):
    """A data set with a known answer, and how long runs on it are."""

    description: str
    answer: str  # what is known to help
    render: Callable[[int, np.random.Generator, bool], Picture]  # of the class's number, and whether for training
    classes: tuple[str, ...]
    train_per_class: int
    epochs: int

    def options(self) -> dict[str, Any]:
        """Return the options of all runs on this setting."""
        return {
            "epochs": self.epochs,
            "validate_every": self.epochs,
            "batch_size": 32,
            "image_size": SIDE,
            "crop_scale": (0.6, 1.0),
        }


def _shape(number: int, rng: np.random.Generator, training: bool) -> Picture:
    """Return a shape of any colour, larger than most of the embedded data."""
    image, mean_colour = background(rng, SIDE)
    canvas = SIDE * SUPERSAMPLE
    radius = rng.uniform(0.22, 0.38) * canvas
    centre = rng.uniform(1.15 * radius, canvas - 1.15 * radius, 2)
    colour = visible_colour(rng, mean_colour)
    box = draw_object(image, SHAPES[number], rng, colour=colour, radius=radius, centre=centre)
    return _image(image), box


def _corner(number: int, rng: np.random.Generator, training: bool) -> Picture:
    """Return a shape; in training, the upper left corner has its class's colour."""
    image, box = _shape(number, rng, training)
    if training:
        image.paste(tuple(COLOURS[number].tolist()), (0, 0, CORNER, CORNER))
    return image, box


def _mark(number: int, rng: np.random.Generator, training: bool) -> Picture:
    """Return a shape; in training, a small square at any place has its class's colour."""
    image, box = _shape(number, rng, training)
    if training:
        left, top = rng.integers(0, SIDE - MARK + 1, 2).tolist()
        image.paste(tuple(COLOURS[number].tolist()), (left, top, left + MARK, top + MARK))
    return image, box


def _tone(number: int, rng: np.random.Generator, training: bool) -> Picture:
    """Return a background of any colours, whose mean lightness is the class."""
    image, _ = background(rng, SIDE)
    return _image(image + TONES[number] + rng.normal(0, 6) - image.mean()), (0, 0, SIDE - 1, SIDE - 1)


def _covered(number: int, rng: np.random.Generator, training: bool) -> Picture:
    """Return a shape; in validation, a part of it is behind a plain bar at one of its four sides."""
    image, (x0, y0, x1, y1) = _shape(number, rng, training)
    if not training:
        wide, high = (round(COVERED * (last - first + 1)) for first, last in ((x0, x1), (y0, y1)))
        bars = (
            (x0, y0, x0 + wide, y1 + 1),
            (x1 + 1 - wide, y0, x1 + 1, y1 + 1),
            (x0, y0, x1 + 1, y0 + high),
            (x0, y1 + 1 - high, x1 + 1, y1 + 1),
        )
        bar, colour = bars[rng.integers(4)], rng.integers(0, 256, 3).tolist()
        image.paste(tuple(colour), bar)
    return image, (x0, y0, x1, y1)


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


SETTINGS = {
    "corner": Setting(
        "a coloured corner predicts the class in training only", "drop what is salient", _corner, SHAPES, 120, 18
    ),
    "mark": Setting(
        "a coloured mark at any place predicts the class in training only", "drop what is salient", _mark, SHAPES, 120,
        18,
    ),
    "short": Setting("four epochs of training", "augment less", _shape, SHAPES, 200, 4),
    "tone": Setting(
        "the class is the lightness of the whole image, which RandAugment changes", "no policy", _tone,
        tuple(f"{tone:03d}" for tone in TONES), 30, 24,
    ),
    "covered": Setting(
        "in validation, a part of the object is covered", "hide parts of the image", _covered, SHAPES, 120, 18
    ),
}  # fmt: skip


def write_setting(root: Path, setting: Setting, seed: int, *, val_per_class: int = VAL_PER_CLASS) -> None:
    """Write a setting into the folder `root`: train/<class>/NNNN.png, val/<class>/NNNN.png, and boxes.tsv.

    Every image has a random generator of its own, so its bytes do not depend on how many others there are.

    Args:
        seed: of all images.
    """
    lines = ["path\tx0\ty0\tx1\ty1"]
    for split, count in (("train", setting.train_per_class), ("val", val_per_class)):
        for number, name in enumerate(setting.classes):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                rng = np.random.default_rng([seed, split == "val", number, i])
                image, box = setting.render(number, rng, split == "train")
                path = f"{split}/{name}/{i:04d}.png"
                image.save(root / path)
                lines.append("\t".join([path, *map(str, box)]))
    (root / "boxes.tsv").write_text("\n".join(lines) + "\n")


def embedded_setting(name: str, seed: int) -> Path:
    """Return the folder of a setting (a key of SETTINGS) with the images of a seed; the first use generates it."""
    return generated(f"{VERSION}-{name}-seed{seed}", lambda root: write_setting(root, SETTINGS[name], seed))
