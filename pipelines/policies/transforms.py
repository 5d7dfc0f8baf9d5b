"""Transformations whose geometry is one 2×3 matrix, for the saliency-consistency loss: affine maps and SimCLR's."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..arguments import flag, require, share, span
from ..draws import CROP_ATTEMPTS, random_resized_windows
from .base import PolicyDraw
from .operations import COLOR_TWIST, CROP, IDENTITY, WARP

_CONTRAST = "contrast"
_MAX_FACTOR = 100  # of size and contrast
_WINDOW_UNIFORMS = 2 * CROP_ATTEMPTS + 2
_RATIO = (3 / 4, 4 / 3)  # of SimCLR's windows


@dataclass(frozen=True)
class Affine:
    """Mirroring, rescaling, shear, rotation, shift, and contrast: each is applied to an image with the same
    probability, independently of the others, by an amount of its own.

    Saliency Map Based Data Augmentation (Al-afandi et al., 2022, arXiv:2205.14686), §5.1: "there was a fifty percent
    chance that an image will be vertically mirrored and also the same chance that its contrast will be enhanced,
    similarly the image rotated, scaled, horizontally mirrored". The ranges are in the caption of the paper's table 1,
    which we do not have; those in `POLICIES` are ours.

    Contrast comes first (about the image's mean grey). The geometry is one resampling by one matrix, whose factors are
    in the order above, the middle ones about the image's centre; uncovered pixels are grey. There is no low-pass
    filter before a rescaling below 1: at 0.5, the least allowed, linear interpolation still reads every pixel; nearest
    drops some wherever it shrinks.

    Args:
        horizontal_flip, vertical_flip: Whether left and right, or top and bottom, are mirrored.
        scale: Least and greatest factor of size, uniform, the same for both sides; from 0.5 to 100.
        shear: Along x, uniform in ±`shear` degrees, from 0 to below 90.
        degrees: Of rotation, uniform in ±`degrees`, from 0 to 180.
        translate: Along x and along y, each uniform in ±`translate` of the image's side there, from 0 to 1.
        contrast: Least and greatest factor, uniform; from 0 to 100.
        probability: Of each of these, from 0 to 1.

    Raises:
        ValueError: An argument is out of its range.
    """

    chains: ClassVar[int] = 1
    uniforms: ClassVar[int] = 13  # seven decisions and six amounts, whichever transformations are on
    horizontal_flip: bool = False
    vertical_flip: bool = False
    scale: tuple[float, float] = (1, 1)
    shear: float = 0
    degrees: float = 0
    translate: float = 0
    contrast: tuple[float, float] = (1, 1)
    probability: float = 0.5

    def __post_init__(self) -> None:
        for name in ("horizontal_flip", "vertical_flip"):
            object.__setattr__(self, name, flag(name, getattr(self, name)))
        for name, least in (("scale", 0.5), ("contrast", 0)):
            legal = f"two finite numbers, {least} <= least <= greatest <= {_MAX_FACTOR}"
            object.__setattr__(self, name, span(name, getattr(self, name), legal, least=least, most=_MAX_FACTOR))
        shear = share("shear", self.shear, 90, "from 0 to below 90")
        require("shear", self.shear, "from 0 to below 90", shear < 90)
        object.__setattr__(self, "shear", shear)
        object.__setattr__(self, "degrees", share("degrees", self.degrees, 180))
        for name in ("translate", "probability"):
            object.__setattr__(self, name, share(name, getattr(self, name)))
        if not self.stages:
            raise ValueError(f"at least one transformation must be asked for, got {self!r}")

    @property
    def _moves(self) -> bool:
        flips = self.horizontal_flip or self.vertical_flip
        return bool(flips or self.scale != (1, 1) or self.shear or self.degrees or self.translate)

    @property
    def stages(self) -> int:
        return (self.contrast != (1, 1)) + self._moves

    def operations(self, size: tuple[int, int]) -> tuple[str, ...]:
        return (IDENTITY, *([_CONTRAST] * (self.contrast != (1, 1))), *([WARP] * self._moves))

    def draw(self, numbers: np.ndarray, size: tuple[int, int]) -> PolicyDraw:
        applied, amounts = (numbers[:, :7] < self.probability).T, numbers[:, 7:].T
        flips = np.where(applied[:2] & [[self.horizontal_flip], [self.vertical_flip]], -1, 1)
        scale = np.where(applied[2], _between(self.scale, amounts[0]), 1)
        shear = np.radians(np.where(applied[3], _between((-self.shear, self.shear), amounts[1]), 0))
        angle = np.radians(np.where(applied[4], _between((-self.degrees, self.degrees), amounts[2]), 0))
        shift = np.where(applied[5], _between((-self.translate, self.translate), amounts[3:5]), 0)
        cos, sin = np.cos(angle), np.sin(angle)
        # Rotation (counter-clockwise as seen; y points down) times shear; the columns times mirroring and rescaling.
        linear = np.stack([cos, cos * np.tan(shear) + sin, -sin, cos - sin * np.tan(shear)], axis=-1).reshape(-1, 2, 2)
        linear *= (scale * flips).T[:, None]
        sides = np.array(size[::-1])
        offset = sides / 2 - linear @ (sides / 2) + sides * shift.T
        matrices = np.concatenate([linear, offset[:, :, None]], axis=2)
        drawn = PolicyDraw.nothing(len(numbers), self.stages)
        names = self.operations(size)
        if _CONTRAST in names:
            drawn.operations[:, 0] = names.index(_CONTRAST) * applied[6]
            drawn.parameters[:, 0, 0] = _between(self.contrast, amounts[5])
        if WARP in names:
            _move(drawn, -1, matrices, names.index(WARP))
        return drawn


@dataclass(frozen=True)
class SimCLR:
    """Crop and rescale with colour jitter: a random window of the image, enlarged to the full size, perhaps mirrored,
    its colours perhaps distorted.

    SimCLR (Chen et al., 2020, arXiv:2002.05709), appendix A, as used by the saliency-map paper (§5.2). Brightness,
    contrast and saturation change by factors uniform in 1 ± 0.8·`strength`, hue by an angle uniform in
    ±72°·`strength`, and perhaps the image becomes grey. There is no blur, which the authors leave out at CIFAR's size
    (B.9) and the saliency-map paper does not mention. The colours change in one linear step: hue and saturation,
    contrast about mid-grey, brightness. The authors' order is random, and their contrast is about the mean. A window is
    never larger than the image, so rescaling enlarges and needs no low-pass filter. The loader's "linear" is the
    authors' kind of interpolation; "nearest" makes blocks.

    Args:
        area: Least and greatest share of the image's area in the window.
        strength: Of the colour distortion, from 0 to 1. The authors use 0.5 for CIFAR and 1 for ImageNet.
        horizontal_flip, jitter, grayscale: Probabilities.

    Raises:
        ValueError: An argument is out of its range.
    """

    chains: ClassVar[int] = 1
    stages: ClassVar[int] = 2
    uniforms: ClassVar[int] = _WINDOW_UNIFORMS + 7  # three decisions, four amounts
    area: tuple[float, float] = (0.08, 1.0)
    strength: float = 0.5
    horizontal_flip: float = 0.5
    jitter: float = 0.8
    grayscale: float = 0.2

    def __post_init__(self) -> None:
        legal = "two numbers, 0 < least <= greatest <= 1"
        object.__setattr__(self, "area", span("area", self.area, legal, least=1e-6, most=1))
        for name in ("strength", "horizontal_flip", "jitter", "grayscale"):
            object.__setattr__(self, name, share(name, getattr(self, name)))

    def operations(self, size: tuple[int, int]) -> tuple[str, ...]:
        return (IDENTITY, CROP, COLOR_TWIST)

    def draw(self, numbers: np.ndarray, size: tuple[int, int]) -> PolicyDraw:
        window, decisions, amounts = np.split(numbers, [_WINDOW_UNIFORMS, _WINDOW_UNIFORMS + 3], axis=1)
        flipped, jittered, grey = (decisions < (self.horizontal_flip, self.jitter, self.grayscale)).T
        drawn = PolicyDraw.nothing(len(numbers), self.stages)
        _move(drawn, 0, _window_matrices(window, self.area, flipped, size), 1)
        drawn.operations[:, 1] = 2 * (jittered | grey)
        factors = np.where(jittered[:, None], self.strength * (2 * amounts - 1) * (0.8, 0.8, 0.8, 72), 0)
        factors[:, :3] += 1
        factors[grey, 2] = 0
        drawn.parameters[:, 1, :4] = factors
        return drawn


def _window_matrices(
    numbers: np.ndarray, area: tuple[float, float], flipped: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Return the maps of a random window to the whole image, mirrored where `flipped`: (B, 2, 3).

    The window is as in `graph.pipeline.random_resized_window`: whole pixels, the first attempt that fits, or else the
    largest central one.
    """
    image = np.array(size, dtype=np.float64)
    sides, positions = random_resized_windows(numbers, area, _RATIO)
    windows = np.maximum(np.floor(np.sqrt(image.prod()) * sides.astype(np.float64) + 0.5), 1)
    central = np.minimum(np.floor(image[::-1] * (1 / _RATIO[0], _RATIO[1]) + 0.5), image)
    windows = np.concatenate([windows, np.tile(central, (len(windows), 1, 1))], axis=1)
    images = np.arange(len(windows))
    first = (windows <= image).all(axis=2).argmax(axis=1)
    window = windows[images, first]
    corner = np.floor(positions[images, first] * (image - window + 1))
    zoom, offset = image / window, -corner * image / window
    zoom[:, 1], offset[:, 1] = np.where(flipped, (-zoom[:, 1], image[1] - offset[:, 1]), (zoom[:, 1], offset[:, 1]))
    matrices = np.zeros((len(windows), 2, 3))
    matrices[:, [0, 1], [0, 1]], matrices[:, :, 2] = zoom[:, ::-1], offset[:, ::-1]  # (y, x) to (x, y)
    return matrices


def _between(limits: tuple[float, float], numbers: np.ndarray) -> np.ndarray:
    return limits[0] + (limits[1] - limits[0]) * numbers


def _move(drawn: PolicyDraw, stage: int, matrices: np.ndarray, operation: int) -> None:
    """Write the matrices into a draw, and the operation where they move anything."""
    drawn.matrices[:, stage] = matrices
    drawn.operations[:, stage] = operation * (matrices != np.eye(2, 3)).any(axis=(1, 2))


_ROTATION, _RESCALE, _CONTRASTS = 30, (0.8, 1.2), (0.5, 1.5)
TRANSFORMS: dict[str, Affine | SimCLR] = {
    "horizontal_flip": Affine(horizontal_flip=True),
    "vertical_flip": Affine(vertical_flip=True),
    "flips": Affine(horizontal_flip=True, vertical_flip=True),
    "rotation": Affine(degrees=_ROTATION),
    "flips_rotation": Affine(horizontal_flip=True, vertical_flip=True, degrees=_ROTATION),
    "rescale": Affine(scale=_RESCALE),
    "contrast": Affine(contrast=_CONTRASTS),
    "combined": Affine(True, True, scale=_RESCALE, degrees=_ROTATION, contrast=_CONTRASTS),
    "affine": Affine(scale=_RESCALE, shear=10, degrees=_ROTATION, translate=0.1),
    "simclr": SimCLR(),
}
