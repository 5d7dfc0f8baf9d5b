"""HybridMix: SalfMix on each image, then a two-image method between the results."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._checks import check_choice
from .base import SALFMIX, TWO_IMAGES, Draw, Method, MethodEntry, MoveDraw, register
from .cutmix import CutMix
from .mixing import MixingMethod, PairDraw
from .mixup import Mixup
from .salfmix import SalfMix
from .saliencymix import SaliencyMix

SECOND = {"mixup": Mixup, "saliencymix": SaliencyMix, "cutmix": CutMix}  # HybridMix v1, v2 and v3


@dataclass(frozen=True, eq=False)
class HybridMixDraw(Draw):
    """What SalfMix drew, and what the two-image method drew after it.

    Attributes:
        first: SalfMix's draw.
        second: the two-image method's, a type of its own.
    """

    first: MoveDraw
    second: PairDraw

    def own_pixels(self, image_size: tuple[int, int]) -> Tensor | None:
        first, second = self.first.own_pixels(image_size), self.second.own_pixels(image_size)
        return first if second is None else second if first is None else first * second


def _entry(name: str, second: str, title: str) -> MethodEntry:
    return MethodEntry(
        name,
        TWO_IMAGES,
        description=f"SalfMix, then {title}",
        source=SALFMIX,
        reference="§4.4, Algorithm 2, table 2",
        target="loss",
        plain=second,
        options={"second": second},
    )


@register(
    _entry("hybridmix_v1", "mixup", "Mixup"),
    _entry("hybridmix_v2", "saliencymix", "SaliencyMix"),
    _entry("hybridmix_v3", "cutmix", "CutMix"),
)
class HybridMix(Method[HybridMixDraw]):
    """SalfMix on each image, then a two-image method between it and a random self-mixed image of the batch.

    SalfMix §4.4, eq. 1, Algorithm 2 and table 2. The two-image method mixes the labels. The authors train the first
    epoch on unchanged images; by default the stage does the same.

    Args:
        second: "mixup" (HybridMix v1), "saliencymix" (v2) or "cutmix" (v3), with its authors' parameters and with
            partners drawn from the whole batch, as in Algorithm 2; or any two-image method that takes no map from the
            stage, such as ``CutMix(10, partners="permutation")``.
        num_classes: K, the length of the soft targets, if ``second`` is a name.
        first: the SalfMix; by default the paper's.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    default_warmup_epochs = 1

    def __init__(
        self, second: str | MixingMethod, num_classes: int | None = None, *, first: SalfMix | None = None
    ) -> None:
        if isinstance(second, str):
            check_choice("second", second, SECOND)
            if num_classes is None:
                raise ValueError(f"num_classes must be given with second={second!r}; got None")
            self.second: MixingMethod[Any] = SECOND[second](num_classes, partners="replacement")
        elif not isinstance(second, MixingMethod) or second.uses_saliency:
            raise ValueError(
                f"second must be one of {', '.join(map(repr, SECOND))}, or a two-image method that takes no map from "
                f"the stage (that is of the images before SalfMix); got {second!r}"
            )
        elif num_classes is not None:
            raise ValueError(f"num_classes must not be given beside {second!r}, which has its own; got {num_classes!r}")
        else:
            self.second = second
        if first is not None and not isinstance(first, SalfMix):
            raise ValueError(f"first must be a SalfMix; got {first!r}")
        self.first = SalfMix() if first is None else first
        self.uses_saliency = self.first.uses_saliency
        self.own_map = self.second.own_map

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> HybridMixDraw:
        first = self.first.draw(images, saliency, generator)
        # SaliencyMix makes its map from the self-mixed partner (Algorithm 2, lines 11 and 12).
        self_mixed = self.first.apply(images, first, None)
        return HybridMixDraw(first, self.second.draw(self_mixed, None, generator))

    def apply(self, images: Tensor, drawn: HybridMixDraw, augmented: Tensor | None) -> Tensor:
        return self.second.apply(self.first.apply(images, drawn.first, None), drawn.second, None)

    def targets(self, labels: Tensor, drawn: HybridMixDraw, image_size: tuple[int, int]) -> Tensor:
        return self.second.targets(labels, drawn.second, image_size)

    def partner_maps(self, images: Tensor, drawn: HybridMixDraw, saliency: Tensor | None) -> Tensor | None:
        return self.second.partner_maps(self.first.apply(images, drawn.first, None), drawn.second, None)

    def __repr__(self) -> str:
        return f"HybridMix({self.second!r}, first={self.first!r})"
