"""Accuracy, calibration and the rows: against loops over images in float64, and against torchmetrics."""

import dataclasses
import math
import statistics

import pytest
import torch
from scipy.integrate import quad
from torchmetrics.functional.classification import multiclass_calibration_error

from train.analysis.evaluation import accuracy, calibration
from train.analysis.evaluation.rows import Row, group_by_seed, mean_over_seeds
from train.analysis.intervals import half_interval
from train.config import Config, ResolvedConfig

CLASSES = ["a", "b", "c", "d", "e", "f", "never seen"]


def predictions(classes: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(min(classes, 6), (90,), generator=generator)
    logits = 2 * torch.randn(90, classes, generator=generator)
    logits[torch.arange(90), labels] += 1.5
    logits[0] = torch.tensor([200.0, *range(classes - 1)])  # a confidence of 1, the last edge
    return logits, labels


def test_accuracy_against_loops() -> None:
    logits, labels = predictions()
    result = accuracy.measure(logits, labels, CLASSES)
    confusion = [[0] * 7 for _ in CLASSES]
    top5 = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        order = sorted(range(7), key=lambda k: -row[k])
        confusion[label][order[0]] += 1
        top5 += label in order[:5]
    assert result["confusion"] == confusion
    assert result["top5"] == pytest.approx(top5 / 90)
    assert result["top1"] == pytest.approx(sum(confusion[k][k] for k in range(7)) / 90)
    assert [each["images"] for each in result["classes"]] == [sum(row) for row in confusion]
    shares = [each["top1"] for each in result["classes"]]
    assert shares[:6] == pytest.approx([confusion[k][k] / sum(confusion[k]) for k in range(6)])
    assert shares[6] is None
    assert {row.name: row.value for row in accuracy.rows(result)}["of the worst class"] == min(shares[:6])
    assert accuracy.measure(*predictions(5), CLASSES[:5] if (labels < 5).all() else list("abcde"))["top5"] is None


def test_calibration_against_loops_and_torchmetrics() -> None:
    logits, labels = predictions()
    result = calibration.measure(logits, labels)
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    nll = brier = 0.0
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        total = sum(math.exp(value) for value in row)
        shares = [math.exp(value) / total for value in row]
        best = max(range(7), key=shares.__getitem__)
        bins[min(14, int(15 * shares[best]))].append((shares[best], best == label))
        nll -= (row[label] - math.log(total)) / 90
        brier += sum((share - (k == label)) ** 2 for k, share in enumerate(shares)) / 90
    gaps = [abs(statistics.fmean(s for s, _ in held) - statistics.fmean(r for _, r in held)) for held in bins if held]
    counts = [len(held) for held in bins if held]
    assert 0 in [len(held) for held in bins]
    assert [each["images"] for each in result["bins"]] == [len(held) for held in bins]
    assert result["error"] == pytest.approx(sum(g * c for g, c in zip(gaps, counts, strict=True)) / 90)
    assert result["greatest_error"] == pytest.approx(max(gaps))
    assert (result["nll"], result["brier"]) == pytest.approx((nll, brier))
    for each, held in zip(result["bins"], bins, strict=True):
        means = [statistics.fmean(values) if held else None for values in zip(*held, strict=True)] or [None, None]
        assert [each["confidence"], each["accuracy"]] == pytest.approx(means)
    whole = multiclass_calibration_error(logits.double().softmax(1), labels, 7, n_bins=15)
    assert result["error"] == pytest.approx(whole.item())
    assert len(calibration.pictures({"run": result})) == 1


def test_the_t_interval_against_its_density() -> None:
    """Oracle: 95 % of Student's t distribution with 2 degrees of freedom, by integration of its density."""
    values = [91.0, 88.5, 90.2]
    error = statistics.stdev(values) / math.sqrt(3)
    inside, _ = quad(
        lambda x: 1 / (2 * math.sqrt(2) * (1 + x * x / 2) ** 1.5), *(s * half_interval(values) / error for s in (-1, 1))
    )
    assert inside == pytest.approx(0.95)


def config(**changes: object) -> ResolvedConfig:
    resolved = Config().resolved(side=32, embedded=True, cifar=False)
    return dataclasses.replace(resolved, **changes)


def test_runs_that_differ_in_the_seed_alone_have_a_mean() -> None:
    configs = [
        config(seed=3, out="a"), config(seed=0, method="cutout"), config(seed=4, out="b", workers=2),
        config(seed=4, out="c"), config(seed=5, epochs=3), config(seed=7),
    ]  # fmt: skip
    tables = [[Row("p", "x", float(n)), Row("p", "y", None if n == 5 else 1.0)] for n in range(6)]
    (group,) = mean_over_seeds(tables, configs)
    assert (group.runs, group.seeds) == ([0, 2, 5], [3, 4, 7])
    assert group.means[0] == pytest.approx((7 / 3, half_interval([0.0, 2.0, 5.0])))
    assert group.means[1] is None
    assert mean_over_seeds(tables[:2], configs[:2]) == []


@pytest.mark.parametrize("name", ["data", "val_data", "unlabelled"])
def test_runs_on_other_data_are_no_seeds_of_one_another(name: str) -> None:
    first, second = config(seed=0), config(seed=1)
    for each, place in ((first, "/a"), (second, "/b")):
        setattr(each, name, place)
    assert group_by_seed([first, second]) == []
    setattr(second, name, "/a")
    assert group_by_seed([first, second]) == [([0, 1], [0, 1])]
