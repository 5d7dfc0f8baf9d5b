# DALI's type stubs lack its enumerations.
# mypy: disable-error-code="attr-defined"
"""What the pipeline does, in plain data."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from inspect import signature

from nvidia.dali import types
from nvidia.dali.data_node import DataNode

from ..decoding import MAX_PIXELS
from ..draws import JITTER_FACTORS
from .crops import Fit, Size, before_center_crop
from .operations import GEOMETRIC, OPERATIONS, PARAMETER_NAMES
from .transform import Placed

# Of the outputs. DALI has no bfloat16: the loader rounds float32 to it.
TYPES = {"float32": types.FLOAT, "float16": types.FLOAT16, "bfloat16": types.FLOAT, "uint8": types.UINT8}
DTYPES = tuple(TYPES)


@dataclass(frozen=True)
class Recipe:
    """What the pipeline does; the same for every batch.

    Attributes:
        reads: `Reader.feed` of the data set: what the pipeline receives for each image.
        device: "cpu" or "gpu".
        image_size: Height and width of the output, in pixels; with "fit", the most that they may be.
        crop: "random_resized" or "pad" (training), "center" or "none" (validation), or "fit": the whole image at a size
            of its own, padded to the largest of the batch.
        padding: Of "pad", in pixels; 0 otherwise.
        ratio: Least and greatest aspect (width / height) of "random_resized".
        color_jitter: How much brightness, contrast and saturation change, before any policy; 0: not at all.
        operations: The names that the drawn numbers index; empty without a policy.
        chains, stages: Of the policy; 0 without one.
        interpolation: "nearest" or "linear", of the geometric operations.
        with_matrices: Whether the policy's geometry is returned too.
        with_views: Whether crop and flips are returned too.
        mean, std: Of the channels, in [0, 1] units.
        dtype: Of the output, one of `DTYPES`; "uint8" is not normalised.
        max_pixels: Of an encoded image, width times height; a larger one is an error.
        hw_decoder_load, decode_size_hint: See `image_loader`; they have no effect on the CPU.
        decode_region: See `image_loader`.
        stored: Height and width of the images in memory; None for files.
        val_resize, crop_pct: Of "center", see `image_loader`; one of them or both are None.
        resize_interpolation: "bilinear" or "bicubic", of resizes.
        vertical_flip: Whether some images are turned upside down.
        views: Number of augmented images of each clean one, with a policy.
        before_policy, after_policy: The user's transforms.
        fit: The sizes of "fit"; None for other crops.
    """

    reads: str
    device: str
    image_size: Size
    crop: str
    ratio: tuple[float, float]
    color_jitter: float
    operations: tuple[str, ...]
    chains: int
    stages: int
    interpolation: str
    with_matrices: bool
    with_views: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dtype: str
    max_pixels: int = MAX_PIXELS
    hw_decoder_load: float = 0.0
    decode_size_hint: tuple[int, int] | None = None
    decode_region: bool | None = None
    views: int = 1
    stored: Size | None = None
    val_resize: int | None = None
    crop_pct: float | None = None
    resize_interpolation: str = "bilinear"
    vertical_flip: bool = False
    padding: int = 0
    before_policy: tuple[Placed, ...] = ()
    after_policy: tuple[Placed, ...] = ()
    fit: Fit | None = None

    @property
    def resize_to(self) -> Size | None:
        """Height and width after resizing, before the crop ("center": that the image covers, its aspect kept); None if
        no resizing is needed, or if it is part of the crop ("random_resized")."""
        if self.crop == "center":
            return before_center_crop(self.image_size, self.val_resize, self.crop_pct)
        return None if self.crop in ("random_resized", "fit") or self.stored == self.image_size else self.image_size

    @property
    def decodes_region(self) -> bool:
        """Whether only the window of "random_resized" is decoded of a file, and little more."""
        # nvImageCodec 0.9, on which DALI 2.4 depends, may end the process when a GPU decodes a region (its issue 55).
        return self.device == "cpu" if self.decode_region is None else self.decode_region

    @property
    def augments(self) -> bool:
        """Whether there is an augmented image beside the clean one."""
        return self.chains > 0 or len(self.after_policy) > 0

    @property
    def transforms(self) -> tuple[Placed, ...]:
        """All of the user's transforms."""
        return self.before_policy + self.after_policy

    @cached_property
    def choices(self) -> list[Callable[..., DataNode]]:
        """The functions of the operations, in their order."""
        operations = OPERATIONS | GEOMETRIC[self.interpolation]
        return [operations[name] for name in self.operations]

    @cached_property
    def parameters(self) -> list[str]:
        """Those of `PARAMETER_NAMES` that the operations take. DALI warns of unused inputs."""
        taken = {name for choice in self.choices for name in signature(choice).parameters}
        return [name for name in PARAMETER_NAMES if name in taken]

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays that the source returns for each batch, in their order."""
        names = ["index", "image", "flip"]
        names += {"random_resized": ["sides", "positions"], "pad": ["offset"], "fit": ["short_side"]}.get(self.crop, [])
        names += ["vertical_flip"] if self.vertical_flip else []
        names += JITTER_FACTORS if self.color_jitter else ()
        for stage in range(self.views * self.chains * self.stages):
            names += [f"{name}{stage}" for name in ("operation", *self.parameters)]
        names += [f"weights{view}" for view in range(self.views)] if self.chains > 1 else []
        for placed in self.before_policy:
            names += placed.inputs()
        for view in range(self.views):
            for placed in self.after_policy:
                names += placed.inputs(view)
        names += [f"total_matrix{view}" for view in range(self.views)] if self.with_matrices else []
        return tuple(names)
