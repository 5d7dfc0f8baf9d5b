"""CutMix and KeepCutMix: a box of each image is replaced by the same box of a partner, and the labels are mixed."""

import torch
from torch import Tensor

from ._checks import check_number, check_whole_number
from .compositing import replace_boxes
from .method import CuttingMethod, Draw


class CutMix(CuttingMethod):
    """A box of each image is replaced by the same box of another image of the batch.

    Yun et al. 2019, arXiv:1905.04899, §3.2. Each image has its own λ ~ Beta(α, α) and box: sides √(1 − λ) of the
    image's, any pixel as its centre, clipped to the image. The weight of an image's own label is the share of its
    pixels really left. Partners are a random permutation of the batch.

    Args:
        num_classes: K, the length of the soft targets.
        alpha: α of the Beta distribution, at least 0.05.
    """

    border = "clip"

    def __init__(self, num_classes: int, *, alpha: float = 1.0) -> None:
        check_whole_number("num_classes", num_classes, 1, of=" of classes")
        check_number("alpha", alpha, 0.05, 1e6)  # below, both gamma variates may underflow to 0
        self.num_classes = num_classes
        self.alpha = alpha

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> Draw:
        batch, device = len(images), images.device
        cut = (1 - self._draw_lambda(batch, generator, device)).sqrt()[:, None]
        image_size = torch.cat([torch.full((1,), side, device=device) for side in images.shape[-2:]])
        # Half a side is rounded down, as the authors and torchvision do, so that boxes are symmetric about the centre.
        sizes = 2 * (0.5 * cut * image_size).long()
        boxes = self._draw_boxes(images, sizes, saliency, generator)
        partners = torch.rand(batch, generator=generator, device=device).argsort()
        return Draw(boxes, partners=partners)

    def _draw_lambda(self, batch: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """λ ~ Beta(α, α), (B,), float64 in [0, 1]."""
        if self.alpha == 1:
            return torch.rand(batch, generator=generator, dtype=torch.float64, device=device)
        # Two gamma variates over their sum; torch.distributions take no generator.
        parameters = torch.full((2, batch), self.alpha, dtype=torch.float64, device=device)
        gammas = torch._standard_gamma(parameters, generator=generator)
        return gammas[0] / gammas.sum(0)

    def apply(self, images: Tensor, drawn: Draw, augmented: Tensor | None) -> Tensor:
        assert drawn.boxes is not None
        assert drawn.partners is not None
        return replace_boxes(images, drawn.boxes, images.index_select(0, drawn.partners))

    def targets(self, labels: Tensor, drawn: Draw, image_size: tuple[int, int]) -> Tensor:
        assert drawn.boxes is not None
        assert drawn.partners is not None
        cut = (drawn.boxes[:, 2:] - drawn.boxes[:, :2]).prod(1, keepdim=True) / (image_size[0] * image_size[1])
        # Not one_hot(), which reads its smallest label back to check it.
        one_hot = (labels[:, None] == torch.arange(self.num_classes, device=labels.device)).float()
        return (1 - cut) * one_hot + cut * one_hot.index_select(0, drawn.partners)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_classes}, alpha={self.alpha:g})"


class KeepCutMix(CutMix):
    """CutMix that cuts away only what is not salient, by selective-cut on each image's own map (KeepAugment §4.2).

    Args:
        tau: τ in [0, 1]: among all boxes of the size drawn for an image, one is cut only where its saliency is at most
            the τ-quantile.
        num_classes, alpha: as for :class:`CutMix`.
    """

    uses_saliency = True

    def __init__(self, num_classes: int, *, alpha: float = 1.0, tau: float = 0.6) -> None:
        super().__init__(num_classes, alpha=alpha)
        check_number("tau", tau, 0, 1)
        self.tau = tau

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, tau={self.tau:g})"
