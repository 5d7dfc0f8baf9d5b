"""The two baselines: the clean images, and the images of a policy with nothing kept."""

import torch
from torch import Tensor

from .._checks import check_given
from .base import ONE_IMAGE, Draw, Method, MethodEntry, register


class Baseline(Method[Draw]):
    """A method that draws nothing."""

    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> Draw:
        return Draw()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@register(MethodEntry("none", ONE_IMAGE, description="the clean images", source=""))
class Clean(Baseline):
    """The baseline without augmentation: the network's inputs are the clean images."""

    def apply(self, images: Tensor, drawn: Draw, augmented: Tensor | None) -> Tensor:
        return images


class Augmented(Baseline):
    """The baseline of image-level policies: the network's inputs are the augmented images, with nothing kept.

    ``keep_paste.py`` registers it once for each policy.
    """

    uses_augmented = True

    def apply(self, images: Tensor, drawn: Draw, augmented: Tensor | None) -> Tensor:
        return check_given("augmented", augmented)
