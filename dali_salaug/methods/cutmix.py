"""CutMix and KeepCutMix: the same box of a partner replaces a box of each image, and the labels are mixed."""

import torch
from torch import Tensor

from .._checks import check_number
from .base import KEEPAUGMENT, TWO_IMAGES, CuttingMethod, MethodEntry, register
from .mixing import BoxMixingMethod, BoxPairDraw


@register(
    MethodEntry(
        "cutmix",
        TWO_IMAGES,
        description="a box replaced by a partner's, labels mixed",
        source="Yun et al. 2019",
        reference="arXiv:1905.04899, §3.1",
    )
)
class CutMix(BoxMixingMethod[BoxPairDraw], CuttingMethod[BoxPairDraw]):
    """A box of each image, replaced by the same box of another image of the batch.

    Yun et al. 2019, arXiv:1905.04899, §3.1. Each image has its own λ ~ Beta(α, α) and box. The box's sides are
    √(1 − λ) of the image's, its centre is any pixel, and it is clipped to the image. The weight of an image's own label
    is the share of its pixels that are really left.

    Args:
        num_classes, alpha, partners: see :class:`~dali_salaug.methods.mixing.MixingMethod`.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    border = "clip"

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> BoxPairDraw:
        boxes = self._draw_boxes(images, self._draw_box_sizes(images, generator), saliency, generator)
        return BoxPairDraw(partners=self._draw_partners(images, generator), boxes=boxes)


@register(
    MethodEntry(
        "keep_cutmix",
        TWO_IMAGES,
        description="CutMix that spares what is salient",
        source=KEEPAUGMENT,
        reference="§4.2",
        plain="cutmix",
    )
)
class KeepCutMix(CutMix):
    """CutMix that spares what is salient, by selective-cut on each image's own map (KeepAugment §4.2).

    Args:
        tau: τ in [0, 1]. A box may be cut only where its saliency is at most the τ-quantile of all boxes of the size
            drawn for the image.
        num_classes, alpha, partners: see :class:`~dali_salaug.methods.mixing.MixingMethod`.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    uses_saliency = True

    def __init__(
        self, num_classes: int, *, alpha: float = 1.0, partners: str = "permutation", tau: float = 0.6
    ) -> None:
        super().__init__(num_classes, alpha=alpha, partners=partners)
        check_number("tau", tau, 0, 1)
        self.tau = tau

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, tau={self.tau:g})"
