"""Confidence intervals of means."""

from collections.abc import Sequence

from scipy.stats import norm, sem, t

LEVEL = 0.95  # of every interval


def half_interval(values: Sequence[float]) -> float:
    """Return half the width of Student's t interval of the mean at `LEVEL`.

    Args:
        values: two or more, independent of each other.
    """
    return float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * sem(values))


def half_normal_interval(error: float) -> float:
    """Return half the width of the normal interval at `LEVEL` of a mean of many values, from its standard error."""
    return float(norm.ppf((1 + LEVEL) / 2)) * error
