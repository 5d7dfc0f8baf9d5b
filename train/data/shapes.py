"""The embedded default data: generated photographs of eight shapes, as JPEG files in class folders.

Each image has one object of random place, size, rotation, colour and texture, on a cluttered, textured background with
strokes and blobs that belong to no class. Colours do not depend on the class, so that a colour histogram is no cue. The
object's box is recorded, so that one can measure how much of the object an augmentation destroys. The same seed and the
same version of Pillow give the same bytes.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from pipelines.cache import cache_folder

SIDE = 64  # pixels; a larger side gives the same pictures in more detail
SUPERSAMPLE = 4  # masks are drawn this much larger and averaged down: smooth edges
TRAIN_PER_CLASS, VAL_PER_CLASS = 500, 100
VERSION = f"shapes-v1-{SIDE}px-{TRAIN_PER_CLASS}+{VAL_PER_CLASS}"  # part of the cache folder's name

Outline = np.ndarray  # (n, 2) float64, x and y in about [-1, 1], closed


def _circle(radius: float = 1.0, n: int = 48) -> Outline:
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _regular(radii: list[float]) -> Outline:
    """Return corners at equal angles, at these distances from the centre."""
    return _circle(n=len(radii)) * np.array(radii)[:, None]


def _cross() -> Outline:
    corners = [(0.33, 0.95), (0.33, 0.33), (0.95, 0.33)]  # of a quarter, which is rotated four times
    turned = [corners := [(y, -x) for x, y in corners] for _ in range(4)]
    return np.array([corner for quarter in turned for corner in quarter])


def _crescent() -> Outline:
    """Return a disc without a second disc, whose edge goes through the first one's poles."""
    outer = np.linspace(np.pi / 2, 3 * np.pi / 2, 32)
    outer_arc = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    inner_arc = outer_arc[::-1] * (0.45, 1)
    return np.concatenate([outer_arc, inner_arc]) + np.array([0.5, 0])


def _heart() -> Outline:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x, y = np.sin(t) ** 3, np.cos(t) - (5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t)) / 13
    return 0.85 * np.stack([x, -y - 0.1], axis=1)  # no larger than the others, its middle near 0


# name: the filled outline and the outline of its hole (or None)
SHAPES: dict[str, tuple[Outline, Outline | None]] = {
    "crescent": (_crescent(), None),
    "cross": (_cross(), None),
    "disc": (_circle(), None),
    "heart": (_heart(), None),
    "ring": (_circle(), _circle(0.55)),
    "square": (_regular([1.1] * 4), None),
    "star": (_regular([1.1, 0.45] * 5), None),
    "triangle": (_regular([1.1] * 3), None),
}


def _texture(rng: np.random.Generator, side: int, colour: np.ndarray, contrast: float) -> np.ndarray:
    """Return a (side, side, 3) float32 image in [0, 255]: the colour, a gradient, and noise of two grain sizes."""
    image = np.full((side, side, 3), colour, np.float32)
    ramp = np.linspace(-0.5, 0.5, side, dtype=np.float32)
    across, down = rng.normal(0, contrast, (2, 3)).astype(np.float32)
    image += ramp[None, :, None] * across + ramp[:, None, None] * down
    for cells, weight in ((rng.integers(3, 9), 1.0), (rng.integers(12, 33), 0.6)):
        grain = rng.normal(128, contrast * weight, (cells, cells, 3)).clip(0, 255).astype(np.uint8)
        image += np.asarray(Image.fromarray(grain).resize((side, side), Image.Resampling.BICUBIC), np.float32) - 128
    return image.clip(0, 255)


def _mask(side: int, draw_on: Callable[[ImageDraw.ImageDraw], None]) -> np.ndarray:
    """Return what is drawn on the enlarged canvas with fill 255, averaged down: (side, side, 1) float32 in [0, 1]."""
    canvas = Image.new("L", (side * SUPERSAMPLE,) * 2)
    draw_on(ImageDraw.Draw(canvas))
    return np.asarray(canvas.reduce(SUPERSAMPLE), np.float32)[:, :, None] / 255


def _distractor(rng: np.random.Generator, side: int) -> Callable[[ImageDraw.ImageDraw], None]:
    """Return what draws a bent stroke, or an irregular blob."""
    canvas = side * SUPERSAMPLE
    start = rng.uniform(0, canvas, 2)
    if rng.random() < 0.6:
        points = start + np.cumsum(rng.normal(0, 0.22 * canvas, (4, 2)), axis=0)
        width = int(rng.integers(1, 4) * canvas // SIDE)
        return lambda draw: draw.line([tuple(p) for p in points], fill=255, width=width, joint="curve")
    radii = rng.uniform(0.3, 1.0, 7) * rng.uniform(0.05, 0.14) * canvas
    corners = start + _regular(list(radii))
    return lambda draw: draw.polygon([tuple(p) for p in corners], fill=255)


def background(rng: np.random.Generator, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Return texture and distractors, (side, side, 3) float32 in [0, 255], and the texture's mean colour."""
    colour = rng.uniform(30, 225, 3)
    image = _texture(rng, side, colour, contrast=rng.uniform(6, 24))
    for _ in range(rng.integers(2, 6)):
        mask = _mask(side, _distractor(rng, side))
        image += mask * (rng.uniform(0, 255, 3).astype(np.float32) - image)
    return image, colour


def render(name: str, rng: np.random.Generator, side: int = SIDE) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Return one picture, `side` pixels wide and high, of the shape `name` (a key of SHAPES) and its object's box.

    Args:
        name: a key of SHAPES.
        rng: the source of everything random.

    Returns:
        The image, and the box of all pixels that the object touches: x0, y0, x1, y1 in pixels, inclusive.
    """
    image, mean_colour = background(rng, side)
    colour = visible_colour(rng, mean_colour)
    canvas = side * SUPERSAMPLE
    radius = rng.uniform(0.15, 0.38) * canvas
    centre = rng.uniform(1.15 * radius, canvas - 1.15 * radius, 2)  # entirely in the image
    box = draw_object(image, name, rng, colour=colour, radius=radius, centre=centre)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8)), box


def visible_colour(rng: np.random.Generator, mean_colour: np.ndarray) -> np.ndarray:
    """Return any colour that is far enough from a background's mean colour, (3,) float64."""
    colour = rng.uniform(0, 255, 3)
    while np.linalg.norm(colour - mean_colour) < 150:
        colour = rng.uniform(0, 255, 3)
    return colour


def draw_object(
    image: np.ndarray, name: str, rng: np.random.Generator, *, colour: np.ndarray, radius: float, centre: np.ndarray
) -> tuple[int, int, int, int]:
    """Draw the shape `name` at any angle into an image, (side, side, 3) float32, and return its box as `render` does.

    Args:
        radius, centre: in pixels of the enlarged canvas; the centre is (x, y).
    """
    side = len(image)
    angle = rng.uniform(0, 2 * np.pi)
    stretch = rng.uniform(0.85, 1.0, 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    filled, hole = (
        [] if o is None else [tuple(p) for p in (o * stretch) @ turn * radius + centre] for o in SHAPES[name]
    )

    def draw_outlines(draw: ImageDraw.ImageDraw) -> None:
        draw.polygon(filled, fill=255)
        if hole:
            draw.polygon(hole, fill=0)

    mask = _mask(side, draw_outlines)
    image += mask * (_texture(rng, side, colour, contrast=rng.uniform(4, 16)) - image)
    rows, columns = (np.flatnonzero((mask[:, :, 0] > 0).any(axis=a)) for a in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def write_shapes(
    root: Path,
    *,
    train_per_class: int = TRAIN_PER_CLASS,
    val_per_class: int = VAL_PER_CLASS,
    seed: int = 0,
    side: int = SIDE,
) -> None:
    """Write the data set into the folder `root`: train/<class>/NNNN.jpg, val/<class>/NNNN.jpg and boxes.tsv.

    boxes.tsv has the columns path, x0, y0, x1, y1 (pixels, inclusive) under a header line. Every image has a
    random generator of its own, so its bytes do not depend on how many others there are, and its picture not on `side`.
    """
    jobs = [
        (split, number, name, i)
        for split, count in (("train", train_per_class), ("val", val_per_class))
        for number, name in enumerate(SHAPES)
        for i in range(count)
    ]
    lines = ["path\tx0\ty0\tx1\ty1"]
    for split, number, name, i in tqdm(
        jobs, desc="Generating the embedded data (once)", unit="img", leave=False, disable=None
    ):
        image, box = render(name, np.random.default_rng([seed, split == "val", number, i]), side)
        path = f"{split}/{name}/{i:04d}.jpg"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / path, quality=90)
        lines.append("\t".join([path, *map(str, box)]))
    (root / "boxes.tsv").write_text("\n".join(lines) + "\n")


def embedded_data() -> Path:
    """Return the folder of the embedded data set; the first use generates it.

    The folder is complete or does not exist, for it is written under a temporary name and then renamed. If two
    processes generate it at once, the first to finish wins, and the other uses that result.
    """
    return generated(VERSION, write_shapes)


def generated(name: str, write: Callable[[Path], None]) -> Path:
    """Return the folder of generated data in the cache, which `write` fills on first use; see `embedded_data`.

    Args:
        name: of the folder, another one for each version of the data.
    """
    root = cache_folder() / name
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=root.parent))
        try:
            write(unfinished)
            unfinished.chmod(0o755)  # mkdtemp's 0700 would lock others out of a shared cache
            try:
                os.replace(unfinished, root)
            except OSError:
                if not root.is_dir():
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return root
