"""A page with the tables and plots of all benchmarks."""

from pathlib import Path
from types import ModuleType
from typing import Any


def write_page(folder: Path, report: dict[str, Any], benchmarks: dict[str, ModuleType]) -> Path:
    """Write README.md with environment, command, and the table and plot of each benchmark, and the plots as files."""
    from matplotlib.figure import Figure

    surroundings = report["environment"]
    lines = [
        f"# Benchmarks of {surroundings['date']}",
        "",
        f"`{report['command']}`",
        "",
        *(f"- {name}: {value}" for name, value in surroundings.items() if name != "date"),
        "",
        "Medians, in brackets the range; ratios and shares are taken turn by turn. Raw numbers: `results.json`.",
    ]
    for name, module in benchmarks.items():
        result = report["results"][name]
        height = 6 if name == "growth" else 1.5 + 0.18 * len(result.get("shares", ())) if name == "stage" else 4
        figure = Figure(figsize=(9, height), layout="constrained")
        module.plot(result, figure)
        figure.savefig(folder / f"{name}.png", dpi=110)
        lines += ["", f"## {name}: {module.HELP}", "", "```text", module.table(result), "```", "", f"![]({name}.png)"]
    path = folder / "README.md"
    path.write_text("\n".join(lines) + "\n")
    return path
