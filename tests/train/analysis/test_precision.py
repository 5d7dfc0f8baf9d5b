"""Agreement of maps, against loops over all regions; the interval; the choice of images; the program."""

import json
import math
from fractions import Fraction
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
import torch

from train.__main__ import main as program
from train.analysis.precision import PRECISIONS, RULES, Agreement, Rule, agreement, summarise
from train.analysis.trained import spread_evenly

SIDES = (16, 24)  # of the images; the maps are half as large


def regions(saliency: torch.Tensor, length: int, rule: Rule) -> list[int]:
    """The scores of all regions of one image, row by row, by loops over the pixels of the map."""
    height, width, cells = *saliency.shape, length // 2
    scores = []
    for y in range(height):
        for x in range(width):
            top, left = (y, x) if rule.border == "inside" else (y - cells // 2, x - cells // 2)
            if rule.border == "inside" and (top + cells > height or left + cells > width):
                continue
            inside = [
                int(saliency[i, j])
                for i in range(max(top, 0), min(top + cells, height))
                for j in range(max(left, 0), min(left + cells, width))
            ]
            scores.append(Fraction(int(sum(inside)), len(inside)))
    return scores


def by_loops(reference, other, uniform: float, length: int, tau: float, rule: Rule) -> tuple[bool, bool, float]:
    scores, others = regions(reference, length, rule), regions(other, length, rule)

    def allowed_places(scores: list[int]) -> list[int]:
        position = tau * (len(scores) - 1)
        if rule.keep == "low":
            threshold = sorted(scores)[math.floor(position)]
            return [i for i, score in enumerate(scores) if score <= threshold]
        threshold = sorted(scores)[math.ceil(position)]
        return [i for i, score in enumerate(scores) if score >= threshold]

    allowed, drawable = allowed_places(scores), allowed_places(others)
    expected, drawn = (places[int(uniform * len(places))] for places in (allowed, drawable))
    sign = 1 if rule.keep == "low" else -1
    beyond = [i for i, score in enumerate(scores) if i not in allowed and sign * score <= sign * scores[drawn]]
    return drawn == expected, drawn in allowed, len(beyond) / len(scores)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("tau", [0.37, 0.6])
def test_agreement_against_loops(rule: Rule, tau: float) -> None:
    """Whole numbers, so that regions tie; some maps equal, some nearly, some unrelated."""
    generator = torch.Generator().manual_seed(0)
    reference, change = (torch.randint(0, 9, (40, 8, 12), generator=generator) for _ in range(2))
    changed = torch.rand(40, 8, 12, generator=generator) < torch.linspace(0, 1, 40)[:, None, None]
    other = torch.where(changed, change, reference)
    uniforms = torch.rand(40, dtype=torch.float64, generator=generator)
    got = agreement(reference.float(), other.float(), uniforms, image_size=SIDES, length=6, tau=tau, rule=rule)
    expected = [
        by_loops(*maps, uniform, 6, tau, rule)
        for *maps, uniform in zip(reference, other, uniforms.tolist(), strict=True)
    ]
    assert list(zip(got.same.tolist(), got.allowed.tolist(), got.beyond.tolist(), strict=True)) == expected
    for found in (got.same, got.allowed):
        assert 3 < found.sum() < 40
    assert torch.equal(got.beyond > 0, ~got.allowed)


def test_a_factor_changes_nothing_and_the_opposite_map_nearly_all() -> None:
    reference = torch.rand(50, 8, 12, generator=torch.Generator().manual_seed(0))
    uniforms = torch.rand(50, dtype=torch.float64)
    for rule in RULES.values():

        def compared(other: torch.Tensor, rule: Rule = rule) -> Agreement:
            return agreement(reference, other, uniforms, image_size=SIDES, length=4, tau=0.6, rule=rule)

        assert compared(reference * 2.0**-60).same.all()
        assert compared(1 - reference).allowed.float().mean() < 0.5


@pytest.mark.parametrize(("count", "total"), [(0, 20), (20, 20), (993, 1000), (7, 9)])
def test_the_interval_is_wilsons(count: int, total: int) -> None:
    """E. B. Wilson (1927), by his formula."""
    allowed = torch.arange(total) < count
    z, share = NormalDist().inv_cdf(0.975), count / total
    centre, half = share + z * z / (2 * total), z * math.sqrt(share * (1 - share) / total + z * z / (4 * total**2))
    expected = [(centre + sign * half) / (1 + z * z / total) for sign in (-1, 1)]
    summary = summarise([Agreement(allowed, allowed, (~allowed).double())])
    assert summary["allowed_ci95"] == pytest.approx(expected, abs=1e-9)
    assert summary["allowed"] == share


def test_images_are_spread_evenly() -> None:
    assert spread_evenly(10, 4).tolist() == [0, 3, 6, 9]
    assert spread_evenly(3, 1000).tolist() == [0, 1, 2]
    assert spread_evenly(7, 1).tolist() == [0]


def test_the_program(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    options = ["--image-size", "32", "--batch-size", "24", "--epochs", "1", "--method", "keep_cutout"]
    assert program(["--data", str(shapes), "--out", str(run), *options]) == 0
    assert program(["precision", str(run), "--images", "10", "--json", str(tmp_path / "agreement.json")]) == 0
    result: dict[str, Any] = json.loads((tmp_path / "agreement.json").read_text())
    assert (result["images"], result["size"], result["scale"]) == (10, 16, 0.5)
    assert list(result["precisions"]) == list(PRECISIONS)
    for rows in result["precisions"].values():
        assert list(rows) == list(RULES)
        for row in rows.values():
            assert row["same"] <= row["allowed"]
            assert row["allowed_ci95"][0] <= row["allowed"] <= row["allowed_ci95"][1]
            assert (row["beyond_most"] is None) == (row["allowed"] == 1)
    assert "float16 weights    KeepPaste" in capsys.readouterr().out


def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert program(["precision", str(tmp_path)]) == 2
    assert "no such checkpoint" in capsys.readouterr().err
