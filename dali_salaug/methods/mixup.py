"""Mixup: each image is blended with a partner, and the labels likewise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..compositing import blend
from .base import TWO_IMAGES, MethodEntry, register
from .mixing import MixingMethod, PairDraw


@dataclass(frozen=True, eq=False)
class MixupDraw(PairDraw):
    """A partner for each image, and the weights of the two.

    Attributes:
        weights: (B, 2), float64: of the image and its label, and of the partner and its label.
    """

    weights: Tensor

    def own_pixels(self, image_size: tuple[int, int]) -> Tensor:
        return self.weights[:, 0].float()[:, None, None].expand(-1, *image_size)


@register(
    MethodEntry(
        "mixup",
        TWO_IMAGES,
        description="a blend with a partner, labels mixed",
        source="Zhang et al. 2018",
        reference="arXiv:1710.09412, §2",
    )
)
class Mixup(MixingMethod[MixupDraw]):
    """A blend of each image with another of the batch, λ · image + (1 − λ) · partner, and of their labels.

    Zhang et al. 2018, arXiv:1710.09412, §2. Each image has its own λ ~ Beta(α, α).

    Args:
        num_classes, alpha, partners: see :class:`~dali_salaug.methods.mixing.MixingMethod`.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> MixupDraw:
        own = self._draw_lambda(images, generator)
        return MixupDraw(partners=self._draw_partners(images, generator), weights=torch.stack([own, 1 - own], 1))

    def apply(self, images: Tensor, drawn: MixupDraw, augmented: Tensor | None) -> Tensor:
        return blend(images, images[drawn.partners], drawn.weights[:, 1])

    def _weights(self, drawn: MixupDraw, image_size: tuple[int, int]) -> Tensor:
        return drawn.weights
