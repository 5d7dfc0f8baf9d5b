"""KeepPaste: a salient square of the clean image is put back over any image-level augmentation."""

import torch
from torch import Tensor

from .._checks import check_given, check_images, check_like_images, check_number, check_region, check_saliency
from ..compositing import box_mask, replace_boxes
from ..regions import draw_regions
from .base import KEEPAUGMENT, POLICY, BoxDraw, Method, MethodEntry, register
from .baselines import Augmented


def selective_paste(
    images: Tensor,
    augmented: Tensor,
    saliency: Tensor,
    size: int | tuple[int, int],
    *,
    tau: float = 0.6,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Put one region of each clean image over its augmented copy, drawn uniformly among the salient ones.

    KeepAugment, Algorithm 1(b), eq. 3 and "Remark". The region lies wholly in the image. It qualifies if its saliency
    is at least the τ-quantile of all regions of its size.

    Args:
        images: the clean images (B, C, H, W), floating point; not written to.
        augmented: an augmented copy of the same crop, like ``images``; not written to.
        saliency: maps of the clean images, (B, h, w), floating point, at any resolution; values that are not finite
            count as 0.
        size: side of the square, or (height, width), in image pixels; not larger than the image.
        tau: τ in [0, 1], the quantile; 0 makes the draw blind to the saliency.
        generator: on the images' device; None for the global one.

    Returns:
        The augmented images with the clean region, (B, C, H, W), and the boxes (B, 4), int64: top, left, bottom,
        right in image pixels, half-open.

    Raises:
        ValueError: for an argument outside the ranges above.
    """
    method = KeepPaste(size, tau=tau)
    images = check_images("images", images)
    augmented = check_like_images("augmented", augmented, images)
    drawn = method.draw(images, check_saliency(saliency, images), generator)
    return method.apply(images, drawn, augmented), drawn.boxes


class KeepPaste(Method[BoxDraw]):
    """:func:`selective_paste` as an object, for any policy that makes the augmented images.

    With AutoAugment it is KeepAutoAugment, with RandAugment KeepRandAugment (KeepAugment §4).

    Args:
        size: side of the square, or (height, width), in pixels; by default 16 at 32×32 and 40 at 224×224.
        tau: τ in [0, 1], as for :func:`selective_paste`.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    uses_saliency = True
    uses_augmented = True
    keeps_region = True
    traceable = False  # an input has pixels of two images, each with its own map

    def __init__(self, size: int | tuple[int, int] | None = None, *, tau: float = 0.6) -> None:
        check_number("tau", tau, 0, 1)
        self.size = None if size is None else check_region(size)
        self.tau = tau

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> BoxDraw:
        return BoxDraw(
            draw_regions(images, self.size, generator, border="inside", saliency=saliency, tau=self.tau, keep="high")
        )

    def apply(self, images: Tensor, drawn: BoxDraw, augmented: Tensor | None) -> Tensor:
        return replace_boxes(check_given("augmented", augmented), drawn.boxes, images)

    def own_pixels(self, drawn: BoxDraw, image_size: tuple[int, int]) -> Tensor:
        return box_mask(drawn.boxes, image_size).squeeze(1).float()

    def __repr__(self) -> str:
        return f"KeepPaste(size={self.size}, tau={self.tau:g})"


def _register_policy(name: str, title: str, source: str, reference: str, *, keep_reference: str) -> None:
    """Register the two methods of a policy: its images as they are, and with a salient square kept clean."""
    kept = f"{title}, a salient square kept clean"
    register(MethodEntry(name, POLICY, title, source, reference, policy=name))(Augmented)
    register(MethodEntry(f"keep_{name}", POLICY, kept, KEEPAUGMENT, keep_reference, policy=name, plain=name))(KeepPaste)


_register_policy(
    "autoaugment",
    "AutoAugment",
    "Cubuk et al. 2019",
    "arXiv:1805.09501, §3 and appendix",
    keep_reference="Algorithm 1(b), eq. 3, §4.1",
)
_register_policy(
    "randaugment",
    "RandAugment",
    "Cubuk et al. 2020",
    "arXiv:1909.13719, §3",
    keep_reference="eq. 3; in the paper's semi-supervised training, §4.3",
)
_register_policy(
    "trivialaugment",
    "TrivialAugment",
    "Müller & Hutter 2021",
    "arXiv:2103.10158, §3",
    keep_reference="eq. 3; not in the paper",
)
_register_policy(
    "augmix",
    "AugMix",
    "Hendrycks et al. 2020",
    "arXiv:1912.02781, §3, Algorithm 1",
    keep_reference="eq. 3; not in the paper",
)
