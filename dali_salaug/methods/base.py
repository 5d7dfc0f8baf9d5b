"""What a method is: a draw, an application of what was drawn, and the facts by which others find it."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ..regions import draw_regions

ONE_IMAGE, TWO_IMAGES, POLICY = KINDS = ("one image", "two images", "policy")
KEEPAUGMENT, SALFMIX = "Gong et al. 2021 (KeepAugment)", "Choi et al. 2021 (SalfMix)"  # sources that several cite


@dataclass(frozen=True, eq=False)
class Draw:
    """What a method drew for a batch. Each method has a type of its own; this one holds nothing."""


@dataclass(frozen=True, eq=False)
class BoxDraw(Draw):
    """A region of each image.

    Attributes:
        boxes: (B, 4), int64: top, left, bottom, right in pixels, half-open; empty for no region.
    """

    boxes: Tensor


@dataclass(frozen=True, eq=False)
class MoveDraw(BoxDraw):
    """A region of each image, and where its new pixels come from.

    Attributes:
        sources: (B, 4), like ``boxes``.
    """

    sources: Tensor


@dataclass(frozen=True, eq=False)
class MaskDraw(Draw):
    """The pixels of each image that are replaced, where they are more than one box.

    Attributes:
        masks: (B, 1, H, W), bool.
    """

    masks: Tensor


D = TypeVar("D", bound=Draw)


class Method(ABC, Generic[D]):
    """A way to make the network's inputs from a batch. Subclasses state what they need and implement the two halves.

    ``draw`` makes a few tensors from a generator; ``apply`` and ``targets`` are pure functions of the batch and of what
    was drawn. None of them waits for the device. A test or a figure can therefore inject a draw, and a draw can be
    replayed.
    """

    uses_saliency: bool = False  # draw needs the saliency map
    uses_augmented: bool = False  # apply needs the augmented images
    traceable: bool = True  # a saliency map can be followed through what the method does to an image
    own_map: str = ""  # the saliency method by which this one makes maps of the partners itself
    default_warmup_epochs: int = 0  # epochs that its authors train without it

    @abstractmethod
    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> D:
        """Draw what to do to each image.

        Args:
            images: the clean images (B, C, H, W), floating point.
            saliency: their maps (B, h, w), float32, at any resolution; None where the method uses none.
            generator: on the images' device; the global one where it is None.
        """

    @abstractmethod
    def apply(self, images: Tensor, drawn: D, augmented: Tensor | None) -> Tensor:
        """Make the network's inputs (B, C, H, W). Writes into none of its arguments.

        Args:
            images: the clean images (B, C, H, W), floating point.
            drawn: what :meth:`draw` returned for them.
            augmented: an augmented copy, like ``images``; None where the method uses none.
        """

    def targets(self, labels: Tensor, drawn: D, image_size: tuple[int, int]) -> Tensor:
        """Make the targets: the labels (B,), int64, or (B, K), floating point, where the method mixes them.

        Args:
            labels: (B,), int64.
            drawn: as for :meth:`apply`.
            image_size: (H, W).
        """
        return labels

    def partner_maps(self, images: Tensor, drawn: D, saliency: Tensor | None) -> Tensor | None:
        """Return the maps (B, h, w) of the partners that the draw looked at, for pictures; None where it looks at none.

        Args:
            images, saliency: as for :meth:`draw`.
            drawn: what it returned.
        """
        return None


class CuttingMethod(Method[D]):
    """A method that cuts a region out of each image: anywhere, or, where it uses saliency, by selective-cut."""

    border: str  # "clip" or "inside"
    tau: float  # only of those that use saliency

    def _draw_boxes(
        self,
        images: Tensor,
        size: tuple[int, int] | Tensor | None,
        saliency: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Draw boxes (B, 4); ``size`` as for :func:`~dali_salaug.regions.draw_regions`."""
        if not self.uses_saliency:
            return draw_regions(images, size, generator, border=self.border)
        return draw_regions(images, size, generator, border=self.border, saliency=saliency, tau=self.tau, keep="low")


@dataclass(frozen=True)
class MethodEntry:
    """The facts of a method under one name; ``METHODS`` holds all of them.

    Attributes:
        name: as ``--method`` takes it.
        kind: one of ``KINDS``.
        description: what the network's input is, in a few words.
        source: authors and year; "" for the baseline.
        policy: the image-level policy that makes the augmented images, unless the user names another.
        saliency, target, scale: the map by default, as :func:`saliency_map` names it; of methods that use one.
        options: what the constructor takes for this name, where one class has several.
        method: the class; :func:`register` fills it in.
    """

    name: str
    kind: str
    description: str
    source: str
    policy: str | None = None
    saliency: str = "gradient"
    target: str = "label"
    scale: float = 0.5
    options: Mapping[str, Any] = field(default_factory=dict)
    method: type[Method] = Method  # type: ignore[type-abstract]

    def takes(self, parameter: str) -> bool:
        """Return whether the constructor has a parameter that this name leaves open."""
        return parameter in inspect.signature(self.method).parameters and parameter not in self.options

    def build(self, num_classes: int, *, region_size: int | None = None, tau: float = 0.6) -> Method:
        """Construct the method; an argument that its class does not take has no effect.

        Args:
            num_classes: K, of methods that mix labels.
            region_size: side of the square region in pixels; None: by the image's size.
            tau: τ, the quantile.
        """
        settings = {"num_classes": num_classes, "size": region_size, "tau": tau}
        return self.method(**self.options, **{name: value for name, value in settings.items() if self.takes(name)})

    @property
    def maps(self) -> tuple[str, ...]:
        """The saliency methods at work by default: of the map that the method uses, and of the one that it makes."""
        method = self.build(2)
        return (self.saliency,) * method.uses_saliency + (method.own_map,) * bool(method.own_map)


METHODS: dict[str, MethodEntry] = {}  # by name, in the order of registration

M = TypeVar("M", bound=type[Method])


def register(*entries: MethodEntry) -> Callable[[M], M]:
    """Decorate a method's class: enter it into ``METHODS`` under the names of ``entries``."""

    def enter(method: M) -> M:
        METHODS.update({entry.name: replace(entry, method=method) for entry in entries})
        return method

    return enter
