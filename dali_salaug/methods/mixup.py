"""Mixup: each image is blended with a partner, and the labels likewise."""

import torch
from torch import Tensor

from ..compositing import blend
from .base import Draw
from .mixing import MixingMethod


class Mixup(MixingMethod):
    """Each image is blended with another of the batch: λ · image + (1 − λ) · partner, and so are their labels.

    Zhang et al. 2018, arXiv:1710.09412, §2. Each image has its own λ ~ Beta(α, α).

    Args:
        num_classes, alpha, partners: see :class:`~dali_salaug.methods.mixing.MixingMethod`.

    Raises:
        ValueError: for an argument outside of what is said above.
    """

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> Draw:
        own = self._draw_lambda(images, generator)
        return Draw(partners=self._draw_partners(images, generator), weights=torch.stack([own, 1 - own], 1))

    def apply(self, images: Tensor, drawn: Draw, augmented: Tensor | None) -> Tensor:
        assert drawn.partners is not None
        assert drawn.weights is not None
        return blend(images, images[drawn.partners], drawn.weights[:, 1])

    def _weights(self, drawn: Draw, image_size: tuple[int, int]) -> Tensor:
        assert drawn.weights is not None
        return drawn.weights
