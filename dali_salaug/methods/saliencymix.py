"""SaliencyMix: a box around the most salient point of a partner is copied into each image."""

import torch
from torch import Tensor

from .._checks import check_number
from ..saliency.maps import saliency_map
from .base import TWO_IMAGES, MethodEntry, register
from .mixing import BoxMixingMethod, BoxPairDraw


@register(
    MethodEntry(
        "saliencymix",
        TWO_IMAGES,
        description="a box around a partner's most salient point",
        source="Uddin et al. 2021",
        reference="arXiv:2006.01791, §3.1 and §3.2",
        plain="cutmix",
    )
)
class SaliencyMix(BoxMixingMethod[BoxPairDraw]):
    """A box around the peak of a partner's fine-grained map, copied to the same place of each image.

    Uddin et al. 2021, arXiv:2006.01791, §3.1 and §3.2. Each image has its own λ ~ Beta(α, α), partner and box. The
    box's sides are √(1 − λ) of the image's, its centre is where the partner's map is highest (of equal peaks, the first
    in reading order), and it is clipped to the image. The weight of an image's own label is the share of its pixels
    that are really left. The map uses no model.

    The authors' code has one λ and one box for the batch, from one image's map. OpenCV cuts that map off at 1, and the
    authors take the first of the pixels that reach 1; here the highest pixel counts.

    Args:
        scale: side of the map over side of the image, in (0, 1]; 1 is the authors'. At 224×224, half moves the peak on
            more than half of photographs.
        num_classes, alpha, partners: see :class:`~dali_salaug.methods.mixing.MixingMethod`.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    own_map = "fine_grained"

    def __init__(
        self, num_classes: int, *, alpha: float = 1.0, partners: str = "permutation", scale: float = 1.0
    ) -> None:
        super().__init__(num_classes, alpha=alpha, partners=partners)
        check_number("scale", scale, 0, 1, open_low=True)
        self.scale = scale

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> BoxPairDraw:
        half = self._draw_half_sizes(images, generator)
        partners = self._draw_partners(images, generator)
        fine_grained = self._maps(images)
        rows, columns = fine_grained.shape[-2:]
        height, width = images.shape[-2:]
        peaks = fine_grained.flatten(1).argmax(1).index_select(0, partners)
        centre = torch.stack([_centre(peaks // columns, rows, height), _centre(peaks % columns, columns, width)])
        boxes = torch.cat([centre - half, centre + half]).clamp_(min=0)  # top, left, bottom, right
        boxes[::2].clamp_(max=height)
        boxes[1::2].clamp_(max=width)
        return BoxPairDraw(partners=partners, boxes=boxes.T)

    def partner_maps(self, images: Tensor, drawn: BoxPairDraw, saliency: Tensor | None) -> Tensor:
        return self._maps(images[drawn.partners])

    def _maps(self, images: Tensor) -> Tensor:
        return saliency_map(None, images, method=self.own_map, scale=self.scale)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, scale={self.scale:g})"


def _centre(cell: Tensor, cells: int, pixels: int) -> Tensor:
    """Return the pixel in the centre of each of the map's cells (B,), of ``cells`` along ``pixels``."""
    return cell if cells == pixels else (2 * cell + 1) * pixels // (2 * cells)
