"""Metrics and schedule against plain loops."""

import itertools
import math

import pytest
import torch

from train.engine.metrics import Meter, top_k_hits, validation_sums
from train.engine.schedule import cosine_with_warmup, parameter_groups, steps_with_warmup
from train.models.registry import build_model


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_hits_against_sorting_by_hand(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    logits = torch.randn(40, 9, generator=generator)
    labels = torch.randint(9, (40,), generator=generator)
    hits = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        ranked = sorted(range(9), key=lambda c, row=row: -row[c])
        hits += label in ranked[:k]
    assert 0 < hits < 40
    assert top_k_hits(logits, labels, k).item() == hits


def test_validation_sums_have_top_5_only_above_5_classes() -> None:
    labels = torch.tensor([0, 1])
    assert len(validation_sums(torch.randn(2, 5), labels)) == 2
    logits = torch.tensor([[3.0, 0, 0, 0, 0, 0], [9.0, 1, 0, 0, 0, 0]])
    loss, top1, top5 = validation_sums(logits, labels)
    expected = math.log(math.exp(3) + 5) - 3 + math.log(math.exp(9) + math.exp(1) + 4) - 1
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert (top1.item(), top5.item()) == (1, 2)


def test_meter_weighs_batches_by_their_size_and_survives_a_checkpoint() -> None:
    meter = Meter(("loss",), torch.device("cpu"))
    values = [[1.0, 2.0, 3.0], [10.0]]
    for batch in values[:1]:
        meter.add([torch.tensor(batch).sum()], len(batch))
    other = Meter(("loss",), torch.device("cpu"))
    other.load_state_dict(meter.state_dict())
    other.add([torch.tensor(values[1]).sum()], 1)
    assert other.means() == {"loss": pytest.approx(4.0)}
    assert meter.means() == {"loss": pytest.approx(2.0)}  # the state was a copy


def test_learning_rate_rises_linearly_then_falls_along_a_cosine() -> None:
    factors = [cosine_with_warmup(s, warmup=4, total=24) for s in range(25)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[14] == pytest.approx(0.5)
    assert factors[24] == pytest.approx(0)
    assert all(a > b for a, b in itertools.pairwise(factors[4:]))
    assert cosine_with_warmup(0, warmup=0, total=10) == 1


def test_weight_decay_spares_biases_and_batchnorm() -> None:
    model = build_model("small", 4, 32)
    decayed, spared = parameter_groups(list(model.parameters()), 5e-4)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (5e-4, 0)
    names = {id(p): name for name, p in model.named_parameters()}
    norms = {
        f"{n}.{p}" for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d) for p in ("weight", "bias")
    }
    assert {names[id(p)] for p in spared["params"]} == norms | {n for n in names.values() if n.endswith("bias")}
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_the_learning_rate_falls_by_ten_after_each_of_its_steps() -> None:
    factors = [steps_with_warmup(s, warmup=2, drops=[5, 8]) for s in range(10)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])
    assert steps_with_warmup(0, warmup=0, drops=[]) == 1
