"""The table of the comparison on one data set with one model, and its numbers."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dali_salaug import METHODS
from train.experiments.comparison import LEVEL, Condition, Difference, Outcome, Outcomes, paired, sentences
from train.experiments.methods.cost import of_a_method
from train.experiments.methods.plan import SEARCHED, Setting, plain_form

METRICS = {  # of `Outcome.evaluation`, in words
    "top1": "top-1, %",
    "corruption": "corruption accuracy, %",
    "calibration": "calibration error, %",  # the lower the better, as of no other
}


def values_of(runs: Mapping[int, Outcome], metric: str) -> dict[int, float]:
    """Return a metric of a row's runs by seed, without those that do not have it."""
    found = {seed: (run.evaluation or {}).get(metric) for seed, run in runs.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def result_of(
    setting: Setting, conditions: Sequence[Condition], outcomes: Outcomes, tried: Mapping[float, Mapping[str, float]],
    rate: float, cost: Mapping[str, Any] | None, about: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Return all numbers of a data set with a model, for results.json.

    Args:
        conditions: the rows.
        outcomes: of the finished runs.
        tried: see `accuracies`.
        rate: the learning rate of the table.
        cost: see `train.experiments.methods.cost`; None: not measured yet.
        about: what else is to be stated: seeds, environment, command.
    """
    rows = {}
    for condition in conditions:
        name, runs, plain = condition.name, outcomes.get(condition.name, {}), plain_form(condition.name)
        metrics = {}
        for metric in METRICS:
            values = values_of(runs, metric)
            against = {
                "none": paired(values, values_of(outcomes.get("none", {}), metric)) if name != "none" else None,
                "plain": paired(values, values_of(outcomes.get(plain, {}), metric)) if plain else None,
            }
            metrics[metric] = {
                "seeds": values,
                "mean": statistics.fmean(values.values()) if values else None,
                "deviation": statistics.stdev(values.values()) if len(values) > 1 else None,
                **{f"minus_{other}": d._asdict() if d else None for other, d in against.items()},
            }
        rows[name] = {
            "options": condition.options,
            "plain_form": plain if plain in outcomes else None,
            "with_saliency": bool(METHODS[condition.options["method"]].maps),
            "metrics": metrics,
            "cost": dict(zip(("median", "least", "most"), of_a_method(cost, name), strict=True))
            if cost and name in cost["batches"]
            else None,
        }
    kept = ("epochs", "image_size", "batch_size", "optimizer", "weight_decay", "amp")
    sizes = {name: getattr(setting.resolved, name) for name in kept}
    searched = {
        "rates": list(setting.rates),
        "held_out": setting.held_out if tried else None,
        "top1": {f"{rate:g}": dict(found) for rate, found in sorted(tried.items())},
        "chosen": rate,
    }
    settings = {"data": setting.name, "model": setting.model, "train_images": setting.count, **sizes}
    return {"settings": settings, "search": searched, "rows": rows, "cost": cost, **about}


def text_of(setting: Setting, conditions: Sequence[Condition], outcomes: Outcomes, result: Mapping[str, Any]) -> str:
    """Return the table in Markdown, how the learning rate was found, and which differences the data supports.

    Args:
        result: from `result_of`.
    """
    interval = f"[{LEVEL:.0%}]"
    header = ["method", "seeds", "plain form"]
    for words in METRICS.values():
        header += [words, f"− none {interval}", f"− plain form {interval}"]
    header += ["cost, % of none"]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for name, row in result["rows"].items():
        cells = [name, str(len(row["metrics"]["top1"]["seeds"])), row["plain_form"] or ""]
        for found in row["metrics"].values():
            cells += [_mean(found), _difference(found["minus_none"]), _difference(found["minus_plain"])]
        cost = row["cost"]
        cells.append(f"{cost['median']:.0f} ({cost['least']:.0f} to {cost['most']:.0f})" if cost else "not measured")
        lines.append("| " + " | ".join(cells) + " |")
    further = [(c.name, plain) for c in conditions if (plain := plain_form(c.name)) in outcomes and plain]
    parts = [f"## {setting}", "\n".join(lines), _of_the_search(result["search"]), _sizes(result), "Of top-1:"]
    return "\n\n".join([*parts, sentences(conditions, _evaluated(outcomes), further)])


def _evaluated(outcomes: Outcomes) -> Outcomes:
    """Return the outcomes with the top-1 of `evaluate`, as in the table: that of training may be in other precision."""
    return {
        name: {seed: runs[seed]._replace(value=value) for seed, value in values_of(runs, "top1").items()}
        for name, runs in outcomes.items()
    }


def _sizes(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    side, epochs = settings["image_size"], settings["epochs"]
    precision = "" if settings["amp"] == "off" else f", {settings['amp']} where autocast has it"
    text = (
        f"Each run: {settings['train_images']} images of {side}×{side} pixels, {epochs} epoch{'s' * (epochs > 1)},"
        f" {settings['optimizer']}, batches of {settings['batch_size']}{precision}."
    )
    cost = result["cost"]
    if cost:
        plain, batch = (1e3 * statistics.median(values) for values in (cost["plain"], cost["batches"]["none"]))
        text += f" A plain step takes {plain:.0f} ms on the {cost['device']}, its batch {batch:.0f} ms."
    return text


def _of_the_search(search: Mapping[str, Any]) -> str:
    """Return how the learning rate was found."""
    chosen, rates = search["chosen"], search["rates"]
    if not search["top1"]:
        return f"Learning rate: {chosen:g}, as stated."
    shown = "; ".join(
        f"{rate}: {', '.join(f'{found[name]:.1f}' for name in SEARCHED if name in found)}"
        for rate, found in search["top1"].items()
    )
    text = (
        f"Learning rate: {chosen:g}, the best for the mean of {' and '.join(SEARCHED)} on {search['held_out']} training"
        f" images that were held out (top-1 in per cent, {shown})."
    )
    if chosen in (rates[0], rates[-1]):
        text += f" It is the {'lowest' if chosen == rates[0] else 'greatest'} that was tried: widen --rates."
    return text


def _mean(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "missing"
    return f"{found['mean']:.2f}" + ("" if found["deviation"] is None else f" ± {found['deviation']:.2f}")


def _difference(found: Mapping[str, Any] | None) -> str:
    return "" if found is None else str(Difference(**found))
