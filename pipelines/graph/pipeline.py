# DALI's type stubs lack its enumerations and sub-modules, and say "a node, several or None" of every operator.
# mypy: disable-error-code="attr-defined, arg-type, assignment, call-overload, return-value"
"""The one DALI pipeline: files or arrays in, clean and augmented images out, on the CPU or the GPU.

DALI draws nothing here. Every random number comes from the host (`draws.py`, `policies`) with the samples.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from nvidia.dali import fn, math, pipeline_def, types
from nvidia.dali.auto_aug.core import select
from nvidia.dali.data_node import DataNode

from ..draws import CROP_ATTEMPTS, JITTER_FACTORS
from .crops import Size
from .operations import beside
from .recipe import TYPES, Recipe
from .resize import resize_each_on_cpu, resize_on_cpu
from .transform import Placed

_LARGE = 160**2  # pixels of images whose bytes are mirrored apart; for smaller ones, one more operator costs more
ALIGNMENT = 32  # of the sides of padded images, as torchvision's detectors pad them


def random_resized_window(
    image_shape: DataNode, sides: DataNode, positions: DataNode, ratio: tuple[float, float]
) -> tuple[DataNode, DataNode]:
    """Return the crop window of torchvision's RandomResizedCrop: of ten attempts the first that fits in the image,
    or else the largest central window whose aspect is in `ratio`.

    Args:
        image_shape: (height, width, channels).
        sides, positions: See `draws.random_resized_windows`.
        ratio: Least and greatest aspect (width / height).

    Returns:
        Top-left corner and shape of the window, (y, x) and (height, width), int32 pixels.
    """
    image = math.max(fn.cast(image_shape[:2], dtype=types.FLOAT), 1)  # an image without pixels is refused elsewhere
    height, width = image[0], image[1]
    attempts = math.floor(sides * math.sqrt(height * width) + 0.5)
    limits = types.Constant(np.array([1 / ratio[0], ratio[1]], dtype=np.float32))
    central = math.min(math.floor(fn.stack(width, height) * limits + 0.5), image)
    windows = math.max(fn.cat(attempts, fn.expand_dims(central, axes=0), axis=0), 1)
    fits = fn.reductions.max(windows / image, axes=1) <= 1
    # The first that fits has the highest rank; the central window, last, always fits.
    ranks = types.Constant(np.arange(CROP_ATTEMPTS + 1, 0, -1, dtype=np.int32))
    first = CROP_ATTEMPTS + 1 - fn.reductions.max(fits * ranks)
    window = windows[first]
    room = image - window
    corner = math.min(math.floor(positions[first] * (room + 1)), room)
    return fn.cast(corner, dtype=types.INT32), fn.cast(window, dtype=types.INT32)


def _decoded(recipe: Recipe, given: dict[str, DataNode]) -> tuple[DataNode, "_Part"]:
    """Return the needed part of each image, the window of "random_resized" or all of it: uint8 HWC of its own size."""
    if recipe.reads != "pixels":
        encoded = _encoded(recipe, given)
        # The shapes come first, of the whole batch: a decoder that meets a header it cannot parse while it decodes
        # other images ends the process.
        shape = fn.peek_image_shape(encoded)
        encoded = _unless_odd_sized(recipe, encoded, shape)
        if recipe.crop == "random_resized" and recipe.decodes_region:
            corner, window = _window(recipe, shape, given)
            images = fn.decoders.image_slice(encoded, start=corner, shape=window, axes=[0, 1], **_decoding(recipe))
            return images, _part(corner, window, shape)
        images = fn.decoders.image(encoded, **_decoding(recipe))
    else:
        images = given["image"].gpu() if recipe.device == "gpu" else given["image"]
        shape = given["image"].shape()
    if recipe.crop != "random_resized":
        return images, _WHOLE
    corner, window = _window(recipe, shape, given)
    return fn.slice(images, start=corner, shape=window, axes=[0, 1]), _part(corner, window, shape)


def _unless_odd_sized(recipe: Recipe, encoded: DataNode, shape: DataNode) -> DataNode:
    """Return encoded images, not copied, once `shape` is there. It fails if one has too many pixels or none."""
    pixels = shape[0] * shape[1]
    odd_sized = (pixels > types.Constant(recipe.max_pixels, dtype=types.INT64)) | (pixels < 1)
    # To a byte more than there are, which is an error.
    return fn.reshape(
        encoded, shape=fn.cast(encoded.shape() + fn.cast(odd_sized, dtype=types.INT64), dtype=types.INT32)
    )


def _encoded(recipe: Recipe, given: dict[str, DataNode]) -> DataNode:
    """Return the content of each image's file."""
    if recipe.reads != "paths":
        return given["image"]
    # Mapped into memory, a file that shrinks while it is read would end the process by a bus error. Reading costs no
    # more: 1.24 ms of a core (AMD EPYC) for a photograph, read and decoded, and 1.25 ms mapped.
    return fn.io.file.read(given["image"], dont_use_mmap=True)


def _window(recipe: Recipe, image_shape: DataNode, given: dict[str, DataNode]) -> tuple[DataNode, DataNode]:
    return random_resized_window(image_shape, given["sides"], given["positions"], recipe.ratio)


def _view(recipe: Recipe, images: DataNode, part: "_Part", given: dict[str, DataNode]) -> tuple[DataNode, "_Part"]:
    """Return decoded images cropped to one size, or resized: uint8 HWC."""
    size = recipe.image_size
    if recipe.crop == "random_resized":
        return _resize(recipe, images, size), part
    if recipe.crop == "fit":
        return _fit(recipe, images, given["short_side"]), part
    if recipe.crop == "center":
        kind = _INTERPOLATIONS[recipe.resize_interpolation]
        images = fn.resize(images, size=recipe.resize_to, mode="not_smaller", interp_type=kind)
        corner = _central_corner(images, size)
        return fn.slice(images, start=corner, shape=size, axes=[0, 1]), _part(corner, size, images.shape())
    if recipe.resize_to is not None:
        images = _resize(recipe, images, recipe.resize_to)
    if recipe.crop == "pad":
        part = _part(given["offset"], size, images.shape())
        images = fn.slice(images, start=given["offset"], shape=size, axes=[0, 1], out_of_bounds_policy="pad")
    return images, part


# The part of an image that a crop shows: its corner and its sides, (y, x) each, in shares of the image's sides. Where
# nobody asks for it, DALI leaves it out of the graph.
_Part = tuple[Any, Any]
_WHOLE: _Part = (np.zeros(2, dtype=np.float32), np.ones(2, dtype=np.float32))


def _part(corner: DataNode, window: DataNode | Size, image_shape: DataNode) -> _Part:
    sides = fn.cast(image_shape[:2], dtype=types.FLOAT)
    if isinstance(window, tuple):
        window = types.Constant(np.array(window, dtype=np.float32))
    return corner / sides, window / sides


def _view_matrix(recipe: Recipe, part: _Part, given: dict[str, DataNode]) -> DataNode:
    """Return the matrix from the image to the crop, see `Batch.views`: (2, 3) float32."""
    corner, sides = (types.Constant(value) if isinstance(value, np.ndarray) else value for value in part)
    across = fn.cast(given["flip"], dtype=types.FLOAT)
    down = fn.cast(given["vertical_flip"], dtype=types.FLOAT) if recipe.vertical_flip else 0 * across
    flips = fn.stack(down, across)
    scale = (1 - 2 * flips) / sides
    shift = flips - scale * corner
    zero = 0 * across
    return fn.stack(fn.stack(scale[1], zero, shift[1]), fn.stack(zero, scale[0], shift[0]))


def _central_corner(images: DataNode, size: Size) -> DataNode:
    """Return the top-left corner (y, x) of the middle of images: half of what is left over, halves to the even pixel,
    as torchvision's CenterCrop."""
    room = images.shape(dtype=types.INT32)[:2] - types.Constant(np.array(size, dtype=np.int32))
    return room // 2 + (room & (room // 2) & 1)


def _fit(recipe: Recipe, images: DataNode, short_side: DataNode) -> DataNode:
    """Return whole images at the size that `Fit` describes, rounded to the nearest pixel, halves up (Detectron2)."""
    assert recipe.fit is not None  # of this crop
    sides = math.max(fn.cast(images.shape()[:2], dtype=types.INT64), 1)
    shorter, longer = fn.reductions.min(sides), fn.reductions.max(sides)
    limit = types.Constant(recipe.fit.long_side, dtype=types.INT64)
    limited = fn.cast(short_side * longer > limit * shorter, dtype=types.INT64)
    # In integers, as a side of n pixels must not depend on the rounding of a quotient.
    numerator = sides * (short_side + limited * (limit - short_side))
    denominator = shorter + limited * (longer - shorter)
    size = math.max((2 * numerator + denominator) // (2 * denominator), 1)
    if recipe.device == "gpu":
        kind = _INTERPOLATIONS[recipe.resize_interpolation]
        return fn.resize(images, size=fn.cast(size, dtype=types.FLOAT), interp_type=kind)
    return resize_each_on_cpu(images, size, recipe.resize_interpolation)


_INTERPOLATIONS = {"bilinear": types.INTERP_LINEAR, "bicubic": types.INTERP_CUBIC}


def _resize(recipe: Recipe, images: DataNode, size: Size) -> DataNode:
    if recipe.device == "gpu":
        return fn.resize(images, size=size, interp_type=_INTERPOLATIONS[recipe.resize_interpolation])
    return resize_on_cpu(images, size, recipe.resize_interpolation)


def _decoding(recipe: Recipe) -> dict[str, Any]:
    if recipe.device == "cpu":
        return {"device": "cpu", "output_type": types.RGB}
    width, height = recipe.decode_size_hint or (0, 0)  # DALI's value for no hint
    return {
        "device": "mixed",
        "output_type": types.RGB,
        "hw_decoder_load": recipe.hw_decoder_load,
        "preallocate_width_hint": width,
        "preallocate_height_hint": height,
    }


def _normalise(recipe: Recipe, images: DataNode, flip: DataNode) -> DataNode:
    normalised = recipe.dtype != "uint8"
    if recipe.device == "cpu" and prod(recipe.image_size) >= _LARGE:
        # Bytes are mirrored faster than floats: with the normalisation, 155 µs of a core in place of 185 at 224×224.
        images, flip = fn.flip(images, horizontal=flip), 0
    return fn.crop_mirror_normalize(
        images,
        mirror=flip,
        mean=[255 * value if normalised else 0 for value in recipe.mean],
        std=[255 * value if normalised else 1 for value in recipe.std],
        dtype=TYPES[recipe.dtype],
        output_layout="HWC",
    )


def _augment(recipe: Recipe, view: DataNode, given: dict[str, DataNode], number: int) -> DataNode:
    augmented = _apply_policy(recipe, view, given, number) if recipe.chains else view
    if recipe.chains > 1 and recipe.after_policy:
        augmented = fn.cast(augmented, dtype=types.UINT8)  # to the nearest whole number
    return _transform(recipe, recipe.after_policy, augmented, given, number)


def _transform(
    recipe: Recipe, placed: tuple[Placed, ...], images: DataNode, given: dict[str, DataNode], number: int = 0
) -> DataNode:
    for each in placed:
        images = each.apply(images, given, recipe.device, recipe.image_size, number)
        images = fn.reshape(images, layout="HWC")  # operators in Python lose it
    return images


def _apply_policy(recipe: Recipe, view: DataNode, given: dict[str, DataNode], number: int) -> DataNode:
    """Return augmented images, the `number`-th of each.

    That is the result of one chain, uint8, or the weighted sum of several and the view itself, float in 0 … 255.
    """
    chains = []
    for chain in range(number * recipe.chains, (number + 1) * recipe.chains):
        data = view
        for stage in range(chain * recipe.stages, (chain + 1) * recipe.stages):
            parameters = {name: given[f"{name}{stage}"] for name in recipe.parameters}
            data = select(recipe.choices, given[f"operation{stage}"], data=data, **parameters)
        chains.append(data)
    if recipe.chains == 1:
        return chains[0]
    weights = given[f"weights{number}"]
    mixture = view * beside(weights[0], view)
    for place, data in enumerate(chains, start=1):
        mixture += data * beside(weights[place], data)
    return mixture


@pipeline_def(enable_conditionals=True)
def image_pipeline(recipe: Recipe, source: Callable[[], tuple]) -> tuple[DataNode, ...]:
    """Return images, indices, then, if the recipe has them, augmented images, matrices, and the views of the crops.

    With "fit", the images are padded with zeros at the right and below, to sides that are multiples of `ALIGNMENT`. The
    last output, always on the CPU, is then (2, 2) int64: height and width of the decoded image, and without padding.
    """
    names = recipe.inputs
    layouts = ["HWC" if name == "image" and recipe.reads == "pixels" else "" for name in names]
    nodes = fn.external_source(source, num_outputs=len(names), layout=layouts)
    given = dict(zip(names, nodes))  # noqa: B905 - DALI rewrites this function and has no strict zip
    images, part = _decoded(recipe, given)
    view, part = _view(recipe, images, part, given)
    if recipe.vertical_flip:
        view = fn.flip(view, horizontal=0, vertical=given["vertical_flip"])
    if recipe.color_jitter:
        view = fn.color_twist(view, **{name: given[name] for name in JITTER_FACTORS})
    view = _transform(recipe, recipe.before_policy, view, given)
    normalised = _normalise(recipe, view, given["flip"])
    if recipe.crop == "fit":
        normalised = fn.pad(normalised, axes=[0, 1], align=[ALIGNMENT, ALIGNMENT])
    outputs = [normalised, given["index"]]
    if recipe.augments:
        for number in range(recipe.views):
            outputs.append(_normalise(recipe, _augment(recipe, view, given, number), given["flip"]))
    if recipe.with_matrices:
        outputs += [given[f"total_matrix{number}"] for number in range(recipe.views)]
    if recipe.with_views:
        outputs.append(_view_matrix(recipe, part, given))
    if recipe.device == "gpu":
        outputs = [output.gpu() for output in outputs]
    if recipe.crop == "fit":
        outputs.append(fn.stack(images.shape()[:2], view.shape()[:2]))
    return tuple(outputs)


_DECODED = {"image", "sides", "positions"}  # the inputs that `_decoded` takes


# One sample, nothing made ahead: the next one is not known yet.
@pipeline_def(batch_size=1, num_threads=1, exec_pipelined=False, exec_async=False, exec_dynamic=False)
def view_pipeline(recipe: Recipe) -> DataNode:
    """Return what `image_pipeline` decodes of an image. The inputs are fed by their names in `view_inputs`."""
    return _decoded(recipe, {name: fn.external_source(name=name) for name in view_inputs(recipe)})[0]


def view_inputs(recipe: Recipe) -> list[str]:
    """Return the names of the inputs of `view_pipeline`."""
    return [name for name in recipe.inputs if name in _DECODED]
