"""Write the parts of the pages that the code knows: `python docs/generate.py`. With `--check`, only compare them.

Such a part is between `<!-- begin generated: PART -->` and `<!-- end generated -->`, in README.md or a page of docs/.
"""

import argparse
import inspect
import json
import re
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from dali_salaug import KINDS, METHODS, Augmented, MethodEntry, SaliencyMemory
from pipelines import find_policy
from train.config.options import TASKS, of_name
from train.experiments.comparison import Condition, Difference, Outcome, paired_difference
from train.experiments.conditions import EXPERIMENTS
from train.experiments.prices import by_age, by_epoch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# In the folder of each measurement, whose name begins with its date: reports of `benchmark stage` and of `experiment`.
STAGE, EXPERIMENT = "stage-resnet50.json", "results.json"
DEFAULTS = {"region_size": 16, "saliency_scale": 0.5}  # of a method in these experiments, at 32×32
RENAMED = {"size": "region_size", "scale": "saliency_scale"}  # options that reports of 2026-11-20 have by other names
MARKED = re.compile(r"(<!-- begin generated: (.+?) -->\n)(.*?)(<!-- end generated -->)", flags=re.S)
NOT_MEASURED = "not measured"
HEADINGS = {"one image": "One image", "two images": "Two images", "policy": "Policies"}  # of the kinds of methods


def pages() -> list[Path]:
    """Return the pages that may have generated parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def generated(page: str) -> str:
    """Return the text of a page with every generated part as the code has it now."""
    return MARKED.sub(lambda part: f"{part[1]}\n{_text(part[2])}\n\n{part[4]}", page)


def _text(what: str) -> str:
    kind, *words = what.split()
    if kind not in PARTS:
        raise ValueError(f"a generated part must be one of {', '.join(PARTS)}; got {kind!r}")
    return "\n".join(PARTS[kind](*words))


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    for cells in (header, ("---",) * len(header), *rows):
        yield f"| {' | '.join(cells)} |"


def contents() -> Iterator[str]:
    """Yield the links to the cards, a line for each kind, for the README."""
    for kind, heading in HEADINGS.items():
        cards = [f"[`{name}`](docs/methods.md#{name})" for name, entry in METHODS.items() if entry.kind == kind]
        line = f"- [{heading}](docs/methods.md#{heading.lower().replace(' ', '-')}): {', '.join(cards)}"
        yield textwrap.fill(line, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def by_kind() -> list[tuple[str, MethodEntry]]:
    """Return the methods by name, the kinds one after the other."""
    return sorted(METHODS.items(), key=lambda item: KINDS.index(item[1].kind))


def methods() -> Iterator[str]:
    """Yield the table of the methods, for their page."""
    rows = [
        (f"[`{name}`](#{name})", entry.description, ", ".join(entry.maps) or "none", entry.source)
        for name, entry in by_kind()
    ]
    return table(("`--method`", "the network's input", "saliency", "source"), rows)


def card(name: str) -> Iterator[str]:
    """Yield the picture of a method, and its facts."""
    rows = [(key, text) for key, text in facts(METHODS[name]).items() if text]
    return iter((f"![{name}](methods/{name}.png)", "", *table(("", ""), rows)))


def facts(entry: MethodEntry) -> dict[str, str]:
    """Return the rows of a method's card."""
    method = entry.build(10)
    flags = [flag for flag, parameter in (("--region-size", "size"), ("--tau", "tau")) if entry.takes(parameter)]
    flags += ["--policy", "--interpolation"] if entry.policy else []
    used = [f"`{entry.saliency}` (target `{entry.target}`, scale {entry.scale:g})"] if method.uses_saliency else []
    used += [f"`{method.own_map}` of the partner, made by the method itself"] if method.own_map else []
    epochs = method.default_warmup_epochs
    return {
        "class": f"`{signature(entry.method)}`",
        "arguments": ", ".join(f"`{name}={value!r}`" for name, value in entry.options.items()),
        "policy": f"`{signature(type(find_policy(entry.policy)))}`" if entry.policy else "",
        "options": ", ".join(f"`{flag}`" for flag in flags),
        "saliency": "; ".join(used),
        "warm-up": f"{epochs} epoch{'s' * (epochs > 1)} of clean images" if epochs else "",
        "with a vision transformer": "; ".join(beyond_convolutions(entry)),
        "source": ", ".join(filter(None, (entry.source, entry.reference))),
    }


def signature(cls: type) -> str:
    """Return a class with its parameters and their defaults, as one writes the call."""
    parts = []
    parameters = list(inspect.signature(cls).parameters.values())
    for place, parameter in enumerate(parameters):
        if parameter.kind is parameter.KEYWORD_ONLY and (place == 0 or parameters[place - 1].kind != parameter.kind):
            parts.append("*")
        default = "" if parameter.default is parameter.empty else f"={_rounded(parameter.default)}"
        parts.append(parameter.name + default)
    return f"{cls.__name__}({', '.join(parts)})"


def _rounded(value: Any) -> str:
    """repr, with no more digits than one reads."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_rounded, value))})"
    return str(round(value, 4)) if isinstance(value, float) else repr(value)


def costs() -> Iterator[str]:
    """Yield the table of what each method costs, and what it brought."""
    rows = [(f"`{name}`", map_cost(entry), cost_after_the_map(entry), effect(entry)) for name, entry in by_kind()]
    return table(("method", "its map, %", "after the map, %", "effect"), rows)


@cache
def measured(file: str) -> list[dict[str, Any]]:
    """Return the reports of this name in benchmarks/results/, the newest first."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"*/{file}"), reverse=True)]


def shares() -> dict[str, float]:
    """Return what the parts of the stage cost, in per cent of a plain step: each in its newest measurement."""
    newest: dict[str, list[float]] = {}
    for report in measured(STAGE):
        newest = report["shares"] | newest
    return {name: 100 * statistics.median(values) for name, values in newest.items()}


def map_cost(entry: MethodEntry) -> str:
    """Return what the maps of a method cost."""
    method, parts = entry.build(10), []
    if method.uses_saliency:
        part = {("gradient", 0.5): "map, low resolution", ("grad_cam", 1.0): "map, Grad-CAM"}
        share = shares().get(part.get((entry.saliency, entry.scale), ""))
        parts.append(NOT_MEASURED if share is None else f"{share:.1f}")
    if method.own_map:
        parts.append("its own, in the next column")
    return "; ".join(parts) or "none"


def cost_after_the_map(entry: MethodEntry) -> str:
    """Return what a method costs beside its map: measured under its name, or under another name of the same method."""
    if entry.method is Augmented:
        return "0, the policy is in the loader"
    same = [name for name, other in METHODS.items() if (other.method, other.options) == (entry.method, entry.options)]
    return next((f"{shares()[name]:.2f}" for name in (entry.name, *same) if name in shares()), NOT_MEASURED)


def effect(entry: MethodEntry) -> str:
    """Return the newest measured difference of top-1, and what it is measured against."""
    if entry.name == "none":
        return "the baseline"
    for report in measured(EXPERIMENT):
        conditions = report.get("conditions", {})  # the report of `benchmark all` has none
        for condition in conditions.values():
            options = {RENAMED.get(name, name): value for name, value in condition["options"].items()}
            difference = condition["difference"]
            # One seed gives no interval.
            if DEFAULTS | options == DEFAULTS | {"method": entry.name} and difference and difference["interval"]:
                baseline = conditions[condition["baseline"]]["options"]["method"]
                low, high = difference["interval"]
                figures = f"{difference['mean']:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")
                return f"{figures} against `{baseline}`"
    return NOT_MEASURED


def beyond_convolutions(entry: MethodEntry) -> Iterator[str]:
    """Yield the differences of top-1 that `experiment methods` has of vision transformers, those with an interval."""
    results = [
        result
        for report in measured(EXPERIMENT)
        if report.get("experiment") == "methods"
        for result in report["results"]
    ]
    newest = {(result["settings"]["data"], result["settings"]["model"]): result for result in reversed(results)}
    for (data, model), result in newest.items():
        row = result["rows"].get(entry.name)
        if row is None or not model.removeprefix("timm/").startswith("vit"):
            continue
        against = "none" if row["plain_form"] is None else "plain"
        difference = row["metrics"]["top1"][f"minus_{against}"]
        if difference and difference["interval"]:
            yield f"`{model}`, {data}: {Difference(**difference)} points against `{row['plain_form'] or 'none'}`"


def options(*names: str) -> Iterator[str]:
    """Yield a table of options of training."""
    # Where tasks have options of one name, that of the first.
    options = {name: each for of, _ in reversed(TASKS.values()) for name, each in of_name(of).options().items()}
    fields = {name.replace("_", "-"): option for name, option in options.items()}
    rows = [
        (f"`--{name}`", str(fields[name].metadata["by_data"] or fields[name].default), fields[name].metadata["text"])
        for name in names
    ]
    return table(("option", "default", "what it is"), rows)


# Of the experiment "memory": its names of the maps, ours, and those in the rows of `dali-salaug prices`.
PRICES = {
    "full": ("live, full resolution", "full"),
    "half": ("live, half resolution", "scaled"),
    "early-half": ("early head, half resolution", "early head"),
    "memory": ("remembered", "remembered"),
    "memory-first": ("remembered, of a layer", "remembered"),
}
OWN_RUNS = ("early-half", "memory-first")  # whose maps are measured in runs that train with them


def memory() -> Iterator[str]:
    """Yield the card of the remembered maps."""
    store = SaliencyMemory(1)
    users = [f"`{name}`" for name, entry in METHODS.items() if entry.build(10).uses_saliency]
    rows = [
        ("class", f"`{signature(SaliencyMemory)}`"),
        ("stage", '`SaliencyStage(method, saliency="memory", memory=memory)`'),
        ("options", "`--saliency memory`, `--memory-grid`, `--memory-share`, `--memory-max-age`, `--memory-layer`"),
        ("size", f"{store.nbytes} bytes for each sample: {1_281_167 * store.nbytes / 1e6:.0f} MB for ImageNet-1k"),
        ("methods", ", ".join(users)),
        ("source", "this project; the map is the absolute gradient of KeepAugment §3, of the loss in place of a logit"),
    ]
    return table(("", ""), rows)


def prices(data: str) -> Iterator[str]:
    """Yield the table of the experiment "memory" on a data set: what each map brought, and what it chooses."""
    runs, rows = price_runs(data), []
    planned = {condition.name: condition.seeds or EXPERIMENTS["memory"].seeds for condition in _conditions()}
    for keep, plain in (("keep_cutout", "cutout"), ("keep_randaugment", "randaugment")):
        for price, (title, kind) in PRICES.items():
            name = f"{keep}-{price}"
            if name not in planned:
                continue
            own, remembered = runs.get(name, {}), runs.get(f"{keep}-memory", {})
            against = "" if price == "memory" else _difference(remembered, own)
            chosen = runs.get(name if price in OWN_RUNS else f"{keep}-memory", {})
            shown = (f"`{keep}`", title, str(len(own)), _difference(own, runs.get(plain, {})), against)
            rows.append((*shown, *_chosen(chosen, kind)))
    yield from (f"{sum(map(len, runs.values()))} of {sum(planned.values())} runs are finished.", "")
    header = ("method", "map", "seeds", "minus its plain form, points", "remembered minus this, points")
    yield from table((*header, "regions: cut; pasted, %", "of the box: removed; kept, %"), rows)


def grids(data: str) -> Iterator[str]:
    """Yield the table of the remembered map with other grids and shares, each against the default in the same seeds."""
    runs, rows, defaults = price_runs(data), [], {}
    default = runs.get("keep_cutout-memory", {})
    for condition in _conditions():
        for option in ("memory_grid", "memory_share"):
            if option in condition.options:
                own = runs.get(condition.name, {})
                same = {seed: run for seed, run in default.items() if seed in own}
                setting = f"`--{option.replace('_', '-')} {condition.options[option]}`"
                rows.append((setting, str(len(own)), _difference(own, default), *_chosen(own, "remembered")))
                defaults[str(len(same))] = ("the default", str(len(same)), "", *_chosen(same, "remembered"))
    header = ("setting", "seeds", "minus the default, points", "regions: cut; pasted, %")
    yield from table((*header, "of the box: removed; kept, %"), [*rows, *defaults.values()])


def _conditions() -> tuple[Condition, ...]:
    return EXPERIMENTS["memory"].conditions


def price_runs(data: str) -> dict[str, dict[int, Outcome]]:
    """Return the finished runs of the experiment "memory" on a data set, by condition and seed."""
    conditions = next(iter(measured(f"{data}.json")), {"conditions": {}})["conditions"]
    return {name: {int(s): _outcome(run) for s, run in c["runs"].items()} for name, c in conditions.items()}


def _outcome(run: dict[str, Any]) -> Outcome:
    """Return the outcome of a run in a report; those before 2026-11-27 call the value by their metric."""
    return Outcome(**{"value" if name == "top1" else name: value for name, value in run.items()})


def course(data: str) -> Iterator[str]:
    """Yield the tables of the remembered map by epoch and by age, of KeepCutout."""
    runs = [run.prices for run in price_runs(data).get("keep_cutout-memory", {}).values() if run.prices]
    if not runs:
        return iter((f"{NOT_MEASURED.capitalize()} yet.",))
    return iter((f"Mean over {len(runs)} seed{'s' * (len(runs) > 1)}.", "", by_epoch(runs), "", by_age(runs)))


def _difference(values: dict[int, Outcome], baseline: dict[int, Outcome]) -> str:
    return str(paired_difference(values, baseline) or NOT_MEASURED)


def _chosen(runs: dict[int, Outcome], kind: str) -> tuple[str, str]:
    """Return the shares of regions that the full map admits too, and of the box, of a map after the last epoch."""
    last = [
        [row for row in run.prices if row["map"] == kind and row["age"] == 0][-1] for run in runs.values() if run.prices
    ]
    means = {
        key: statistics.fmean(100 * row[key] for row in last)
        for key in ("cut", "paste", "cut_box", "paste_box")
        if last and last[0][key] is not None
    }
    pairs = (("cut", "paste"), ("cut_box", "paste_box"))
    regions, box = ("; ".join(f"{means[key]:.1f}" for key in pair if key in means) for pair in pairs)
    return regions or NOT_MEASURED, box or ("no boxes" if last else NOT_MEASURED)


PARTS: dict[str, Callable[..., Iterator[str]]] = {
    "contents": contents,
    "methods": methods,
    "card": card,
    "costs": costs,
    "options": options,
    "memory": memory,
    "prices": prices,
    "course": course,
    "grids": grids,
}


def main() -> int:
    """Write the pages, or with `--check` name those that differ; return the exit status."""
    parser = argparse.ArgumentParser(description="Write the parts of the pages that the code knows.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a page differs")
    check = parser.parse_args().check
    stale = [page for page in pages() if generated(page.read_text()) != page.read_text()]
    for page in stale:
        print(f"{'differs' if check else 'written'}: {page.relative_to(ROOT)}")
        if not check:
            page.write_text(generated(page.read_text()))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
