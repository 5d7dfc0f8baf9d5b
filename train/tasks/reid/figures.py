"""The embedded data of re-identification: generated photographs of walking figures, in Market-1501's layout.

An identity is a person's proportions, hair, skin, clothes with their colours and patterns, and bag, which many persons
have in part in common. A camera is a place (background, what may stand in the way) and its light, height, distance and
focus. An image adds a direction, a pose, a crop that is a little off, and passers-by in front of the figure. The same
seed and the same version of Pillow give the same bytes.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from train.data.shapes import generated

SIZE = (64, 32)  # height and width of an image, in pixels
SUPERSAMPLE = 4  # drawn this much larger and averaged down: smooth edges
CAMERAS = 6
TRAIN, TEST, DISTRACTORS = 100, 60, 120  # identities; and images of as many others, in the gallery
EACH = 2  # images of an identity by a camera
VERSION = f"figures-v1-{SIZE[0]}x{SIZE[1]}px-{TRAIN}+{TEST}+{DISTRACTORS}"  # part of the cache folder's name

Colour = tuple[int, int, int]
_CLOTHES = [
    (28, 28, 32), (225, 225, 220), (125, 125, 130), (35, 50, 110), (90, 130, 190), (165, 40, 45), (60, 105, 60),
    (205, 175, 75), (120, 80, 50), (190, 110, 150),
]  # fmt: skip
_SKIN = [(236, 200, 175), (200, 155, 120), (140, 98, 70), (90, 62, 48)]
_HAIR = [(25, 20, 18), (80, 50, 30), (175, 130, 70), (150, 150, 150)]
_PATTERNS = ("plain", "plain", "across", "down", "checks", "hem")


class Person(NamedTuple):
    """What is the same in all images of an identity. Lengths are shares of the height."""

    shoulders: float
    hips: float
    legs: float  # from the ground up
    head: float  # diameter
    skin: Colour
    hair: Colour
    long_hair: bool
    hat: Colour | None
    top: Colour
    second: Colour  # of the top's pattern
    pattern: str
    bands: int  # of the pattern
    sleeves: float  # their share of the arm
    coat: float  # how far the top reaches down the legs, as a share of them
    bottom: Colour
    kind: str  # "trousers", "shorts" or "skirt"
    shoes: Colour
    bag: str  # "none", "backpack" or "shoulder"
    bag_colour: Colour


class Camera(NamedTuple):
    """What is the same in all images of a camera."""

    wall: Colour
    ground: Colour
    horizon: float  # from the top, a share of the image's height
    stripes: int  # of the wall
    light: tuple[float, float, float]  # factors on the channels
    gamma: float
    height: float  # by which legs are foreshortened, a factor
    distance: float  # the figure's height, as a share of the image's
    blur: float  # in pixels
    grain: float  # standard deviation
    away: float  # probability that a figure walks away from it
    aside: float  # probability that a figure walks past it
    rail: bool  # in front of the figures


class _View(NamedTuple):
    """What is drawn for one image, in pixels of the canvas."""

    canvas: Image.Image
    draw: ImageDraw.ImageDraw
    centre: float
    top: float
    height: float

    def at(self, across: float, down: float) -> tuple[float, float]:
        """Return a place of the figure in pixels: shares of its height, from its middle and from its top."""
        return self.centre + across * self.height, self.top + down * self.height


def make_person(rng: np.random.Generator) -> Person:
    """Draw an identity."""

    def of(colours: list[Colour]) -> Colour:
        return _near(colours[rng.integers(len(colours))], rng, 10)

    return Person(
        shoulders=rng.uniform(0.2, 0.29),
        hips=rng.uniform(0.15, 0.22),
        legs=rng.uniform(0.42, 0.52),
        head=rng.uniform(0.115, 0.15),
        skin=of(_SKIN),
        hair=of(_HAIR),
        long_hair=rng.random() < 0.4,
        hat=of(_CLOTHES) if rng.random() < 0.2 else None,
        top=of(_CLOTHES),
        second=of(_CLOTHES),
        pattern=_PATTERNS[rng.integers(len(_PATTERNS))],
        bands=int(rng.integers(3, 7)),
        sleeves=float(rng.choice([0.45, 1.0])),
        coat=float(rng.choice([0.05, 0.05, 0.35, 0.6])),
        bottom=of(_CLOTHES),
        kind=("trousers", "trousers", "shorts", "skirt")[rng.integers(4)],
        shoes=of(_CLOTHES[:4] + _SKIN[:1]),
        bag=("none", "backpack", "shoulder")[rng.integers(3)],
        bag_colour=of(_CLOTHES),
    )


def make_camera(rng: np.random.Generator) -> Camera:
    """Draw a camera."""
    wall, ground = rng.integers(40, 215, (2, 3))
    return Camera(
        wall=_colour(wall),
        ground=_colour(0.6 * ground + 0.4 * ground.mean()),
        horizon=rng.uniform(0.3, 0.75),
        stripes=int(rng.integers(0, 5)),
        light=_factors(rng.uniform(0.5, 1.25) * rng.uniform(0.85, 1.15, 3)),
        gamma=rng.uniform(0.75, 1.4),
        height=rng.uniform(0.8, 1.0),
        distance=rng.uniform(0.82, 0.96),
        blur=rng.uniform(0.0, 0.9),
        grain=rng.uniform(2, 9),
        away=rng.uniform(0.1, 0.9),
        aside=rng.uniform(0.1, 0.6),
        rail=rng.random() < 0.4,
    )


def render(person: Person, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """Return one image of a person by a camera, `SIZE` pixels.

    Args:
        rng: the source of all that differs between images of the two.
    """
    canvas = _place(camera, rng)
    height, width = canvas.height, canvas.width
    draw = ImageDraw.Draw(canvas)
    tall = camera.distance * rng.uniform(0.93, 1.07) * height
    left = (0.5 + rng.normal(0, 0.05)) * width
    view = _View(canvas, draw, left, height - tall + rng.normal(-0.01, 0.025) * height, tall)
    _draw_person(view, person, camera, rng)
    if camera.rail:
        down = rng.uniform(0.62, 0.85) * height
        draw.rectangle((0, down, width, down + 0.03 * height), fill=_near((110, 110, 110), rng, 20))
    if rng.random() < 0.35:
        _obstruct(draw, canvas.size, rng)
    return _seen(canvas, camera, rng)


def _colour(values: np.ndarray) -> Colour:
    red, green, blue = (int(value) for value in values.clip(0, 255))
    return red, green, blue


def _factors(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


def _near(colour: Colour, rng: np.random.Generator, by: float) -> Colour:
    return _colour(np.array(colour) + rng.normal(0, by, 3))


def _place(camera: Camera, rng: np.random.Generator) -> Image.Image:
    """Return a camera's wall and ground, of which each image sees another part."""
    height, width = (side * SUPERSAMPLE for side in SIZE)
    canvas = Image.new("RGB", (width, height), camera.wall)
    draw = ImageDraw.Draw(canvas)
    shift = rng.uniform(0, width)
    dark = _colour(0.75 * np.array(camera.wall))
    for number in range(2 * camera.stripes):
        x = (number * width / camera.stripes + shift) % (2 * width) - width / 2
        draw.rectangle((x, 0, x + width / (3 * camera.stripes), height), fill=dark)
    horizon = (camera.horizon + rng.normal(0, 0.03)) * height
    draw.rectangle((0, horizon, width, height), fill=camera.ground)
    for _ in range(rng.integers(0, 4)):  # what others have left, or what is far away
        x, y, size = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.03, 0.14, 2) * height
        draw.rectangle((x, y, x + size[0], y + size[1]), fill=_colour(rng.uniform(30, 220, 3)))
    return canvas


def _draw_person(view: _View, person: Person, camera: Camera, rng: np.random.Generator) -> None:
    aside = rng.random() < camera.aside
    away = not aside and rng.random() < camera.away
    narrow = 0.62 if aside else rng.uniform(0.92, 1.0)  # shoulders seen from the side
    ahead = 1 if rng.random() < 0.5 else -1  # which way it walks
    step = rng.uniform(0.02, 0.11 if aside else 0.05)
    legs = person.legs * camera.height
    hip, neck = 1 - legs, 1.12 * person.head
    shoulders, hips = (narrow * width / 2 for width in (person.shoulders, person.hips))
    draw = view.draw
    if person.bag == "backpack" and aside:
        _box(view, -ahead * (shoulders + 0.035), neck + 0.03, 0.05, 0.22, person.bag_colour)
    _legs(view, person, hip, hips, step, ahead)
    low = hip + person.coat * legs  # the top's lower edge
    outline = [view.at(-shoulders, neck + 0.02), view.at(shoulders, neck + 0.02)]
    outline += [view.at(hips * (1.1 + person.coat), low), view.at(-hips * (1.1 + person.coat), low)]
    _cloth(view, person, outline)
    swing = step * rng.uniform(0.6, 1.4)
    for side in (-1, 1):
        _arm(view, person, side * shoulders, neck + 0.04, hip + 0.06, side * swing, legs)
    draw.line([view.at(0, neck - 0.03), view.at(0, neck + 0.03)], fill=person.skin, width=int(0.05 * view.height))
    _head(view, person, away=away, ahead=ahead if aside else 0)
    if person.bag == "backpack" and not aside:
        if away:
            _box(view, 0, neck + 0.04, 0.8 * shoulders, 0.24, person.bag_colour)
        else:
            for strap in (-0.6, 0.6):
                places = [view.at(strap * shoulders, neck + 0.02), view.at(strap * shoulders, neck + 0.2)]
                draw.line(places, fill=person.bag_colour, width=int(0.03 * view.height))
    if person.bag == "shoulder":
        side = -1 if away else 1  # the same shoulder, seen from the other side
        places = [view.at(-side * 0.7 * shoulders, neck + 0.02), view.at(side * shoulders, hip)]
        draw.line(places, fill=person.bag_colour, width=int(0.02 * view.height))
        _box(view, side * (shoulders + 0.01), hip - 0.02, 0.055, 0.11, person.bag_colour)


def _box(view: _View, across: float, down: float, half: float, tall: float, colour: Colour) -> None:
    left, top = view.at(across - half, down)
    right, bottom = view.at(across + half, down + tall)
    view.draw.rounded_rectangle((left, top, right, bottom), radius=0.02 * view.height, fill=colour)


def _legs(view: _View, person: Person, hip: float, hips: float, step: float, ahead: int) -> None:
    thick = 0.42 * person.hips
    bare = {"trousers": 1.0, "shorts": 0.5, "skirt": 0.0}[person.kind]
    for side in (-1, 1):
        start, end = (side * hips * 0.55, hip), (side * hips * 0.5 + side * ahead * step, 0.97)
        middle = tuple(a + bare * (b - a) for a, b in zip(start, end, strict=True))
        for colour, first, last in ((person.skin, start, end), (person.bottom, start, middle)):
            if first != last:
                places = [view.at(*first), view.at(*last)]
                view.draw.line(places, fill=colour, width=int(thick * view.height))
        foot = view.at(end[0], 0.97)
        wide, flat = 0.045 * view.height, 0.02 * view.height
        box = (foot[0] - wide, foot[1] - flat, foot[0] + wide, foot[1] + 1.4 * flat)
        view.draw.ellipse(box, fill=person.shoes)
    if person.kind == "skirt":
        low = hip + 0.55 * (1 - hip)
        corners = [view.at(-hips, hip), view.at(hips, hip), view.at(1.5 * hips, low), view.at(-1.5 * hips, low)]
        view.draw.polygon(corners, fill=person.bottom)


def _cloth(view: _View, person: Person, outline: list[tuple[float, float]]) -> None:
    """Draw the top, whose pattern moves with the figure."""
    mask = Image.new("L", view.canvas.size)
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    (left, bottom), (right, _), top = outline[3], outline[2], outline[0][1]
    cloth = Image.new("RGB", view.canvas.size, person.top)
    pattern = ImageDraw.Draw(cloth)
    band = (bottom - top) / (2 * person.bands)
    if person.pattern in ("across", "checks"):
        for number in range(person.bands):
            y = top + (2 * number + 1) * band
            pattern.rectangle((left, y, right, y + band), fill=person.second)
    if person.pattern in ("down", "checks"):
        wide = (right - left) / (2 * person.bands)
        for number in range(person.bands):
            x = left + (2 * number + 0.5) * wide
            pattern.rectangle((x, top, x + wide, bottom), fill=person.second)
    if person.pattern == "hem":
        pattern.rectangle((left, top + 0.6 * (bottom - top), right, bottom), fill=person.second)
    view.canvas.paste(cloth, mask=mask)


def _arm(view: _View, person: Person, across: float, top: float, low: float, swing: float, legs: float) -> None:
    start, end = (across, top), (across * 1.12 + swing, low + 0.05 * legs)
    middle = tuple(a + person.sleeves * (b - a) for a, b in zip(start, end, strict=True))
    thick = int(0.055 * view.height)
    view.draw.line([view.at(*start), view.at(*end)], fill=person.skin, width=thick)
    view.draw.line([view.at(*start), view.at(*middle)], fill=person.top, width=thick)


def _head(view: _View, person: Person, *, away: bool, ahead: int) -> None:
    half = person.head / 2

    def ellipse(across: float, down: float, wide: float, tall: float, colour: Colour) -> None:
        x, y = view.at(across, down)
        wide, tall = wide * view.height, tall * view.height
        view.draw.ellipse((x - wide, y - tall, x + wide, y + tall), fill=colour)

    if person.long_hair:
        ellipse(-0.3 * ahead * half, 1.5 * half, 0.95 * half, 1.5 * half, person.hair)
    ellipse(0, half, 0.8 * half, half, person.hair if away else person.skin)
    if not away:
        ellipse(-0.35 * ahead * half, 0.55 * half, 0.8 * half, 0.6 * half, person.hair)
    if person.hat is not None:
        ellipse(0, 0.4 * half, 0.9 * half, 0.5 * half, person.hat)
        ellipse(0.3 * ahead * half, 0.7 * half, 1.2 * half, 0.16 * half, person.hat)


def _obstruct(draw: ImageDraw.ImageDraw, size: tuple[int, int], rng: np.random.Generator) -> None:
    """Draw something in front of the figure: a passer-by cut off at a side, or a thing that stands on the ground."""
    width, height = size
    colour = _colour(rng.uniform(20, 220, 3))
    if rng.random() < 0.5:
        across = rng.uniform(0.0, 0.28) * width
        left = -0.1 * width if rng.random() < 0.5 else 1.1 * width - across
        top = rng.uniform(0.1, 0.5) * height
        draw.rounded_rectangle((left, top, left + across, 1.1 * height), radius=0.06 * height, fill=colour)
    else:
        left, top = rng.uniform(-0.1, 0.7) * width, rng.uniform(0.6, 0.85) * height
        draw.rectangle((left, top, left + rng.uniform(0.2, 0.6) * width, height), fill=colour)


def _seen(canvas: Image.Image, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """Return what the camera makes of a drawn canvas: focus, size, light and grain."""
    if camera.blur > 0:
        canvas = canvas.filter(ImageFilter.GaussianBlur(camera.blur * SUPERSAMPLE))
    pixels = np.asarray(canvas.reduce(SUPERSAMPLE), np.float32) / 255
    pixels = pixels**camera.gamma * np.array(camera.light, np.float32) * rng.uniform(0.85, 1.15)
    pixels = 255 * pixels + rng.normal(0, camera.grain, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_figures(
    root: Path,
    *,
    train: int = TRAIN,
    test: int = TEST,
    distractors: int = DISTRACTORS,
    cameras: int = CAMERAS,
    each: int = EACH,
    seed: int = 0,
) -> None:
    """Write the data set into the folder `root`: bounding_box_train, query and bounding_box_test.

    The identities of training are 1 … `train`; those of the test, `train` + 1 …, are others. A query is the first image
    of an identity by each of two cameras; its other images are in the gallery. Each image has a random generator of its
    own, so that its bytes do not depend on how many others there are.

    Args:
        train, test: numbers of identities.
        distractors: number of images of others in the gallery, each of another person.
        cameras: number of cameras, at least 2.
        each: images of an identity by a camera.
        seed: of all random numbers.
    """
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    places = [make_camera(np.random.default_rng([seed, 0, number])) for number in range(cameras)]
    jobs = []
    for identity in range(1, train + test + 1):
        asked = {identity % cameras, (identity + cameras // 2) % cameras} if identity > train else set()
        for camera in range(cameras):
            for number in range(each):
                in_test = "query" if camera in asked and number == 0 else "bounding_box_test"
                jobs.append((in_test if identity > train else "bounding_box_train", identity, camera, number))
    others = [("bounding_box_test", -other, other % cameras, 0) for other in range(1, distractors + 1)]
    for folder, identity, camera, number in tqdm(
        jobs + others, desc="Generating the embedded figures (once)", unit="img", leave=False, disable=None
    ):
        kind = 1 if identity > 0 else 2
        person = make_person(np.random.default_rng([seed, kind, abs(identity)]))
        image = render(person, places[camera], np.random.default_rng([seed, kind, abs(identity), camera, number]))
        frame = abs(identity) * 10 + number
        name = f"{max(0, identity):04d}_c{camera + 1}s1_{frame:06d}_{number:02d}.jpg"
        image.save(root / folder / name, quality=90)


def embedded_figures() -> Path:
    """Return the folder of the embedded figures; the first use generates it, as that of `embedded_data`."""
    return generated(VERSION, write_figures)
