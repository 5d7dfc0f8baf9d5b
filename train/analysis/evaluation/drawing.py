"""What the pictures of all parts have in common."""

import io
from typing import Any, NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#20558a", "#c8553d", "#3c8d5a", "#8a5aa8", "#b8860b", "#4c9aa8", "#7a4b34", "#666666")


class Picture(NamedTuple):
    """A picture of the page."""

    caption: str
    png: bytes


def new_figure(count: int, *, width: float, height: float, columns: int | None = None) -> tuple[Figure, list[Any]]:
    """Return a figure of `count` plots, in inches, and the plots.

    Args:
        columns: plots side by side; None: all of them.
    """
    columns = count if columns is None else min(columns, count)
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    plots = list(figure.subplots(-(-count // columns), columns, squeeze=False).flat)
    for unused in plots[count:]:
        unused.remove()
    return figure, plots[:count]


def colour(number: int) -> str:
    """Return the colour of a run, or of another series."""
    return COLOURS[number % len(COLOURS)]


def picture(caption: str, figure: Figure) -> Picture:
    """Return a figure as a picture of the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    return Picture(caption, buffer.getvalue())
