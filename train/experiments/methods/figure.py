"""The figure of the comparison: accuracy against cost, a panel for each data set with each model."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from train.analysis.evaluation.drawing import Picture, colour, new_figure, picture

CAPTION = (
    "Top-1 on the validation images against the cost of a step, in per cent of a step without augmentation. Vertical"
    " bars: the sample standard deviation over seeds; horizontal bars: the range over the turns of the measurement. A"
    " line leads from a plain form to its form with saliency"
)
WIDTH, HEIGHT, COLUMNS = 6.5, 5.0, 2  # of a panel, in inches; panels side by side
# Where a name may stand, the nearest first: x and y in points from its mark, its horizontal and its vertical side.
PLACES = [
    (side * 5, around * away, "left" if side > 0 else "right", "bottom" if around > 0 else "top")
    for away in (3, 11, 19, 27, 35)
    for side in (1, -1)
    for around in (1, -1)
]


def draw(results: Sequence[Mapping[str, Any]]) -> Picture | None:
    """Return the figure of some results; None where none has a row with both accuracy and cost.

    Args:
        results: of `train.experiments.methods.report.result_of`.
    """
    shown = [(result, rows) for result in results if (rows := _complete(result))]
    if not shown:
        return None
    columns = min(COLUMNS, len(shown))
    height = HEIGHT * math.ceil(len(shown) / columns)
    figure, panels = new_figure(len(shown), width=WIDTH * columns, height=height, columns=columns)
    for panel, (result, rows) in zip(panels, shown, strict=True):
        _panel(panel, result["settings"], rows)
    return picture(CAPTION, figure)


def _complete(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the rows with accuracy and cost."""
    return {
        name: row for name, row in result["rows"].items() if row["cost"] and row["metrics"]["top1"]["mean"] is not None
    }


def _panel(panel: Any, settings: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    at = {name: (row["cost"]["median"], row["metrics"]["top1"]["mean"]) for name, row in rows.items()}
    for name, row in rows.items():
        (x, y), cost, top1 = at[name], row["cost"], row["metrics"]["top1"]
        if (plain := row["plain_form"]) in at:
            panel.plot(*zip(at[plain], (x, y), strict=True), color="#bbbbbb", linewidth=0.8, zorder=1)
        around = [[x - cost["least"]], [cost["most"] - x]]
        ink, deviation = _ink(row), top1["deviation"]
        panel.errorbar(x, y, yerr=deviation, xerr=around, fmt="o", markersize=4, color=ink, elinewidth=0.5)
    panel.set_title(f"{settings['data']}, {settings['model']}", fontsize=10, parse_math=False)
    panel.set(xlabel="cost, % of none (logarithmic)", ylabel="top-1, %", xscale="log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2, 3, 4, 5, 7)))
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.margins(x=0.15)  # for the names
    panel.grid(alpha=0.3)
    for number, words in enumerate(("without saliency", "with saliency")):
        panel.plot([], [], "o", color=colour(number), label=words)
    panel.legend(fontsize=8, loc="best")
    _name(panel, at, {name: _ink(row) for name, row in rows.items()})


def _ink(row: Mapping[str, Any]) -> str:
    return colour(1 if row["with_saliency"] else 0)


def _name(panel: Any, at: Mapping[str, tuple[float, float]], inks: Mapping[str, str]) -> None:
    """Write each name at the nearest place to its mark where it covers no mark and no name, or at the last place."""
    from matplotlib.transforms import Bbox

    panel.figure.canvas.draw()  # settles where things are
    taken = [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in panel.transData.transform(list(at.values()))]
    for name, point in sorted(at.items(), key=lambda item: item[1]):
        text = panel.annotate(name, point, (0, 0), textcoords="offset points", fontsize=7, color=inks[name])
        text.set_parse_math(False)
        for x, y, side, level in PLACES:
            text.set(position=(x, y), horizontalalignment=side, verticalalignment=level)
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
