"""Random Erasing and KeepRandomErasing: noise overwrites a rectangle of random size and shape."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._checks import check_number, check_range
from ..compositing import replace_boxes
from .base import KEEPAUGMENT, ONE_IMAGE, BoxDraw, CuttingMethod, MethodEntry, register

ATTEMPTS = 10  # as in torchvision and timm; if none fits, the image does not change


@dataclass(frozen=True, eq=False)
class ErasingDraw(BoxDraw):
    """A region of each image, and the noise to write into it.

    Attributes:
        noise: (B, C, H, W), of the images' dtype.
    """

    noise: Tensor


@register(
    MethodEntry(
        "random_erasing",
        ONE_IMAGE,
        description="a rectangle of random size overwritten by noise",
        source="Zhong et al. 2020",
        reference="arXiv:1708.04896, Algorithm 1",
    )
)
class RandomErasing(CuttingMethod[ErasingDraw]):
    """Normal noise over a rectangle of each image, with its own area, aspect and place.

    Zhong et al. 2020, arXiv:1708.04896, Algorithm 1. The aspect is log-uniform, as in torchvision and timm; the noise
    is normal, as in timm. The rectangle lies wholly in the image and is smaller than the image on both sides.

    Args:
        probability: that an image is erased at all, in [0, 1].
        area: least and greatest area of the rectangle as a share of the image's, in (0, 1).
        aspect: least and greatest height over width, above 0.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    border = "inside"
    traceable = False  # noise has no map

    def __init__(
        self,
        probability: float = 0.5,
        *,
        area: tuple[float, float] = (0.02, 0.4),
        aspect: tuple[float, float] = (0.3, 1 / 0.3),
    ) -> None:
        check_number("probability", probability, 0, 1)
        check_range("area", area, 1.0)
        check_range("aspect", aspect, math.inf)
        self.probability = probability
        self.area = area
        self.aspect = aspect

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> ErasingDraw:
        sizes, erased = self._draw_sizes(images, generator)
        boxes = self._draw_boxes(images, sizes, saliency, generator)
        noise = torch.randn(images.shape, generator=generator, dtype=images.dtype, device=images.device)
        return ErasingDraw(boxes=boxes * erased[:, None], noise=noise)

    def _draw_sizes(self, images: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Draw height and width of each image's rectangle, (B, 2), int64, and whether it is erased, (B,), bool."""
        batch, (height, width) = len(images), images.shape[-2:]
        uniforms = torch.rand((2 * ATTEMPTS + 1, batch), generator=generator, dtype=torch.float64, device=images.device)
        least, most = self.area
        area = height * width * (least + (most - least) * uniforms[:ATTEMPTS])
        flattest, tallest = map(math.log, self.aspect)
        ratio = (flattest + (tallest - flattest) * uniforms[ATTEMPTS:-1]).exp()
        heights, widths = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
        fits = (heights < height) & (widths < width)
        first = fits.int().argmax(0, keepdim=True)  # argmax takes the first of equal values
        sizes = torch.stack([heights.gather(0, first)[0], widths.gather(0, first)[0]], 1)
        found = fits.any(0)
        return sizes * found[:, None], found & (uniforms[-1] < self.probability)

    def apply(self, images: Tensor, drawn: ErasingDraw, augmented: Tensor | None) -> Tensor:
        return replace_boxes(images, drawn.boxes, drawn.noise)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.probability:g}, area={self.area}, aspect={self.aspect})"


@register(
    MethodEntry(
        "keep_random_erasing",
        ONE_IMAGE,
        description="Random Erasing that spares what is salient",
        source=KEEPAUGMENT,
        reference="§4.4, eq. 2",
        plain="random_erasing",
    )
)
class KeepRandomErasing(RandomErasing):
    """Random Erasing that spares what is salient, by selective-cut (KeepAugment §3 and §4.4).

    Args:
        tau: τ in [0, 1]. A rectangle may be erased only where its saliency is at most the τ-quantile of all rectangles
            of the size drawn for the image.
        probability, area, aspect: as for :class:`RandomErasing`.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    uses_saliency = True

    def __init__(
        self,
        probability: float = 0.5,
        *,
        area: tuple[float, float] = (0.02, 0.4),
        aspect: tuple[float, float] = (0.3, 1 / 0.3),
        tau: float = 0.6,
    ) -> None:
        super().__init__(probability, area=area, aspect=aspect)
        check_number("tau", tau, 0, 1)
        self.tau = tau

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, tau={self.tau:g})"
