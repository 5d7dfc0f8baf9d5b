"""ResizeMix: a reduced partner is pasted into each image."""

import torch
from torch import Tensor

from .._checks import check_range
from ..compositing import paste_resized
from .base import TWO_IMAGES, MethodEntry, register
from .mixing import BoxMixingMethod, BoxPairDraw


@register(
    MethodEntry(
        "resizemix",
        TWO_IMAGES,
        description="a whole partner, reduced, at a random place",
        source="Qin et al. 2020",
        reference="arXiv:2012.11101",
    )
)
class ResizeMix(BoxMixingMethod[BoxPairDraw]):
    """The whole of another image of the batch, reduced and pasted at a random place; labels are mixed by area.

    Qin et al. 2020, arXiv:2012.11101, "ResizeMix", and the authors' code (JayQine/ResizeMix, ``run_apis/trainer.py``
    and ``getbox_new``). The patch's side is τ ~ U(α, β) of the image's, rounded down to whole pixels. Its centre is any
    pixel, and a patch that would extend beyond the border is shifted inside, so that patches at the border are more
    frequent.

    Departures: each image has its own τ (the authors draw one for a batch), and the partner is resized bilinearly,
    without antialiasing (the authors' code takes the nearest pixel); see
    :func:`~dali_salaug.compositing.paste_resized`.

    Args:
        scale: least and greatest τ, (α, β), in (0, 1).
        num_classes, partners: see :class:`~dali_salaug.methods.mixing.MixingMethod`.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    def __init__(
        self, num_classes: int, *, scale: tuple[float, float] = (0.1, 0.8), partners: str = "permutation"
    ) -> None:
        super().__init__(num_classes, partners=partners)
        check_range("scale", scale, 1.0)
        self.scale = scale

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> BoxPairDraw:
        batch, (height, width) = len(images), images.shape[-2:]
        uniforms = torch.rand((3, batch), generator=generator, dtype=torch.float64, device=images.device)
        least, most = self.scale
        tau = least + (most - least) * uniforms[0]
        top, bottom = self._place(height, tau, uniforms[1])
        left, right = self._place(width, tau, uniforms[2])
        boxes = torch.stack([top, left, bottom, right], 1)
        return BoxPairDraw(partners=self._draw_partners(images, generator), boxes=boxes)

    @staticmethod
    def _place(pixels: int, tau: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return start and stop of the patch along one axis."""
        size = (tau * pixels).long().clamp(min=1)
        centre = (uniforms * pixels).long()
        start = (centre - size // 2).clamp(min=0).minimum(pixels - size)
        return start, start + size

    def apply(self, images: Tensor, drawn: BoxPairDraw, augmented: Tensor | None) -> Tensor:
        height, width = images.shape[-2:]
        whole = torch.zeros_like(drawn.boxes)
        whole[:, 2], whole[:, 3] = height, width
        return paste_resized(images, drawn.boxes, images.index_select(0, drawn.partners), whole)

    def __repr__(self) -> str:
        return f"ResizeMix({self.num_classes}, scale={self.scale}, partners={self.partners!r})"
