"""Attentive CutMix: a partner's cells of greatest attention are pasted at their own places."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_given, check_whole_number
from .._tensors import finite_or_zero
from ..compositing import replace
from .base import TWO_IMAGES, MaskDraw, MethodEntry, register
from .mixing import MixingMethod, PairDraw


@dataclass(frozen=True, eq=False)
class AttentiveCutMixDraw(MaskDraw, PairDraw):
    """A partner for each image, and the pixels that the partner fills."""


@register(
    MethodEntry(
        "attentive_cutmix",
        TWO_IMAGES,
        description="a partner's cells of greatest attention",
        source="Walawalkar et al. 2020",
        reference='arXiv:2003.13048, "Proposed Approach"',
        saliency="grad_cam",
        scale=1.0,
        plain="cutmix",
    )
)
class AttentiveCutMix(MixingMethod[AttentiveCutMixDraw]):
    """The cells of greatest attention of another image of the batch, pasted at their own places; labels by area.

    Walawalkar et al. 2020, arXiv:2003.13048, "Proposed Approach": the attention of a network is averaged over a grid,
    and the N cells of greatest attention are cut out of one image and pasted on the other.

    The attention is the stage's saliency map, averaged over the cells. The authors take a feature map of a network
    trained beforehand. The stage comes nearest to that with ``saliency="grad_cam", scale=1.0, head=teacher``, where
    ``teacher`` is such a network on the images' device. Without ``head`` the attention is the live model's. A map of
    half the size comes from a feature map of 4×4 at 224×224, which the cells interpolate.

    Cells of equal attention are taken at random, so that a flat map favours no place. Where the grid does not divide
    the side, cells differ by a pixel, and the labels' weights are the shares of the pixels really replaced.

    Args:
        cells: N, the number of cells to paste, at least 1; the authors use 6.
        grid: cells along a side.
        num_classes, partners: see :class:`~dali_salaug.methods.mixing.MixingMethod`.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    uses_saliency = True

    def __init__(self, num_classes: int, *, cells: int = 6, grid: int = 7, partners: str = "permutation") -> None:
        super().__init__(num_classes, partners=partners)
        check_whole_number("grid", grid, 1, of=" of cells along a side")
        check_whole_number("cells", cells, 1)
        if cells > grid**2:
            raise ValueError(f"cells must be at most the {grid**2} of a {grid}×{grid} grid; got {cells}")
        self.cells = cells
        self.grid = grid

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> AttentiveCutMixDraw:
        partners = self._draw_partners(images, generator)
        finite = finite_or_zero(check_given("saliency", saliency)).index_select(0, partners)
        attention = F.adaptive_avg_pool2d(finite[:, None], self.grid).flatten(1)
        # Shuffle the cells: the stable sort then leaves equal ones in random order.
        uniforms = torch.rand(attention.shape, generator=generator, dtype=torch.float64, device=images.device)
        order = uniforms.argsort(1)
        ranked = order.gather(1, attention.gather(1, order).argsort(dim=1, descending=True, stable=True))
        pasted = torch.zeros_like(attention, dtype=torch.bool).scatter(1, ranked[:, : self.cells], True)
        masks = pasted.view(-1, 1, self.grid, self.grid)
        for dim in (2, 3):
            cell = torch.arange(images.shape[dim], device=images.device) * self.grid // images.shape[dim]
            masks = masks.index_select(dim, cell)
        return AttentiveCutMixDraw(partners=partners, masks=masks)

    def apply(self, images: Tensor, drawn: AttentiveCutMixDraw, augmented: Tensor | None) -> Tensor:
        return replace(images, drawn.masks, images.index_select(0, drawn.partners))

    def _weights(self, drawn: AttentiveCutMixDraw, image_size: tuple[int, int]) -> Tensor:
        taken = drawn.masks.sum((1, 2, 3)) / (image_size[0] * image_size[1])
        return torch.stack([1 - taken, taken], 1)

    def partner_maps(self, images: Tensor, drawn: AttentiveCutMixDraw, saliency: Tensor | None) -> Tensor:
        return check_given("saliency", saliency)[drawn.partners]

    def __repr__(self) -> str:
        return f"AttentiveCutMix({self.num_classes}, cells={self.cells}, grid={self.grid}, partners={self.partners!r})"
