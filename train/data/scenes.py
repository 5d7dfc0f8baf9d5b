"""The embedded data for detection: generated photographs of several of the eight shapes, in Pascal VOC's layout.

Backgrounds and objects are those of the embedded data for classification. The same seed and the same version of Pillow
give the same bytes.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from train.data.shapes import SHAPES, SUPERSAMPLE, background, draw_object, generated, visible_colour

SIDE = 128  # pixels: the longer side of a scene, at most
LEAST_SIDE = 88
TRAIN, VAL = 600, 200  # scenes
MOST_OBJECTS = 5
VERSION = f"scenes-v1-{SIDE}px-{TRAIN}+{VAL}"  # part of the cache folder's name
_ATTEMPTS = 40  # at a place for an object that overlaps no other


class Scene(NamedTuple):
    """A picture, and the objects in it."""

    image: Image.Image
    names: list[str]  # keys of SHAPES
    boxes: list[tuple[int, int, int, int]]  # of all pixels that an object touches: x0, y0, x1, y1, inclusive


def render_scene(rng: np.random.Generator) -> Scene:
    """Return a picture of one to five objects that do not touch.

    Args:
        rng: the source of everything random.
    """
    picture, mean_colour = background(rng, SIDE)
    width, height = rng.integers(LEAST_SIDE, SIDE + 1, 2)
    names: list[str] = []
    boxes: list[tuple[int, int, int, int]] = []
    circles: list[tuple[np.ndarray, float]] = []
    for _ in range(rng.integers(1, MOST_OBJECTS + 1)):
        for _ in range(_ATTEMPTS):
            radius = rng.uniform(8, 24)
            centre = rng.uniform(1.15 * radius, np.array([width, height]) - 1.15 * radius)  # entirely in the picture
            if all(np.linalg.norm(centre - other) > 1.15 * (radius + its) for other, its in circles):
                break
        else:
            continue
        circles.append((centre, radius))
        names.append(list(SHAPES)[rng.integers(len(SHAPES))])
        colour = visible_colour(rng, mean_colour)
        radius, centre = radius * SUPERSAMPLE, centre * SUPERSAMPLE
        boxes.append(draw_object(picture, names[-1], rng, colour=colour, radius=radius, centre=centre))
    image = Image.fromarray(picture[:height, :width].clip(0, 255).astype(np.uint8))
    return Scene(image, names, boxes)


def write_scenes(root: Path, *, train: int = TRAIN, val: int = VAL, seed: int = 0) -> None:
    """Write the data set into the folder `root`, in Pascal VOC's layout: the lists are train.txt and val.txt.

    Every scene has a random generator of its own, so its bytes do not depend on how many others there are.
    """
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    jobs = [(split, i) for split, count in (("train", train), ("val", val)) for i in range(count)]
    listed: dict[str, list[str]] = {"train": [], "val": []}
    for split, i in tqdm(jobs, desc="Generating the embedded scenes (once)", unit="img", leave=False, disable=None):
        scene, name = render_scene(np.random.default_rng([seed, split == "val", i])), f"{split}_{i:04d}"
        scene.image.save(root / "JPEGImages" / f"{name}.jpg", quality=90)
        (root / "Annotations" / f"{name}.xml").write_text(_annotation(scene, name))
        listed[split].append(name)
    for split, names in listed.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def _annotation(scene: Scene, name: str) -> str:
    """Return an annotation in XML, whose pixels count from 1."""
    width, height = scene.image.size
    objects = [
        f"  <object><name>{shape}</name><difficult>0</difficult><bndbox>"
        f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1 + 1}</xmax><ymax>{y1 + 1}</ymax></bndbox></object>\n"
        for shape, (x0, y0, x1, y1) in zip(scene.names, scene.boxes, strict=True)
    ]
    return (
        f"<annotation>\n  <filename>{name}.jpg</filename>\n  <size><width>{width}</width><height>{height}</height>"
        f"<depth>3</depth></size>\n{''.join(objects)}</annotation>\n"
    )


def embedded_scenes() -> Path:
    """Return the folder of the embedded data for detection; the first use generates it, see `embedded_data`."""
    return generated(VERSION, write_scenes)
