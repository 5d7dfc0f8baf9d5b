"""CutMix and KeepCutMix: a box of each image is replaced by the same box of a partner, and the labels are mixed."""

import torch
from torch import Tensor

from ._checks import check_number
from .compositing import replace_boxes
from .method import CuttingMethod, Draw
from .mixing import MixingMethod


class CutMix(MixingMethod, CuttingMethod):
    """A box of each image is replaced by the same box of another image of the batch.

    Yun et al. 2019, arXiv:1905.04899, §3.2. Each image has its own λ ~ Beta(α, α) and box: sides √(1 − λ) of the
    image's, any pixel as its centre, clipped to the image. The weight of an image's own label is the share of its
    pixels really left.

    Args:
        num_classes, alpha, partners: see :class:`~dali_salaug.mixing.MixingMethod`.
    """

    border = "clip"

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> Draw:
        boxes = self._draw_boxes(images, self._draw_sizes(images, generator), saliency, generator)
        return Draw(boxes, partners=self._draw_partners(images, generator))

    def _draw_sizes(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Height and width of each image's box before it is clipped, (B, 2), int64."""
        cut = (1 - self._draw_lambda(images, generator)).sqrt()[:, None]
        image_size = torch.cat([torch.full((1,), side, device=images.device) for side in images.shape[-2:]])
        # Half a side is rounded down, as the authors and torchvision do, so that boxes are symmetric about the centre.
        return 2 * (0.5 * cut * image_size).long()

    def apply(self, images: Tensor, drawn: Draw, augmented: Tensor | None) -> Tensor:
        assert drawn.boxes is not None
        assert drawn.partners is not None
        return replace_boxes(images, drawn.boxes, images.index_select(0, drawn.partners))


class KeepCutMix(CutMix):
    """CutMix that cuts away only what is not salient, by selective-cut on each image's own map (KeepAugment §4.2).

    Args:
        tau: τ in [0, 1]: among all boxes of the size drawn for an image, one is cut only where its saliency is at most
            the τ-quantile.
        num_classes, alpha, partners: see :class:`~dali_salaug.mixing.MixingMethod`.
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
