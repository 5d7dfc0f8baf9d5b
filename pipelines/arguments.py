"""Checks of arguments. The error names the argument, the legal values and the value received."""

import math
from collections.abc import Iterable
from typing import Any


def require(name: str, value: object, legal: str, holds: bool) -> None:
    """Raise ValueError unless `holds`."""
    if not holds:
        raise ValueError(f"{name} must be {legal}, got {value!r}")


def require_one(name: str, value: str, legal: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of `legal`."""
    require(name, value, "one of " + ", ".join(legal), value in legal)


def are_numbers(value: Any, count: int) -> bool:
    """Return whether `value` is a sequence of `count` finite numbers."""
    try:
        return len(value) == count and all(math.isfinite(number) for number in value)
    except TypeError:
        return False
