"""HybridMix: SalfMix on each image, then a two-image method between the results."""

import torch
from torch import Tensor

from .._checks import check_choice
from .base import Draw, Method
from .cutmix import CutMix
from .mixing import MixingMethod
from .mixup import Mixup
from .salfmix import SalfMix
from .saliencymix import SaliencyMix

SECOND = {"mixup": Mixup, "saliencymix": SaliencyMix, "cutmix": CutMix}  # HybridMix v1, v2 and v3


class HybridMix(Method):
    """SalfMix on each image, then a two-image method between it and a random self-mixed image of the batch.

    SalfMix §4.4, eq. 1, Algorithm 2 and table 2. The labels follow the two-image method. The authors train the first
    epoch on the images as they are, and so does the stage by default.

    Args:
        second: "mixup" (HybridMix v1), "saliencymix" (v2) or "cutmix" (v3), with its authors' parameters and with
            partners drawn from the whole batch, as Algorithm 2 does; or any two-image method that takes no map from the
            stage, as ``CutMix(10, partners="permutation")``.
        num_classes: K, the length of the soft targets, where ``second`` is a name.
        first: the SalfMix; by default the paper's.

    Raises:
        ValueError: for an argument outside of what is said above.
    """

    default_warmup_epochs = 1

    def __init__(
        self, second: str | MixingMethod, num_classes: int | None = None, *, first: SalfMix | None = None
    ) -> None:
        if isinstance(second, str):
            check_choice("second", second, SECOND)
            if num_classes is None:
                raise ValueError(f"num_classes must be given with second={second!r}; got None")
            self.second: MixingMethod = SECOND[second](num_classes, partners="replacement")
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

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> Draw:
        first = self.first.draw(images, saliency, generator)
        # SaliencyMix looks at the partner that it is given, which is self-mixed (Algorithm 2, lines 11 and 12).
        self_mixed = self.first.apply(images, first, None)
        return self.second.draw(self_mixed, None, generator)._replace(first=first)

    def apply(self, images: Tensor, drawn: Draw, augmented: Tensor | None) -> Tensor:
        assert drawn.first is not None
        return self.second.apply(self.first.apply(images, drawn.first, None), drawn, None)

    def targets(self, labels: Tensor, drawn: Draw, image_size: tuple[int, int]) -> Tensor:
        return self.second.targets(labels, drawn, image_size)

    def __repr__(self) -> str:
        return f"HybridMix({self.second!r}, first={self.first!r})"
