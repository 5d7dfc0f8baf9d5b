"""Statistics against scipy, and the sentences that are made of them."""

import numpy as np
import pytest
from scipy import stats

from train.experiments.comparison import Condition, Outcome, paired_difference, sentences, table


def runs(*top1: float | None) -> dict[int, Outcome]:
    return {seed: Outcome(value, 60.0, 4.0 + seed) for seed, value in enumerate(top1) if value is not None}


CONDITIONS = [
    Condition("plain", {}),
    Condition("better", {}, "plain", 95.6),
    Condition("worse", {}, "plain"),
    Condition("alike", {}, "plain"),
]
OUTCOMES = {
    "plain": runs(70.0, 71.0, 72.0),
    "better": runs(71.0, 72.1, 72.9),
    "worse": runs(68.0, 69.1, 69.9),
    "alike": runs(71.0, 70.5, 72.2),
}


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_the_interval_is_of_the_paired_t_test(count: int) -> None:
    a, b = np.random.default_rng(count).normal(70, 2, (2, count))
    difference = paired_difference(runs(*a), runs(*b))
    assert difference is not None
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert difference.mean == pytest.approx((a - b).mean())
    assert difference.interval == pytest.approx((expected.low, expected.high))
    assert difference.pairs == count


def test_only_seeds_that_both_have_are_paired() -> None:
    difference = paired_difference(runs(1.0, None, 5.0, 9.0), runs(None, 2.0, 3.0, 4.0))
    assert difference is not None
    assert (difference.mean, difference.pairs) == (3.5, 2)
    one = paired_difference(runs(1.0, None), runs(0.5, 3.0))
    assert one == (0.5, None, 1)
    assert paired_difference(runs(1.0, None), runs(None, 3.0)) is None


def test_the_table() -> None:
    lines = table(CONDITIONS, OUTCOMES, 3).splitlines()
    assert lines[0] == (
        "| condition | top-1, % | seeds 0 to 2, % | compared with | difference, points [95% interval] | s / epoch "
        "| published, % |"
    )
    assert lines[2] == "| plain | 71.00 ± 1.00 | 70.00, 71.00, 72.00 |  |  | 5.0 |  |"
    # differences 1.0, 1.1, 0.9: mean 1, deviation 0.1, half the interval 4.3027 · 0.1 / √3
    assert lines[3] == "| better | 72.00 ± 0.95 | 71.00, 72.10, 72.90 | plain | +1.00 [+0.75, +1.25] | 5.0 | 95.6 |"
    assert lines[4].endswith("| plain | −2.00 [−2.25, −1.75] | 5.0 |  |")


def test_what_the_data_supports_and_what_not() -> None:
    text = sentences(CONDITIONS, OUTCOMES)
    supported, rest = text.split("The data does not show")
    assert "The data supports these differences" in supported
    assert "- better is above plain: +1.00 [+0.75, +1.25]\n" in supported
    assert "- worse is below plain: −2.00 [−2.25, −1.75]\n" in supported
    assert "- alike and plain: +0.23 [" in rest
    assert "3 comparisons, without a correction for their number" in rest
    assert "0.15 of them" in rest


def test_a_difference_of_nothing_is_not_shown() -> None:
    text = sentences(CONDITIONS[:2], {"plain": runs(50.0, 60.0), "better": runs(50.0, 60.0)})
    assert "- better and plain: 0.00 [0.00, 0.00]" in text
    assert "supports" not in text


def test_one_seed_has_no_interval_and_missing_runs_are_said() -> None:
    one = {name: {0: values[0]} for name, values in OUTCOMES.items()}
    assert "| better | 71.00 | 71.00 | plain | +1.00 | 4.0 | 95.6 |" in table(CONDITIONS, one, 1)
    assert "interval" not in table(CONDITIONS, one, 1)
    assert "| seed 0, % |" in table(CONDITIONS, one, 1)
    assert sentences(CONDITIONS, one).endswith("the data supports no difference.")

    some = {"plain": runs(70.0, 71.0, 72.0), "better": runs(71.0, None, 72.0)}
    text = table(CONDITIONS[:3], some, 3)
    assert "| 71.50 ± 0.71 | 71.00, missing, 72.00 | plain | +0.50 [−5.85, +6.85], 2 of 3 seeds |" in text
    assert "| worse | missing | missing, missing, missing | plain |  |  |  |" in text


def test_the_table_of_what_is_measured() -> None:
    """Columns of their own, in thousandths; only where a condition has it measured."""
    conditions = [Condition("plain", {}), Condition("turned", {}, measured=("agreement", "--policy=rotation"))]
    turned = {s: Outcome(70.0, 60.0, 4.0, (0.02 + s / 1e3, 0.05)) for s in (0, 1)}
    lines = table(conditions, {"plain": runs(70.0, 71.0), "turned": turned}, 2).splitlines()
    assert lines[0].endswith("| published, % | disagreement of maps, 10⁻³ | of unrelated maps, 10⁻³ |")
    assert lines[1].count("---") == 9
    assert lines[2].endswith("| 4.5 |  |  |  |")
    assert lines[3].endswith("| 4.0 |  | 20.50 ± 0.71 | 50.00 ± 0.00 |")


def test_the_table_has_the_areas_of_regions() -> None:
    with_map = {seed: run._replace(region_area=19.0 + seed) for seed, run in runs(71.0, 72.0).items()}
    lines = table(CONDITIONS[:2], {"plain": runs(70.0, 71.0), "better": with_map}, 2).splitlines()
    assert lines[0].endswith("| published, % | area of the region, % |")
    assert lines[2].endswith(" |  |  |")
    assert lines[3].endswith("| 95.6 | 19.50 ± 0.71 |")


def test_fewer_seeds_and_further_comparisons() -> None:
    conditions = [*CONDITIONS[:2], Condition("few", {}, "better", seeds=2)]
    outcomes = OUTCOMES | {"few": runs(72.0, 73.1)}
    last = table(conditions, outcomes, 3).splitlines()[-1]
    assert last == "| few | 72.55 ± 0.78 | 72.00, 73.10 | better | +1.00 [+1.00, +1.00], 2 of 3 seeds | 4.5 |  |"
    text = sentences(conditions, outcomes, [("few", "plain"), ("few", "missing")])
    assert "- few is above plain: +2.05 [+1.41, +2.69]" in text
    assert "3 comparisons" in text
