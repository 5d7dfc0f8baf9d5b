"""SnapMix: a partner's box is resized into another box of each image, and the maps weight the labels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .._checks import check_given, check_number
from .._tensors import finite_or_zero
from ..compositing import box_areas, box_mask, paste_resized
from ..regions import draw_regions
from .base import TWO_IMAGES, MethodEntry, MoveDraw, register
from .mixing import BoxPairDraw, MixingMethod


@dataclass(frozen=True, eq=False)
class SnapMixDraw(MoveDraw, BoxPairDraw):
    """A partner for each image, the box that it fills, the partner's own box, and the weights of the labels.

    Attributes:
        weights: (B, 2), float64: of the image's label, and of the partner's.
    """

    weights: Tensor


@register(
    MethodEntry(
        "snapmix",
        TWO_IMAGES,
        description="a partner's box in another box, labels weighted by maps",
        source="Huang et al. 2021",
        reference="arXiv:2012.04846",
        saliency="grad_cam",
        scale=1.0,
        plain="cutmix",
    )
)
class SnapMix(MixingMethod[SnapMixDraw]):
    """A box of another image of the batch, resized into a box of each image; the evidence inside weights the labels.

    Huang et al. 2021, AAAI, arXiv:2012.04846, and the authors' code (Shaoli-Huang/SnapMix, ``utils/mixmethod.py``).
    Each of the two boxes has its own λ ~ Beta(α, α) and place, drawn as CutMix's. Let S be the semantic percent map of
    an image: its class activation map less its minimum, divided by its sum. The image's label has the weight
    ρ_a = 1 − Σ S_a inside its box, the partner's label ρ_b = Σ S_b inside the partner's box.

    ρ_a + ρ_b need not be 1. For such targets ``F.cross_entropy`` computes the authors' loss, ρ_a · CE(a) + ρ_b · CE(b).
    Use the saliency "grad_cam" in the stage: for a network that ends in global average pooling and a linear layer, it
    is the label's class activation map up to a factor and the layer's bias, cut off at 0. The authors do not cut it
    off, which matters where evidence speaks against the label.

    As in the authors' code, the shares of the pixels replace ρ where a map is flat, and an image with either box empty
    stays unchanged, with its label. Departures: each image has its own λ and boxes; boxes are resized from pixel
    centres (``align_corners=False``); where both images have the same label, its weight is ρ_a + ρ_b, while the
    authors' code counts that loss twice.

    Args:
        alpha: α of both λ; the authors use 5 when they train from pre-trained weights.
        probability: that an image is mixed at all, in [0, 1]; the authors use 0.5 when they train from scratch.
        num_classes, partners: see :class:`~dali_salaug.methods.mixing.MixingMethod`.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    uses_saliency = True

    def __init__(
        self, num_classes: int, *, alpha: float = 5.0, probability: float = 1.0, partners: str = "permutation"
    ) -> None:
        super().__init__(num_classes, alpha=alpha, partners=partners)
        check_number("probability", probability, 0, 1)
        self.probability = probability

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> SnapMixDraw:
        image_size = (images.shape[-2], images.shape[-1])
        boxes, sources = (
            draw_regions(images, self._draw_box_sizes(images, generator), generator, border="clip") for _ in range(2)
        )
        partners = self._draw_partners(images, generator)
        uniforms = torch.rand(len(images), generator=generator, dtype=torch.float64, device=images.device)
        mixed = (box_areas(boxes) > 0) & (box_areas(sources) > 0) & (uniforms < self.probability)
        boxes, sources = boxes * mixed[:, None], sources * mixed[:, None]

        evidence = _evidence(check_given("saliency", saliency), image_size)
        share = box_areas(boxes) / (image_size[0] * image_size[1])
        covered = _inside(evidence, boxes, share)
        brought = _inside(evidence.index_select(0, partners), sources, share)
        weights = torch.stack([1 - covered, brought], 1)
        return SnapMixDraw(partners=partners, boxes=boxes, sources=sources, weights=weights)

    def apply(self, images: Tensor, drawn: SnapMixDraw, augmented: Tensor | None) -> Tensor:
        return paste_resized(images, drawn.boxes, images.index_select(0, drawn.partners), drawn.sources)

    def partner_maps(self, images: Tensor, drawn: SnapMixDraw, saliency: Tensor | None) -> Tensor:
        return check_given("saliency", saliency)[drawn.partners]

    def _weights(self, drawn: SnapMixDraw, image_size: tuple[int, int]) -> Tensor:
        return drawn.weights

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, probability={self.probability:g})"


def _evidence(saliency: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the map at the image's resolution, less its minimum: (B, H, W), float32; exactly 0 for a flat map."""
    finite = finite_or_zero(saliency.float())
    # The minimum is subtracted before as well as after: nothing of a flat map may remain, not even rounding errors.
    finite = finite - finite.amin((1, 2), keepdim=True)
    evidence = F.interpolate(finite[:, None], image_size, mode="bilinear").squeeze(1)
    return evidence - evidence.amin((1, 2), keepdim=True)


def _inside(evidence: Tensor, boxes: Tensor, share: Tensor) -> Tensor:
    """Return the semantic percent of each map inside its box, (B,), float64; ``share`` where the map is flat."""
    mask = box_mask(boxes, (evidence.shape[1], evidence.shape[2])).squeeze(1)
    inside = (evidence * mask).sum((1, 2)).double() / evidence.sum((1, 2))
    return torch.where(inside.isnan(), share.double(), inside)
