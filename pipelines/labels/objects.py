"""Objects in images, as labels of a data set: their boxes and classes, of any number for each image."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

DIFFICULT, CROWD = 1, 2
LEAST_SIDE = 0.01  # pixels: of a thinner box, the sides in shares of the image may be equal in float32


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects in each of n images.

    Attributes:
        boxes: (m, 4) float64: left, top, right, bottom in pixels of the whole image, whose corner is (0, 0); within the
            image, and not empty.
        classes: (m,) int64, from 0.
        kinds: (m,) uint8: 0; `DIFFICULT`, which is trained on, and is neither a hit nor a miss in evaluation; or
            `CROWD`, a box around many objects of a class, which is not trained on and does not count either.
        starts: (n + 1,) int64: the objects of image i are those from starts[i] to starts[i + 1].
        sizes: (n, 2) int64: height and width of each image in pixels, as its annotation states them.
    """

    boxes: np.ndarray
    classes: np.ndarray
    kinds: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.sizes)

    def counts(self, *, with_crowds: bool) -> np.ndarray:
        """Return the number of objects in each image, (n,) int64."""
        counted = np.concatenate([[0], np.cumsum(with_crowds | (self.kinds != CROWD))])
        return counted[self.starts[1:]] - counted[self.starts[:-1]]

    def take(self, places: np.ndarray) -> "Objects":
        """Return the objects of some images."""
        rows, counts = self.rows(places)
        starts = np.concatenate([[0], np.cumsum(counts)])
        return replace(
            self,
            boxes=self.boxes[rows],
            classes=self.classes[rows],
            kinds=self.kinds[rows],
            starts=starts.astype(np.int64),
            sizes=self.sizes[places],
        )

    def rows(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of the objects of some images, and the number of each image's, both int64."""
        first, counts = self.starts[places], self.starts[places + 1] - self.starts[places]
        before = np.cumsum(counts) - counts
        return np.arange(counts.sum()) + np.repeat(first - before, counts), counts

    def identity(self) -> Iterator[bytes]:
        """Yield what distinguishes the objects from others."""
        for array in (self.boxes, self.classes, self.kinds, self.starts, self.sizes):
            yield np.ascontiguousarray(array).tobytes()
        yield b"objects"


class BatchObjects(NamedTuple):
    """The objects in the images of a batch, on its device. Each field has a tensor for each image.

    Attributes:
        boxes: (k, 4) float32: left, top, right, bottom in pixels of `Batch.images`.
        classes: (k,) int64, from 0.
    """

    boxes: tuple[Tensor, ...]
    classes: tuple[Tensor, ...]


class ObjectTable:
    """The objects of a data set, of which those of a batch are carried into its images, without a wait for the device.

    Args:
        objects: Of the data set.
        with_crowds: Whether crowds are among them.
        device: Of the batches.
    """

    def __init__(self, objects: Objects, *, with_crowds: bool, device: torch.device) -> None:
        self._objects = objects
        self._with_crowds = with_crowds
        self._device = device
        owners = np.repeat(np.arange(len(objects)), np.diff(objects.starts))
        self._shares = (objects.boxes / objects.sizes[owners][:, [1, 0, 1, 0]]).astype(np.float32)

    def __call__(self, same: np.ndarray, sizes: np.ndarray, views: Tensor) -> BatchObjects:
        """Return the objects of a batch.

        Args:
            same: The images' places in the data set, (B,) int64, on the host.
            sizes: (B, 2): height and width of the images in the batch, without padding, on the host.
            views: (B, 2, 3) float32: see `Batch.views`.
        """
        rows, counts = self._objects.rows(same)
        owners = np.repeat(np.arange(len(same)), counts)
        if not self._with_crowds:
            kept = self._objects.kinds[rows] != CROWD
            rows, owners = rows[kept], owners[kept]
        per_image = np.bincount(owners, minlength=len(same)).tolist()
        sides = sizes[:, ::-1].astype(np.float32)  # width, height
        boxes = carried(self._sent(self._shares[rows]), views[self._sent(owners)], self._sent(sides[owners]))
        classes = self._sent(self._objects.classes[rows])
        return BatchObjects(boxes.split(per_image), classes.split(per_image))

    def _sent(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor if self._device.type == "cpu" else tensor.pin_memory().to(self._device, non_blocking=True)


def carried(shares: Tensor, views: Tensor, sides: Tensor) -> Tensor:
    """Return boxes in pixels of the views that show them, clipped to these.

    Args:
        shares: (m, 4) float32: left, top, right, bottom in shares of the whole image's sides.
        views: (m, 2, 3) float32: of each box's image, without rotation; see `Batch.views`.
        sides: (m, 2) float32: width and height of the view in pixels.

    Returns:
        (m, 4) float32.
    """
    corners = shares.view(-1, 2, 2)  # of upper left and lower right: (x, y)
    moved = (corners * views[:, [0, 1], [0, 1]][:, None] + views[:, None, :, 2]).clamp(0, 1) * sides[:, None]
    return torch.cat([moved.amin(1), moved.amax(1)], dim=1)  # a flip exchanges the corners
