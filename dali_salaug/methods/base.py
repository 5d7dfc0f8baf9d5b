"""What a method is: a draw, the application of a draw, and the facts by which the rest of the project finds it."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ..compositing import box_mask
from ..regions import draw_regions

ONE_IMAGE, TWO_IMAGES, POLICY = KINDS = ("one image", "two images", "policy")
KEEPAUGMENT, SALFMIX = "Gong et al. 2021 (KeepAugment)", "Choi et al. 2021 (SalfMix)"  # sources of several methods


@dataclass(frozen=True, eq=False)
class Draw:
    """What a method drew for a batch. Each method has its own type; this one holds nothing."""

    def own_pixels(self, image_size: tuple[int, int]) -> Tensor | None:
        """Return how much of each input pixel is the image's own pixel of that place: (B, H, W) in [0, 1]; None: all.

        Args:
            image_size: (H, W).
        """
        return None


@dataclass(frozen=True, eq=False)
class BoxDraw(Draw):
    """A region of each image.

    Attributes:
        boxes: (B, 4), int64: top, left, bottom, right in pixels, half-open; empty where an image has no region.
    """

    boxes: Tensor

    def own_pixels(self, image_size: tuple[int, int]) -> Tensor | None:
        return (~box_mask(self.boxes, image_size)).squeeze(1).float()


@dataclass(frozen=True, eq=False)
class MoveDraw(BoxDraw):
    """A region of each image, and the region that its new pixels come from.

    Attributes:
        sources: (B, 4), int64, like ``boxes``.
    """

    sources: Tensor


@dataclass(frozen=True, eq=False)
class MaskDraw(Draw):
    """The pixels of each image that are replaced, where they form more than one box.

    Attributes:
        masks: (B, 1, H, W), bool: true where a pixel is replaced.
    """

    masks: Tensor

    def own_pixels(self, image_size: tuple[int, int]) -> Tensor | None:
        return (~self.masks).squeeze(1).float()


DrawT = TypeVar("DrawT", bound=Draw)


class Method(ABC, Generic[DrawT]):
    """A way to make the network's inputs from a batch. Subclasses declare what they need and implement two halves.

    :meth:`draw` turns random numbers into a few tensors. :meth:`apply` and :meth:`targets` are pure functions of the
    batch and of these tensors. None of them waits for the device. A test or a figure can therefore inject a draw, and
    a draw can be replayed.

    Attributes:
        uses_saliency: whether :meth:`draw` needs the saliency maps.
        uses_augmented: whether :meth:`apply` needs the augmented images.
        traceable: whether a saliency map can be followed through what the method does to an image.
        keeps_region: whether the region is what the input keeps of the clean image; otherwise it is what it lacks.
        own_map: the saliency method by which this method itself makes maps of the partners; "" where it makes none.
        default_warmup_epochs: the epochs that its authors train without it.
    """

    uses_saliency: bool = False
    uses_augmented: bool = False
    traceable: bool = True
    keeps_region: bool = False
    own_map: str = ""
    default_warmup_epochs: int = 0

    @abstractmethod
    def draw(self, images: Tensor, saliency: Tensor | None, generator: torch.Generator | None) -> DrawT:
        """Draw what to do to each image.

        Args:
            images: the clean images (B, C, H, W), floating point.
            saliency: their maps (B, h, w), float32, at any resolution; None where the method uses none.
            generator: on the images' device; None for the global one.
        """

    @abstractmethod
    def apply(self, images: Tensor, drawn: DrawT, augmented: Tensor | None) -> Tensor:
        """Make the network's inputs (B, C, H, W). Write into none of the arguments.

        Args:
            images: the clean images (B, C, H, W), floating point.
            drawn: what :meth:`draw` returned for them.
            augmented: an augmented copy, like ``images``; None where the method uses none.
        """

    @property
    def mixes_labels(self) -> bool:
        """Whether the labels of several images are mixed; otherwise they may be of any kind."""
        return type(self).targets is not Method.targets

    def targets(self, labels: Tensor, drawn: DrawT, image_size: tuple[int, int]) -> Tensor:
        """Make the targets: the labels themselves, or, where the method mixes them, (B, K), floating point.

        Args:
            labels: (B,), int64, or of another kind, see :class:`SaliencyStage`.
            drawn: as for :meth:`apply`.
            image_size: (H, W).
        """
        return labels

    def own_pixels(self, drawn: DrawT, image_size: tuple[int, int]) -> Tensor | None:
        """Return how much of each input pixel is the clean image's own pixel of that place: (B, H, W); None: all.

        Args:
            drawn, image_size: as for :meth:`targets`.
        """
        return drawn.own_pixels(image_size)

    def partner_maps(self, images: Tensor, drawn: DrawT, saliency: Tensor | None) -> Tensor | None:
        """Return, for pictures, the maps (B, h, w) of the partners that the draw used; None where it used none.

        Args:
            images, saliency: as for :meth:`draw`.
            drawn: what it returned.
        """
        return None


class CuttingMethod(Method[DrawT]):
    """A method that cuts one region out of each image: anywhere, or by selective-cut where it uses saliency.

    Attributes:
        border: "clip" or "inside", see :func:`~dali_salaug.regions.candidate_axis`.
        tau: τ, the quantile; only of methods that use saliency.
    """

    border: str
    tau: float

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


@dataclass
class MethodEntry:
    """The facts of a method under one name. Every list, table and option of the project reads them from ``METHODS``.

    Attributes:
        name: as ``--method`` takes it.
        kind: one of ``KINDS``.
        description: what the network's input is, in a few words.
        source: authors and year; "" for the baseline.
        reference: where in the source the method is described: arXiv number, sections, equations.
        policy: the image-level policy that makes the augmented images, unless the user names another.
        saliency, target, scale: the default map, as :func:`saliency_map` names it; only of methods that use one.
        plain: the name of the method that this one is without saliency, where there is one.
        options: the constructor's arguments under this name, where one class has several names.
        method: the class; :func:`register` fills it in.
    """

    name: str
    kind: str
    description: str
    source: str
    reference: str = ""
    policy: str | None = None
    saliency: str = "gradient"
    target: str = "label"
    scale: float = 0.5
    plain: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    method: type[Method[Any]] = field(init=False)

    def takes(self, parameter: str) -> bool:
        """Return whether the constructor has this parameter and ``options`` does not fix it."""
        return parameter in inspect.signature(self.method).parameters and parameter not in self.options

    def build(self, num_classes: int, *, region_size: int | None = None, tau: float = 0.6) -> Method[Any]:
        """Construct the method. An argument that its class does not take has no effect.

        Args:
            num_classes: K, for methods that mix labels.
            region_size: side of the square region in pixels; None derives it from the images' size.
            tau: τ, the quantile.
        """
        settings = {"num_classes": num_classes, "size": region_size, "tau": tau}
        return self.method(**self.options, **{name: value for name, value in settings.items() if self.takes(name)})

    @property
    def maps(self) -> tuple[str, ...]:
        """The saliency methods in use by default: of the map that the method needs, and of the one that it makes."""
        method = self.build(2)
        return (self.saliency,) * method.uses_saliency + (method.own_map,) * bool(method.own_map)


METHODS: dict[str, MethodEntry] = {}  # by name, in the order of registration

MethodT = TypeVar("MethodT", bound=type[Method[Any]])


def register(*entries: MethodEntry) -> Callable[[MethodT], MethodT]:
    """Return a decorator that enters a method's class into ``METHODS`` under the names of ``entries``.

    Raises:
        ValueError: for a name that is already taken.
    """

    def enter(method: MethodT) -> MethodT:
        for entry in entries:
            if entry.name in METHODS:
                raise ValueError(f"name must be new; {entry.name!r} is {METHODS[entry.name].method.__name__}")
            entry.method = method
            METHODS[entry.name] = entry
        return method

    return enter
