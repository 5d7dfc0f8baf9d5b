"""Samples drawn by weights: their distribution, and each a function of its position."""

import bisect
import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import WeightedRandomSampler

from pipelines import Dataset, draws
from pipelines.order.orders import Weighted
from pipelines.order.samplers import choose_order
from pipelines.readers.pixels import Pixels

WEIGHTS = np.array([0, 1, 0, 0, 3, 2.5, 0.01, 0, 40, 8, 8, 0])


def _order(labels: list[int], weights: object, seed: int = 3) -> Weighted:
    images = np.zeros((len(labels), 1, 1, 3), np.uint8)
    dataset = Dataset([*"abcd"], np.array(labels), "/data", Pixels(images, "/data"))
    order = choose_order(dataset, shuffle=True, sampler=None, weights=weights, repeats=1, seed=seed)  # type: ignore
    assert isinstance(order, Weighted)
    return order


def test_the_sample_at_a_position_by_a_loop() -> None:
    edges = list(itertools.accumulate(WEIGHTS.tolist()))
    for epoch in range(3):
        philox = np.random.Philox(key=np.array([9, 4 * epoch + draws.ORDER], dtype=np.uint64))
        numbers = np.random.Generator(philox).random(12).tolist()
        expected = [bisect.bisect_right(edges, number * edges[-1]) for number in numbers]
        assert draws.epoch_choice(WEIGHTS, 9, epoch).tolist() == expected


def test_samples_are_drawn_in_proportion_as_torchs_sampler_draws_them() -> None:
    count = len(WEIGHTS)
    order = _order([0] * count, WEIGHTS)
    drawn = np.concatenate([order(epoch) for epoch in range(2000)])
    found = np.bincount(drawn, minlength=count)
    assert not found[WEIGHTS == 0].any()
    some = WEIGHTS > 0
    assert stats.chisquare(found[some], WEIGHTS[some] / WEIGHTS.sum() * len(drawn)).pvalue > 1e-3
    generator = torch.Generator().manual_seed(0)
    theirs = list(WeightedRandomSampler(WEIGHTS.tolist(), len(drawn), generator=generator))
    table = [found[some], np.bincount(theirs, minlength=count)[some]]
    assert stats.chi2_contingency(table).pvalue > 1e-3
    # With replacement, one independently of the next: pairs are distributed as the product.
    likely = np.isin(drawn, [8, 9, 10])
    pairs = [[(likely[:-1] == a) & (likely[1:] == b) for b in (False, True)] for a in (False, True)]
    assert stats.chi2_contingency([[cell.sum() for cell in row] for row in pairs]).pvalue > 1e-3


def test_balanced_draws_all_classes_alike_and_their_samples_too() -> None:
    labels = [0] * 60 + [1] * 5 + [3] * 35  # none of the third class
    order = _order(labels, "balanced")
    drawn = np.concatenate([order(epoch) for epoch in range(100)])
    counts = np.bincount(np.array(labels)[drawn], minlength=4)
    assert counts[2] == 0
    assert stats.chisquare(counts[[0, 1, 3]]).pvalue > 1e-3
    assert stats.chisquare(np.bincount(drawn, minlength=100)[:60]).pvalue > 1e-3
    by_hand = _order(labels, [1 / labels.count(label) for label in labels])
    assert [by_hand(epoch).tolist() for epoch in range(3)] == [order(epoch).tolist() for epoch in range(3)]


def test_epochs_seeds_and_extreme_weights() -> None:
    one, other = _order([0] * 12, WEIGHTS), _order([0] * 12, WEIGHTS, seed=4)
    drawn = {tuple(order(epoch).tolist()) for order in (one, other) for epoch in range(3)}
    assert len(drawn) == 6
    for large in (1e308, 1e-320, 1):
        assert set(_order([0] * 4, [0.0, large, 0.0, large])(0).tolist()) == {1, 3}
    assert _order([0] * 4, [0, 0, 1, 0])(5).tolist() == [2] * 4


@pytest.mark.parametrize(
    "weights",
    [WEIGHTS.tolist(), tuple(WEIGHTS), WEIGHTS.astype(np.float32), torch.tensor(WEIGHTS, requires_grad=True)],
    ids=["list", "tuple", "float32", "tensor"],
)
def test_weights_of_any_kind(weights: object) -> None:
    assert _order([0] * 12, weights)(1).tolist() == _order([0] * 12, WEIGHTS)(1).tolist()
    assert (
        _order([0] * 4, torch.tensor([1, 0, 2, 0]))(1).tolist() == _order([0] * 4, np.array([1, 0, 2, 0]))(1).tolist()
    )
    low = torch.tensor([1, 0, 2, 0], dtype=torch.bfloat16)
    assert _order([0] * 4, low)(1).tolist() == _order([0] * 4, [1, 0, 2, 0])(1).tolist()
