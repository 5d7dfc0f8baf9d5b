"""What a method is: a draw, and an application of what was drawn."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Method(ABC):
    """A way to make the network's inputs from a batch. Subclasses say what they need and do the two halves.

    ``draw`` makes small tensors from a generator, ``apply`` is a pure function of the images and of what was drawn;
    neither waits for the device. So a test or a figure can inject the draw, and a draw can be replayed.
    """

    uses_saliency: bool = False  # draw needs the saliency map
    uses_augmented: bool = False  # apply needs the augmented images

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> Tensor | None:
        """Boxes (B, 4), int64: top, left, bottom, right; or None for a method without regions."""
        return None

    @abstractmethod
    def apply(self, images: Tensor, boxes: Tensor | None, augmented: Tensor | None) -> Tensor:
        """The inputs (B, C, H, W) that the network is given. Writes into none of its arguments."""


class Clean(Method):
    """The baseline without augmentation of its own: the network is given the clean images."""

    def apply(self, images: Tensor, boxes: Tensor | None, augmented: Tensor | None) -> Tensor:
        return images

    def __repr__(self) -> str:
        return "Clean()"


class Augmented(Method):
    """The baseline of image-level policies: the network is given the augmented images, with nothing kept."""

    uses_augmented = True

    def apply(self, images: Tensor, boxes: Tensor | None, augmented: Tensor | None) -> Tensor:
        assert augmented is not None
        return augmented

    def __repr__(self) -> str:
        return "Augmented()"
