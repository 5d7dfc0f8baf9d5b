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
    at = {name: (row["cost"]["median"], row["metrics"]["top1"]["mean"]) for name, row in rows.items()}
    for number, name in enumerate(sorted(rows, key=at.__getitem__)):
        row = rows[name]
        (x, y), cost, top1 = at[name], row["cost"], row["metrics"]["top1"]
        plain = row["plain_form"]
        ink = colour(1 if row["with_saliency"] else 0)
        if plain in at:
            panel.plot(*zip(at[plain], (x, y), strict=True), color="#bbbbbb", linewidth=0.8, zorder=1)
        around = [[x - cost["least"]], [cost["most"] - x]]
        panel.errorbar(x, y, yerr=top1["deviation"], xerr=around, fmt="o", markersize=4, color=ink, elinewidth=0.7)
        text = panel.annotate(
            name, (x, y), textcoords="offset points", xytext=(4, (4, -10)[number % 2]), fontsize=7, color=ink
        )
        text.set_parse_math(False)
    panel.set_title(f"{settings['data']}, {settings['model']}", fontsize=10, parse_math=False)
    panel.set(xlabel="cost, % of none", ylabel="top-1, %")
    panel.margins(x=0.15)  # for the names
    panel.grid(alpha=0.3)
    for number, words in enumerate(("without saliency", "with saliency")):
        panel.plot([], [], "o", color=colour(number), label=words)
    panel.legend(fontsize=8, loc="best")
