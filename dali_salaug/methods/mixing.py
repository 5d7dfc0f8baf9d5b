"""The common parts of the two-image methods: partners within the batch, λ, and the mixing of labels."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from .._checks import check_choice, check_label_form, check_number, check_whole_number
from .._tensors import at_least_float32
from ..compositing import box_areas, replace_boxes
from .base import BoxDraw, Draw, Method

PARTNERS = ("permutation", "replacement")


@dataclass(frozen=True, eq=False)
class PairDraw(Draw):
    """A partner for each image.

    Attributes:
        partners: (B,), int64: the partner's place in the batch.
    """

    partners: Tensor


@dataclass(frozen=True, eq=False)
class BoxPairDraw(BoxDraw, PairDraw):
    """A partner for each image, and the region that the partner fills."""


PairT = TypeVar("PairT", bound=PairDraw)
BoxPairT = TypeVar("BoxPairT", bound=BoxPairDraw)


class MixingMethod(Method[PairT]):
    """A method that mixes each image with a partner from the same batch, and mixes their labels likewise.

    Args:
        num_classes: K, the length of the soft targets.
        alpha: α of λ ~ Beta(α, α), one λ for each image, in [0.05, 10⁶].
        partners: "permutation", each image is the partner of one other, or of itself; "replacement", each partner is
            drawn from the whole batch (as HybridMix's authors do).

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    def __init__(self, num_classes: int, *, alpha: float = 1.0, partners: str = "permutation") -> None:
        check_whole_number("num_classes", num_classes, 1, of=" of classes")
        check_number("alpha", alpha, 0.05, 1e6)
        check_choice("partners", partners, PARTNERS)
        self.num_classes = num_classes
        self.alpha = alpha
        self.partners = partners

    def _draw_partners(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw the place in the batch of each image's partner, (B,), int64."""
        uniforms = torch.rand(len(images), generator=generator, dtype=torch.float64, device=images.device)
        if self.partners == "permutation":
            return uniforms.argsort()
        return (uniforms * len(images)).long()

    def _draw_lambda(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw λ ~ Beta(α, α), (B,), float64 in [0, 1]."""
        batch, device = len(images), images.device
        if self.alpha == 1:
            return torch.rand(batch, generator=generator, dtype=torch.float64, device=device)
        # Two uniform numbers to T, of Student's t distribution with 2α degrees of freedom (Bailey 1994,
        # doi:10.1090/S0025-5718-1994-1219702-8), and T to λ = (1 + T / √(2α + T²)) / 2. torch.distributions take no
        # generator, and gamma variates, of which λ may be made too, are drawn by rejection, which torch.compile cannot
        # take apart. With T = √(2αw) c, T² / 2α cannot overflow in the quotient below.
        radius, angle = torch.rand((2, batch), generator=generator, dtype=torch.float64, device=device)
        cosine = (2 * math.pi * angle).cos()
        inverse = 1 / torch.expm1(-torch.log1p(-radius) / self.alpha)  # of w = U^(-1/α) - 1
        return 0.5 + 0.5 * cosine / (cosine.square() + inverse).sqrt()

    def _draw_half_sizes(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw half the height and width of each image's box, (2, B), int64: √(1 − λ) of the image's.

        It is rounded down, as by CutMix's and SaliencyMix's authors and torchvision, so that boxes are symmetric about
        the centre.
        """
        cut = 0.5 * (1 - self._draw_lambda(images, generator)).sqrt()
        return torch.stack([cut * side for side in images.shape[-2:]]).long()

    def _draw_box_sizes(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw height and width of each image's box, (B, 2), int64, see :meth:`_draw_half_sizes`."""
        return 2 * self._draw_half_sizes(images, generator).T

    @abstractmethod
    def _weights(self, drawn: PairT, image_size: tuple[int, int]) -> Tensor:
        """Return the weights of the image's own label and of its partner's, (B, 2)."""

    def targets(self, labels: Tensor, drawn: PairT, image_size: tuple[int, int]) -> Tensor:
        """Return each label's weight, (B, K), float32.

        Args:
            labels: class indices, (B,), int64; or rows of any kind, (B, K), floating point, which are mixed linearly:
                soft targets, several labels as zeros and ones, or regression targets, with ``num_classes`` their
                number.
            drawn: as for :meth:`apply`.
            image_size: (H, W).

        Raises:
            ValueError: for labels of another form, outside [0, K), or not finite.
        """
        check_label_form(
            labels,
            self.num_classes,
            otherwise="num_classes must be the number of columns; one number for each image is labels[:, None]",
        )
        if labels.is_floating_point():
            rows = at_least_float32(labels)
        else:  # not one_hot(), which reads its smallest label back to check it
            rows = torch.zeros(len(labels), self.num_classes, device=labels.device).scatter_(1, labels[:, None], 1.0)
        own, other = self._weights(drawn, image_size).to(rows.dtype).split(1, 1)
        return torch.addcmul(own * rows, other, rows.index_select(0, drawn.partners))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_classes}, alpha={self.alpha:g}, partners={self.partners!r})"


class BoxMixingMethod(MixingMethod[BoxPairT]):
    """A mixing method that fills a box of each image from its partner; labels weigh the shares of the pixels."""

    def apply(self, images: Tensor, drawn: BoxPairT, augmented: Tensor | None) -> Tensor:
        """Replace each image's box by the same box of its partner."""
        return replace_boxes(images, drawn.boxes, images[drawn.partners])

    def _weights(self, drawn: BoxPairT, image_size: tuple[int, int]) -> Tensor:
        taken = box_areas(drawn.boxes) / (image_size[0] * image_size[1])
        return torch.stack([1 - taken, taken], 1)
