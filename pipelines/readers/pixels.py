"""Images that are in memory already, decoded."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .base import Reader


@dataclass(frozen=True, eq=False)
class Pixels(Reader):
    """Pixels.

    Attributes:
        images: (n, h, w, 3) uint8 RGB.
        root: The folder that they are from.
    """

    kind = "pixels"
    feed = "pixels"
    images: np.ndarray
    root: str
    files: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def encoded(self, index: int) -> bytes:
        """Return the image as a PPM file."""
        image = self.images[index]
        height, width = image.shape[:2]
        return b"P6 %d %d 255\n" % (width, height) + image.tobytes()

    def name(self, index: int) -> str:
        return f"image {index} of '{self.root}'"

    def begin(self, indices: np.ndarray, max_pixels: int) -> Callable[[], np.ndarray]:
        return lambda: self.images[indices]

    def take(self, chosen: np.ndarray) -> "Pixels":
        return Pixels(self.images[chosen], self.root)
