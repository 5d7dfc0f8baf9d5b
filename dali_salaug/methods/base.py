"""What a method is: a draw, and an application of what was drawn."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from ..regions import draw_regions


class Draw(NamedTuple):
    """What a method drew for a batch; None where it draws no such thing."""

    boxes: Tensor | None = None  # (B, 4), int64: top, left, bottom, right in pixels, half-open; empty for no region
    noise: Tensor | None = None  # (B, C, H, W), the images' dtype: what is written into the regions
    partners: Tensor | None = None  # (B,), int64: the place in the batch of the image that each is mixed with
    sources: Tensor | None = None  # (B, 4), like boxes: where the pixels that go into the boxes come from
    masks: Tensor | None = None  # (B, 1, H, W), bool: what is replaced, where that is more than one box
    weights: Tensor | None = None  # (B, 2), floating point: of the image and its label, and of its partner and its
    shares: Tensor | None = None  # (B, n, n), floating point: of the image in each block, where two are blended
    moves: Tensor | None = None  # (B, 2, n, n), int64: the block of the image, and of its partner, that comes there
    first: "Draw | None" = None  # of the method that goes before, of two that are combined


class Method(ABC):
    """A way to make the network's inputs from a batch. Subclasses say what they need and do the two halves.

    ``draw`` makes a few tensors from a generator, ``apply`` and ``targets`` are pure functions of the batch and of what
    was drawn; none waits for the device. So a test or a figure can inject the draw, and a draw can be replayed.
    """

    uses_saliency: bool = False  # draw needs the saliency map
    uses_augmented: bool = False  # apply needs the augmented images
    default_warmup_epochs: int = 0  # for so many epochs its authors train without it

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> Draw:
        """What to do to each image.

        Args:
            images: the clean images (B, C, H, W), floating point.
            saliency: their maps (B, h, w), float32, at any resolution; None where the method uses none.
            generator: on the images' device; the global one where it is None.
        """
        return Draw()

    @abstractmethod
    def apply(self, images: Tensor, drawn: Draw, augmented: Tensor | None) -> Tensor:
        """The inputs (B, C, H, W) that the network is given. Writes into none of its arguments.

        Args:
            images: the clean images (B, C, H, W), floating point.
            drawn: what :meth:`draw` gave for them.
            augmented: an augmented copy, like ``images``; None where the method uses none.
        """

    def targets(self, labels: Tensor, drawn: Draw, image_size: tuple[int, int]) -> Tensor:
        """The targets: the labels (B,), int64, or (B, K), floating point, where the method mixes them.

        Args:
            labels: (B,), int64.
            drawn: as for :meth:`apply`.
            image_size: (H, W).
        """
        return labels


class CuttingMethod(Method):
    """A method that cuts a region out of each image: anywhere, or, where it uses saliency, by selective-cut."""

    border: str  # "clip" or "inside"
    tau: float  # only of those that use saliency

    def _draw_boxes(
        self,
        images: Tensor,
        size: tuple[int, int] | Tensor | None,
        saliency: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Boxes (B, 4); ``size`` as for :func:`~dali_salaug.regions.draw_regions`."""
        if not self.uses_saliency:
            return draw_regions(images, size, generator, border=self.border)
        return draw_regions(images, size, generator, border=self.border, saliency=saliency, tau=self.tau, keep="low")


class Clean(Method):
    """The baseline without augmentation of its own: the network is given the clean images."""

    def apply(self, images: Tensor, drawn: Draw, augmented: Tensor | None) -> Tensor:
        return images

    def __repr__(self) -> str:
        return "Clean()"


class Augmented(Method):
    """The baseline of image-level policies: the network is given the augmented images, with nothing kept."""

    uses_augmented = True

    def apply(self, images: Tensor, drawn: Draw, augmented: Tensor | None) -> Tensor:
        assert augmented is not None
        return augmented

    def __repr__(self) -> str:
        return "Augmented()"
