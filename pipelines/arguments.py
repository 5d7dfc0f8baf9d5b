"""Checks of arguments. The error names the argument, the legal values and the value received.

The values are returned as plain Python numbers, as they are kept in states and in the `repr` of policies.
"""

import math
import os
import reprlib
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, NoReturn

import numpy as np
import torch

INT32_MAX = 2**31 - 1
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
        text = _short.repr(value)
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


def flag(name: str, value: object) -> bool:
    """Return True or False, NumPy's too."""
    require(name, value, "True or False", isinstance(value, bool | np.bool_))
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
