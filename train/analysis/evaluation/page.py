"""The page of an evaluation: one HTML file with its table and pictures in it, and the table as text."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from train.analysis.evaluation.drawing import Picture
from train.analysis.evaluation.rows import Group, Row
from train.analysis.intervals import LEVEL
from train.engine.files import atomic_write

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #202428; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.2rem }
table { border-collapse: collapse } td, th { padding: .15rem .7rem; text-align: right; vertical-align: top }
td:first-child, th:first-child { text-align: left } tbody tr:nth-child(odd) { background: #f3f5f7 }
th.part { text-align: left; background: white; padding-top: .9rem } code { overflow-wrap: anywhere }
figure { margin: 1.5rem 0 } img { max-width: 100% } figcaption, .faint { color: #58646c }
"""
_MOST_CLASSES = 50  # in the table of the classes; of more, the worst


def number(value: float | None, percent: bool) -> str:
    """Return a value of the table."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if percent else f"{value:.3f}"


def columns_of(
    titles: Sequence[str], tables: Sequence[Sequence[Row]], groups: Sequence[Group]
) -> list[tuple[str, list[str]]]:
    """Return the heads and the cells of the table: one column for each run, and for each group its means."""
    columns = [
        (title, [number(row.value, row.percent) for row in table]) for title, table in zip(titles, tables, strict=True)
    ]
    for group in groups:
        cells = []
        for row, mean in zip(tables[0], group.means, strict=True):
            text = "–" if mean is None else " ± ".join(number(value, row.percent) for value in mean)
            cells.append(text)
        columns.append((f"mean over seeds {', '.join(map(str, group.seeds))}", cells))
    return columns


def as_text(columns: Sequence[tuple[str, Sequence[str]]], rows: Sequence[Row]) -> str:
    """Return the table for a terminal."""
    names = [row.name + (", %" if row.percent else "") for row in rows]
    width = max(map(len, names)) + 2
    widths = [max(len(head), *map(len, cells)) + 2 for head, cells in columns]
    lines = [" " * width + "".join(f"{head:>{w}}" for (head, _), w in zip(columns, widths, strict=True))]
    part = ""
    for place, (row, name) in enumerate(zip(rows, names, strict=True)):
        if row.part != part:
            part = row.part
            lines.append(part)
        cells = "".join(f"{cells[place]:>{w}}" for (_, cells), w in zip(columns, widths, strict=True))
        lines.append(f"  {name:<{width - 2}}{cells}")
    return "\n".join(lines)


def write_page(
    path: Path,
    report: Mapping[str, Any],
    columns: Sequence[tuple[str, Sequence[str]]],
    rows: Sequence[Row],
    pictures: Mapping[str, Sequence[Picture]],
) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        report: what the JSON file holds.
        columns: of the table, from `columns_of`.
        rows: of the table.
        pictures: of each part.
    """
    count = len(report["runs"])
    facts = "".join(f"<li>{escape(name)}: {escape(str(value))}</li>" for name, value in report["versions"].items())
    notes = "".join(f"<li>{escape(note)}</li>" for note in report["notes"])
    interval = (
        f" The last column{'s have' if len(report['groups']) > 1 else ' has'} the mean over the seeds ± half the"
        f" {LEVEL:.0%} t interval."
        if report["groups"]
        else ""
    )
    body = [
        f"<h1>Evaluation of {escape(report['runs'][0]['run']) if count == 1 else f'{count} runs'}</h1>",
        f"<p><code>{escape(report['command'])}</code></p>",
        f"<p class=faint>{escape(report['date'])}</p><ul class=faint>{facts}</ul>",
        f"<h2>Numbers</h2><p>Shares in per cent.{interval}</p>",
        _table(columns, rows),
        f"<h2>What was measured</h2><ul>{notes}</ul>",
    ]
    for part, drawn in pictures.items():
        body.append(f"<h2>{escape(part.capitalize())}</h2>")
        for picture in drawn:
            caption = escape(picture.caption)
            png = base64.b64encode(picture.png).decode()
            image = f'<img src="data:image/png;base64,{png}" alt="{caption}">'
            body.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
        if part == "accuracy":
            body += [_classes(run) for run in report["runs"]]
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Evaluation</title><style>{_STYLE}</style><body>{''.join(body)}</body></html>\n"
    )
    with atomic_write(path, "run the command again") as file:
        file.write(text.encode())


def _table(columns: Sequence[tuple[str, Sequence[str]]], rows: Sequence[Row]) -> str:
    heads = "".join(f"<th>{escape(head)}</th>" for head, _ in columns)
    lines, part = [], ""
    for place, row in enumerate(rows):
        if row.part != part:
            part = row.part
            lines.append(f'<tr><th class=part colspan="{1 + len(columns)}">{escape(part.capitalize())}</th></tr>')
        cells = "".join(f"<td>{escape(cells[place])}</td>" for _, cells in columns)
        unit = ", %" if row.percent else ""
        lines.append(f"<tr><td>{escape(row.name)}{unit}</td>{cells}</tr>")
    return f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _classes(run: Mapping[str, Any]) -> str:
    classes = [each for each in run["accuracy"]["classes"] if each["images"]]
    shown = sorted(classes, key=lambda each: each["top1"])[:_MOST_CLASSES]
    lines = "".join(
        f"<tr><td>{escape(each['name'])}</td><td>{number(each['top1'], True)}</td><td>{each['images']}</td></tr>"
        for each in shown
    )
    which = f"the {len(shown)} worst of {len(classes)} classes" if len(shown) < len(classes) else "each class"
    return (
        f"<details><summary>Accuracy of {which}, {escape(run['title'])}</summary><table><thead><tr><th>class</th>"
        f"<th>top-1, %</th><th>images</th></tr></thead><tbody>{lines}</tbody></table></details>"
    )
