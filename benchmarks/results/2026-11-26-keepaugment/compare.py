"""Print the table of KeepCutout by the mean of the map: `python compare.py`, in this folder."""

import json
import statistics
from pathlib import Path
from typing import Any

from train.experiments.comparison import Outcome, paired_difference

SIDE = 32


def runs(conditions: dict[str, Any], name: str) -> dict[int, Outcome]:
    renamed = {"top1": "value"}  # since these results were written
    return {
        int(seed): Outcome(**{renamed.get(key, key): value for key, value in run.items()})
        for seed, run in conditions[name]["runs"].items()
    }


def mean_area(size: int) -> float:
    """Of a square of Cutout, per cent of the image: centres are uniform, and the border clips it."""
    lengths = [min(SIDE, c + size // 2) - max(0, c - size // 2) for c in range(SIDE)]
    return 100 * (statistics.fmean(lengths) / SIDE) ** 2


here = Path(__file__).parent
new = json.loads((here / "results.json").read_text())
old = json.loads((here.parent / "2026-11-20-keepaugment" / "results.json").read_text())["conditions"]
for name, seeds in new["controls"].items():  # of conditions that the change does not concern, trained again
    for seed, top1 in seeds.items():
        assert top1 == old[name]["runs"][seed]["top1"], f"{name} has changed since: train all its seeds again"
print("| condition | area cut, % | top-1, % | seeds 0 to 2, % | minus Cutout, points [95% interval] | by the sum |")
print("|" + " --- |" * 6)
for size in (16, 20):
    names = [f"cutout-{size}", *(f"keep_cutout-{price}-{size}" for price in ("full", "low", "early", "both"))]
    cutout = runs(new["conditions"], names[0])
    for name in names:
        outcomes = runs(new["conditions"], name)
        values = [outcomes[seed].value for seed in sorted(outcomes)]
        areas = [run.region_area for run in outcomes.values() if run.region_area is not None]
        area = statistics.fmean(areas) if areas else mean_area(size)
        difference = before = ""
        if name != names[0]:
            difference, before = (
                str(paired_difference(outcomes, cutout)),
                str(paired_difference(runs(old, name), cutout)),
            )
        seeds = ", ".join(f"{value:.2f}" for value in values)
        top1 = f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"
        print(f"| {name} | {area:.1f} | {top1} | {seeds} | {difference} | {before} |")
