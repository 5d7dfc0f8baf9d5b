"""Checks of arguments, made once, where a caller passes them. None of them reads a value from the device.

Each raises a ValueError that names the argument, the legal values and the value received.
"""

from collections.abc import Collection
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
_NARROWER = (torch.int32, torch.int16, torch.int8, torch.uint8)  # than int64


def check_given(name: str, value: T | None) -> T:
    """Return ``value``; raise where it is None, because the method needs it."""
    if value is None:
        raise ValueError(f"{name} must be given for this method; got None")
    return value


def check_choice(name: str, value: object, legal: Collection[str]) -> None:
    if value not in legal:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, legal))}; got {value!r}")


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number; True is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or is_whole(value)


def check_number(name: str, value: object, low: float, high: float, *, open_low: bool = False) -> None:
    """Require ``low <= value <= high``, or ``low < value <= high`` with ``open_low``."""
    fits = _is_number(value) and low <= value <= high and not (open_low and value == low)  # type: ignore[operator]
    if not fits:
        raise ValueError(f"{name} must be a number in {'(' if open_low else '['}{low:g}, {high:g}]; got {value!r}")


def check_range(name: str, ends: tuple[float, float], most: float) -> None:
    """Require a range (least, greatest) above 0 and below ``most``."""
    pair = isinstance(ends, tuple | list) and len(ends) == 2 and all(map(_is_number, ends))
    if not pair or not 0 < ends[0] <= ends[1] < most:
        raise ValueError(f"{name} must be (least, greatest) with 0 < least <= greatest < {most:g}; got {ends!r}")


def check_whole_number(name: str, value: object, low: int, *, of: str = "") -> None:
    """Require a whole number of at least ``low``; ``of`` completes the message, as in " of classes"."""
    if not is_whole(value) or value < low:  # type: ignore[operator]
        raise ValueError(f"{name} must be a whole number{of}, {low} or more; got {value!r}")


def check_device(name: str, value: Any) -> torch.device:
    """Return a device that torch can use here."""
    try:
        device = torch.device(value)
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:  # by the kind of device
        reason = (str(error).splitlines() or [""])[0].split(". ")[0]
        raise ValueError(
            f"{name} must be a device that torch can use here, such as 'cpu' or 'cuda:0'; got {value!r} ({reason})"
        ) from None
    return device


def check_images(name: str, images: object) -> Tensor:
    if isinstance(images, Tensor) and images.dtype == torch.uint8:
        raise ValueError(
            f"{name} must be floating point and normalised; got {_describe(images)}. Normalise the pixels first, for "
            "example by the normalize of pipelines.ImageLoader"
        )
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor (B, C, H, W); got {_describe(images)}")
    return images


def check_like_images(name: str, other: object, images: Tensor) -> Tensor:
    """Require a batch like ``images``, of the same shape, dtype and device, and return it."""
    fits = isinstance(other, Tensor) and (other.shape, other.dtype) == (images.shape, images.dtype)
    if not fits or other.device != images.device:  # type: ignore[attr-defined]
        raise ValueError(f"{name} must be like images ({_describe(images)}); got {_describe(other)}")
    return other  # type: ignore[return-value]


def check_saliency(saliency: object, images: Tensor) -> Tensor:
    fits = isinstance(saliency, Tensor) and saliency.ndim == 3 and saliency.is_floating_point()
    if not fits or saliency.shape[0] != len(images) or saliency.device != images.device:  # type: ignore[attr-defined]
        raise ValueError(
            f"saliency must be a floating-point tensor (B, h, w) with B = {len(images)} on {images.device}; "
            f"got {_describe(saliency)}"
        )
    return saliency  # type: ignore[return-value]


def check_class_indices(labels: object, images: Tensor) -> Tensor:
    return check_indices("labels", labels, images)


def check_indices(name: str, values: object, images: Tensor) -> Tensor:
    """Require one integer for each image, and return them as int64."""
    values = _as_int64(values)
    fits = isinstance(values, Tensor) and values.shape == images.shape[:1] and values.dtype == torch.int64
    if not fits or values.device != images.device:  # type: ignore[attr-defined]
        raise ValueError(f"{name} must be an int64 tensor ({len(images)},) on {images.device}; got {_describe(values)}")
    return values  # type: ignore[return-value]


def check_labels(labels: object, images: Tensor) -> Tensor:
    """Require class indices, or floating-point labels of any shape, one for each image; return indices as int64."""
    labels = _as_int64(labels)
    fits = isinstance(labels, Tensor) and labels.shape[:1] == images.shape[:1] and labels.device == images.device
    if not fits or not (labels.is_floating_point() or (labels.ndim, labels.dtype) == (1, torch.int64)):  # type: ignore[attr-defined]
        raise ValueError(
            f"labels must be an int64 tensor ({len(images)},), or a floating-point tensor ({len(images)}, ...), on "
            f"{images.device}; got {_describe(labels)}"
        )
    return labels  # type: ignore[return-value]


def _as_int64(values: object) -> object:
    return values.long() if isinstance(values, Tensor) and values.dtype in _NARROWER else values


def check_label_dictionary(labels: dict[str, Tensor], images: Tensor) -> None:
    for name, entry in labels.items():
        fits = isinstance(entry, Tensor) and entry.shape[:1] == images.shape[:1]
        if not fits or entry.device != images.device:
            raise ValueError(
                f"labels[{name!r}] must be a tensor ({len(images)}, ...) on {images.device}; got {_describe(entry)}"
            )


def check_label_form(labels: Tensor, num_classes: int, *, otherwise: str) -> None:
    """Require class indices (B,) or rows (B, num_classes); ``otherwise`` names what to do with labels of other forms.

    Range and finiteness are checked too: at once on the CPU; on a GPU by an assertion on the device, unwaited.
    """
    if labels.is_floating_point():
        if labels.ndim != 2 or labels.shape[1] != num_classes:
            raise ValueError(
                f"labels must be class indices, int64 (B,), or rows (B, {num_classes}), floating point; "
                f"got {_describe(labels)}. {otherwise}"
            )
        legal, fits = "labels must be finite", labels.isfinite()
    else:
        legal = f"labels must be in [0, {num_classes}), the classes that there are"
        fits = (labels >= 0) & (labels < num_classes)
    _require_all(legal, fits, labels)


def _require_all(legal: str, fits: Tensor, values: Tensor) -> None:
    """Require values: on the CPU by a ValueError, on a GPU by an assertion on the device, unwaited."""
    try:
        torch._assert_async(fits.all(), legal)
    except RuntimeError:
        raise ValueError(f"{legal}; got {values[~fits][0].item()}") from None


def check_matrices(matrices: object, images: Tensor) -> Tensor:
    fits = isinstance(matrices, Tensor) and matrices.shape == (len(images), 2, 3) and matrices.is_floating_point()
    if not fits or matrices.device != images.device:  # type: ignore[attr-defined]
        raise ValueError(
            f"matrices must be a floating-point tensor ({len(images)}, 2, 3) on {images.device}; "
            f"got {_describe(matrices)}"
        )
    return matrices  # type: ignore[return-value]


def check_places(indices: object, samples: int) -> None:
    """Require places (B,) among so many samples. Their range is checked as that of labels."""
    indices = _places(indices)
    legal = f"indices must be in [0, {samples}), the places of the memory's samples"
    _require_all(legal, (indices >= 0) & (indices < samples), indices)


def _places(indices: object) -> Tensor:
    if not isinstance(indices, Tensor) or indices.ndim != 1 or indices.dtype != torch.int64:
        raise ValueError(f"indices must be an int64 tensor (B,), the samples' places; got {_describe(indices)}")
    return indices


def check_views(views: object, indices: object) -> None:
    """Require the views (B, 2, 3) of samples at ``indices``, (B,)."""
    indices = _places(indices)
    fits = isinstance(views, Tensor) and views.shape == (len(indices), 2, 3) and views.is_floating_point()
    if not fits or views.device != indices.device:  # type: ignore[attr-defined]
        raise ValueError(
            f"views must be a floating-point tensor ({len(indices)}, 2, 3) on {indices.device}; got {_describe(views)}"
        )


def check_gradient(gradient: object, weights: object, indices: Tensor) -> None:
    """Require a gradient (B, C, H, W) of samples at ``indices``, and weights (B, H, W) or None."""
    fits = isinstance(gradient, Tensor) and gradient.ndim == 4 and gradient.is_floating_point()
    if not fits or len(gradient) != len(indices) or gradient.device != indices.device:  # type: ignore[attr-defined, arg-type]
        raise ValueError(
            f"gradient must be a floating-point tensor ({len(indices)}, C, H, W) on {indices.device}; "
            f"got {_describe(gradient)}"
        )
    if weights is None:
        return
    form = (len(indices), *gradient.shape[2:])  # type: ignore[attr-defined]
    fits = isinstance(weights, Tensor) and weights.shape == form and weights.is_floating_point()
    if not fits or weights.device != indices.device:  # type: ignore[attr-defined]
        raise ValueError(
            f"weights must be None or a floating-point tensor {form} on {indices.device}; got {_describe(weights)}"
        )


def check_region(size: object) -> tuple[int, int]:
    """Return a region's size as (height, width), from a whole number of pixels or a pair of them."""
    pair = size if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2 or not all(is_whole(side) and side > 0 for side in pair):
        raise ValueError(f"size must be a positive whole number of pixels, or (height, width); got {size!r}")
    return pair[0], pair[1]


def check_region_fits(size: tuple[int, int], images: Tensor) -> None:
    height, width = images.shape[-2:]
    if size[0] > height or size[1] > width:
        raise ValueError(
            f"size must fit into the image, at most {height}×{width} pixels here; got a region of {size[0]}×{size[1]}"
        )


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)} on {value.device}"
    if isinstance(value, tuple | list):  # such as a loader's several views
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__name__} {value!r}" if value is not None else "None"
