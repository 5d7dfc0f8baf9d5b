"""Checks of arguments. The error names the argument, what is legal, and what came."""

import math
from collections.abc import Iterable
from typing import Any


def require(name: str, value: object, legal: str, holds: bool) -> None:
    """Raises ValueError unless `holds`."""
    if not holds:
        raise ValueError(f"{name} must be {legal}, got {value!r}")


def require_one(name: str, value: str, legal: Iterable[str]) -> None:
    require(name, value, "one of " + ", ".join(legal), value in legal)


def are_numbers(value: Any, count: int) -> bool:
    """Whether `value` is so many finite numbers."""
    try:
        return len(value) == count and all(math.isfinite(number) for number in value)
    except TypeError:
        return False
