# DALI's type stubs lack its enumerations and sub-modules, and say "a node, several or None" of every operator.
# mypy: disable-error-code="attr-defined, arg-type, assignment, call-overload, return-value"
"""The operations of policies as DALI operators. `policies/operations.py` has their names and parameters.

They follow DALI's suite to rounding. Where the suite's own form is slow on the CPU (float arithmetic with
broadcasting), a fused operator does the same there; on the GPU its parameter would have to be on the host. The numbers
beside them are microseconds of a core per 224×224 image, the suite's first.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from nvidia.dali import fn, types
from nvidia.dali.auto_aug import augmentations as stock
from nvidia.dali.data_node import DataNode

PARAMETER_NAMES = ("amount", "kernel", "matrix", "window", "factors")  # of an operation; each uses those it needs
GEOMETRY_FILL = 128  # grey, as in DALI's suites
_FRACTION = 16  # bits, of integers that stand for numbers with a fraction
CUTOUT_FILL = (125, 123, 114)  # as used by the authors of AutoAugment and Fast AutoAugment


def brightness(data: DataNode, amount: DataNode, **_: Any) -> DataNode:
    return stock.brightness.op(data, amount)


def contrast(data: DataNode, amount: DataNode, **_: Any) -> DataNode:
    if data.device == "gpu":
        return stock.contrast.op(data, amount.gpu())
    grey = fn.color_space_conversion(data, image_type=types.RGB, output_type=types.GRAY)
    return fn.contrast(data, contrast=amount, contrast_center=fn.reductions.mean(grey))  # 870 -> 80


def color(data: DataNode, amount: DataNode, **_: Any) -> DataNode:
    if data.device == "gpu":
        return stock.color.op(data, amount)
    # The grey image, rounded as Pillow rounds it, and in three equal channels: broadcasting one takes twice as long. In
    # integers, as casting floats to bytes alone takes 410.
    grey = fn.color_space_conversion(data, image_type=types.RGB, output_type=types.GRAY)
    grey = fn.color_space_conversion(grey, image_type=types.GRAY, output_type=types.RGB)
    one = 1 << _FRACTION
    weight = fn.cast(amount * one, dtype=types.INT32)
    mixed = data * weight + grey * (one - weight)
    return fn.cast((mixed + one // 2) >> _FRACTION, dtype=types.UINT8)  # 930 -> 330


def sharpness(data: DataNode, kernel: DataNode, **_: Any) -> DataNode:
    return fn.filter(data, beside(kernel, data))  # the stock operation uses its deprecated name


def posterize(data: DataNode, amount: DataNode, **_: Any) -> DataNode:
    return stock.posterize.op(data, beside(fn.cast(amount, dtype=types.UINT8), data))


def solarize(data: DataNode, amount: DataNode, **_: Any) -> DataNode:
    # 255 − value is value ^ 255.
    return data ^ (types.Constant(255, dtype=types.UINT8) * (data >= beside(amount, data)))  # 390 -> 160


def solarize_add(data: DataNode, amount: DataNode, **_: Any) -> DataNode:
    return stock.solarize_add.op(data, beside(fn.cast(amount, dtype=types.UINT8), data))


def invert(data: DataNode, **_: Any) -> DataNode:
    return stock.invert.op(data, None)


def equalize(data: DataNode, **_: Any) -> DataNode:
    return fn.equalize(data)  # the stock operation uses its deprecated name


def auto_contrast(data: DataNode, **_: Any) -> DataNode:
    if data.device == "gpu":
        return stock.auto_contrast.op(data, None)
    low = fn.reductions.min(data, axis_names="HW")
    spread = fn.reductions.max(data, axis_names="HW") - low
    varied = fn.cast(spread > 0, dtype=types.FLOAT)  # a channel of one value stays as it is
    return fn.crop_mirror_normalize(
        data, mean=low * varied, std=spread + 255 * (1 - varied), scale=255.0, dtype=types.UINT8, output_layout="HWC"
    )  # 600 -> 190


def cutout(data: DataNode, window: DataNode, **_: Any) -> DataNode:
    return fn.erase(data, anchor=window[:2], shape=window[2:], axis_names="HW", fill_value=CUTOUT_FILL)


def color_twist(data: DataNode, factors: DataNode, **_: Any) -> DataNode:
    return fn.color_twist(data, brightness=factors[0], contrast=factors[1], saturation=factors[2], hue=factors[3])


def identity(data: DataNode, **_: Any) -> DataNode:
    return data


def warp(data: DataNode, matrix: DataNode, interp_type: types.DALIInterpType, **_: Any) -> DataNode:
    return fn.warp_affine(data, matrix=matrix, inverse_map=False, fill_value=GEOMETRY_FILL, interp_type=interp_type)


def crop(data: DataNode, matrix: DataNode, interp_type: types.DALIInterpType, **_: Any) -> DataNode:
    # A warp without uncovered pixels: beyond the border it takes the border's pixels, as a resize does, not the fill.
    return fn.warp_affine(data, matrix=matrix, inverse_map=False, interp_type=interp_type)


def beside(parameter: DataNode, data: DataNode) -> DataNode:
    """Return a parameter on the device of `data`: operands of one operator must share a device, while its named
    arguments stay on the host."""
    return parameter.gpu() if data.device == "gpu" else parameter


OPERATIONS: dict[str, Callable[..., DataNode]] = {
    operation.__name__: operation
    for operation in (
        brightness, contrast, color, sharpness, posterize, solarize, solarize_add, invert, equalize,
        auto_contrast, cutout, color_twist, identity,
    )
}  # fmt: skip
GEOMETRIC: dict[str, dict[str, Callable[..., DataNode]]] = {
    name: {"warp": partial(warp, interp_type=kind), "crop": partial(crop, interp_type=kind)}
    for name, kind in (("nearest", types.INTERP_NN), ("linear", types.INTERP_LINEAR))
}
