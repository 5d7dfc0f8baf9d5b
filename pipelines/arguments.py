"""Checks of arguments. The error names the argument, the legal values and the value received.

The values are returned as plain Python numbers, as they are kept in states and in the `repr` of policies.
"""

import difflib
import functools
import inspect
import math
import os
import reprlib
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any, NoReturn, TypeVar, cast

import numpy as np
import torch

INT32_MAX = 2**31 - 1
_Function = TypeVar("_Function", bound=Callable[..., Any])
_MOST_CHARACTERS = 80
_short = reprlib.Repr()  # a few elements of what is long, a few levels of what is deep
_short.maxstring = _short.maxother = _MOST_CHARACTERS


def shown(value: object) -> str:
    """Return a value as messages have it: short, however large it is."""
    if isinstance(value, np.ndarray | torch.Tensor) and value.ndim:
        kind = "an array" if isinstance(value, np.ndarray) else "a tensor"
        return f"{kind} of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Real):
        value = _plain(value)
    try:
        text = _short.repr(value).replace("\n", " ")  # of an array in a list
    except Exception:  # a foreign __repr__, or an integer of more digits than Python writes
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 3] + "..."


def _plain(value: Any) -> Any:
    """Return a number of NumPy's as Python's, so that 3 is not shown as np.int64(3)."""
    return value.item() if isinstance(value, np.generic) else value


def refuse(name: str, value: object, legal: str) -> NoReturn:
    """Raise ValueError."""
    raise ValueError(f"{name} must be {legal}, got {shown(value)}")


def require(name: str, value: object, legal: str, holds: bool) -> None:
    """Raise ValueError unless `holds`."""
    if not holds:
        refuse(name, value, legal)


def require_one(name: str, value: object, legal: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of `legal`."""
    legal = tuple(legal)
    require(name, value, "one of " + ", ".join(legal), isinstance(value, str) and value in legal)


def whole(name: str, value: object, least: int, most: int | None = None, legal: str | None = None) -> int:
    """Return an integer from `least` to `most`, NumPy's too. True and 2.0 are none."""
    if legal is None:
        legal = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        refuse(name, value, legal)
    number = int(value)
    require(name, number, legal, least <= number and (most is None or number <= most))
    return number


def finite(value: object) -> float | None:
    """Return a finite number, of Python's types; None if `value` is no such number. True is none."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    if not math.isfinite(number):
        return None
    return int(value) if isinstance(value, Integral) else number


def share(name: str, value: object, most: float = 1, legal: str | None = None) -> float:
    """Return a number from 0 to `most`."""
    number = finite(value)
    if number is None or not 0 <= number <= most:
        refuse(name, value, legal or f"from 0 to {most}")
    return number


def flag(name: str, value: object, legal: str = "True or False") -> bool:
    """Return True or False, NumPy's too."""
    require(name, value, legal, isinstance(value, bool | np.bool_))
    return bool(value)


def is_sequence(value: Any, count: int) -> bool:
    """Return whether `value` is a list, a tuple or an array of `count` elements."""
    return isinstance(value, list | tuple | np.ndarray) and np.shape(value[:0])[1:] == () and len(value) == count


def numbers(name: str, value: Any, count: int, legal: str) -> tuple[float, ...]:
    """Return `count` finite numbers of a sequence."""
    if is_sequence(value, count):
        given = [finite(number) for number in value]
        found = tuple(number for number in given if number is not None)
        if len(found) == count:
            return found
    refuse(name, value, legal)


def pair(name: str, value: Any, least: int, most: int, legal: str) -> tuple[int, int]:
    """Return the two integers of a sequence, each from `least` to `most`."""
    if is_sequence(value, 2) and all(isinstance(each, Integral) and not isinstance(each, bool) for each in value):
        first, second = map(int, value)
        if least <= min(first, second) and max(first, second) <= most:
            return first, second
    refuse(name, value, legal)


def span(name: str, value: object, legal: str, *, least: float, most: float = math.inf) -> tuple[float, float]:
    """Return the ends of a range within `least` … `most`."""
    low, high = numbers(name, value, 2, legal)
    require(name, value, legal, least <= low <= high <= most)
    return low, high


def path(name: str, value: object, legal: str) -> str:
    """Return a path as text."""
    if not isinstance(value, str | os.PathLike):
        refuse(name, value, legal)
    text = os.fsdecode(value)
    require(name, text, f"{legal}, not empty and without a NUL character", bool(text) and "\0" not in text)
    return text


_NO_WORKERS = "leave it out, as no worker processes are started"
# Words of other loaders and data sets, and ours. A name that ends in "=" is one of our arguments.
_OTHER_WORDS = {
    "num_workers": "num_threads= is the number of threads that decode; no worker processes are started",
    "workers": "num_threads= is the number of threads that decode; no worker processes are started",
    **dict.fromkeys(("multiprocessing_context", "worker_init_fn", "timeout"), _NO_WORKERS),
    "persistent_workers": "leave it out, as the pipeline lives as long as the loader",
    "in_order": "leave it out, as batches always come in order",
    "prefetch_factor": "leave it out, as two batches are always made ahead",
    **dict.fromkeys(("pin_memory", "pin_memory_device"), "device= is where the batches are made; none is copied there"),
    "collate_fn": "leave it out: batches are tensors, and pairs() of the loader makes (inputs, labels) of them",
    "batch_sampler": "batch_size= divides what sampler= returns",
    "generator": "seed= sets everything random",
    "random_seed": "seed= sets everything random",
    **dict.fromkeys(
        ("transform", "transforms", "augmentation", "auto_augment"),
        "policy= augments; image_size=, crop=, color_jitter=, mean= and std= do the rest",
    ),
    "target_transform": "apply it to the labels of a batch, or make a Dataset with other labels and pass it as root=",
    "dataset": "root= takes a folder or a Dataset",
    **dict.fromkeys(("indices", "subset"), "pass find_dataset(root).take(indices) as root="),
    "num_samples": "images= is the number of images to use; sampler= takes any number of indices",
    **dict.fromkeys(("split", "is_training"), "train= chooses training or validation"),
    **dict.fromkeys(("size", "img_size", "input_size", "resize"), "image_size= is the side of the images"),
    **dict.fromkeys(
        ("distributed", "num_replicas", "num_shards"), "rank= and world_size= divide the images among processes"
    ),
    "shard_id": "rank= is the number of this process",
    "num_aug_repeats": "repeats= is the number of times that a sample occurs",
    "download": "leave it out: the data must be in root=",
}


def explains_unknown(function: _Function) -> _Function:
    """Decorate a function so that its TypeError for an unknown keyword says what to write in its place."""
    own = inspect.signature(function).parameters

    @functools.wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        for name in options:
            if name not in own:
                raise TypeError(f"{function.__name__}() has no argument {shown(name)}{_remedy(name, list(own))}")
        return function(*args, **options)

    return cast(_Function, checked)


def _remedy(name: str, own: list[str]) -> str:
    if name in _OTHER_WORDS:
        return f": {_OTHER_WORDS[name]}"
    similar = difflib.get_close_matches(name.lower(), own, n=1)
    return f". Did you mean {similar[0]!r}?" if similar else ""
