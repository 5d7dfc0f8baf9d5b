"""Compare KeepCutout, measured again, with the Cutout runs of 2026-11-20: `python compare.py`, in this folder."""

import json
import statistics
from pathlib import Path

from train.experiments.comparison import Outcome, paired_difference

SIDE = 32


def runs(file: Path, condition: str) -> dict[int, Outcome]:
    found = json.loads(file.read_text())["conditions"].get(condition, {"runs": {}})["runs"]
    return {int(seed): Outcome(**run) for seed, run in found.items()}


def mean_area(size: int) -> float:
    """Of a square of Cutout, per cent of the image: centres are uniform, and the border clips it."""
    lengths = [min(SIDE, c + size // 2) - max(0, c - size // 2) for c in range(SIDE)]
    return 100 * (statistics.fmean(lengths) / SIDE) ** 2


here = Path(__file__).parent
old, new = here.parent / "2026-11-20-keepaugment" / "results.json", here / "results.json"
print("| condition | area cut, % | top-1, % | seeds, % | minus Cutout, points [95% interval] | before, by the sum |")
print("|" + " --- |" * 6)
for size in (16, 20):
    cutout = runs(old, f"cutout-{size}")
    for seed, run in runs(new, f"cutout-{size}").items():  # trained again as a control
        assert run.top1 == cutout[seed].top1, "Cutout has changed since: train all its seeds again"
    for name in (f"cutout-{size}", f"keep_cutout-full-{size}", f"keep_cutout-low-{size}"):
        outcomes = cutout if name.startswith("cutout") else runs(new, name)
        if not outcomes:
            continue
        values = [outcomes[seed].top1 for seed in sorted(outcomes)]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        areas = [run.region_area for run in outcomes.values() if run.region_area is not None]
        area = statistics.fmean(areas) if areas else mean_area(size)
        difference = before = ""
        if outcomes is not cutout:
            difference = str(paired_difference(outcomes, cutout))
            before = str(paired_difference(runs(old, name), cutout))
        seeds = ", ".join(f"{value:.2f}" for value in values)
        print(f"| {name} | {area:.1f} | {statistics.fmean(values):.2f}{spread} | {seeds} | {difference} | {before} |")
