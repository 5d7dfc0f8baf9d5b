"""Pointing game, energy, insertion and deletion: against loops over pixels, and against Quantus."""

import dataclasses
import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from train.analysis.evaluation import explanation
from train.analysis.evaluation.explanation import (
    STEPS,
    area,
    blurred,
    concentration,
    correlation,
    curve,
    energy_inside,
    object_masks,
    pointing_hits,
    ranks_of,
)  # fmt: skip
from train.analysis.evaluation.images import Sample

SIDE = 8


def some_maps() -> Tensor:
    maps = torch.rand(6, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    maps[3] = 0  # of a Grad-CAM without evidence
    maps[4] = maps[4].mul(3).floor()  # with ties
    return maps


def some_objects() -> Tensor:
    return torch.tensor(
        [[0, 0, 3, 8], [2.4, 1, 7.6, 7.25], [5, 5, 6, 6], [0, 0, 4, 4], [1, 2, 8, 8], [0, 0, 8, 8]], dtype=torch.float64
    )


def test_pointing_and_energy_against_loops() -> None:
    maps, objects = some_maps(), some_objects()
    masks = object_masks(objects, SIDE)
    hits, energies = pointing_hits(maps, masks), energy_inside(maps, masks)
    for number, (top, left, bottom, right) in enumerate(objects.tolist()):
        values = maps[number].double().tolist()
        greatest = max(map(max, values))
        cells = [(y, x) for y in range(SIDE) for x in range(SIDE)]
        inside = {(y, x) for y, x in cells if top <= y + 0.5 < bottom and left <= x + 0.5 < right}
        best = [cell for cell in cells if values[cell[0]][cell[1]] == greatest]
        assert hits[number].item() == pytest.approx(len(inside.intersection(best)) / len(best))
        total = sum(map(sum, values))
        within = sum(values[y][x] for y, x in inside)
        assert energies[number].item() == pytest.approx(within / total if total else len(inside) / SIDE**2)
    assert hits[3] == energies[3] == 0.25
    assert hits[5] == energies[5] == 1


def test_concentration_and_correlation_against_loops() -> None:
    maps = some_maps().double()
    others = maps.flip(0) + maps**2
    ginis, correlations = concentration(maps), correlation(maps, others)
    for number in range(6):
        values, other = maps[number].flatten().tolist(), others[number].flatten().tolist()
        mean = sum(values) / len(values)
        differences = sum(abs(a - b) for a in values for b in values) / len(values) ** 2
        assert ginis[number].item() == pytest.approx(differences / (2 * mean) if mean else 0)
        expected = np.corrcoef(values, other)[0, 1] if mean else 0
        assert correlations[number].item() == pytest.approx(expected)
    one = torch.zeros(1, SIDE, SIDE)
    one[0, 2, 3] = 5
    assert concentration(one).item() == pytest.approx(1 - 1 / SIDE**2)
    assert correlation(one, one).item() == pytest.approx(1)


def network(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(channels, 5, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 4)
    model = nn.Sequential(*layers).requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.mul_(3)
    return model


LABELS = torch.tensor([0, 1, 2, 3, 1, 2])


def test_curves_against_replacing_pixel_by_pixel() -> None:
    maps, model = some_maps(), network()
    first, last = (torch.randn(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    found = curve(model, first, last, ranks_of(maps), LABELS)
    areas = area(found)
    for number in range(6):
        values = maps[number].flatten().tolist()
        order = sorted(range(SIDE**2), key=lambda place: (-values[place], place))
        image, expected = first[number].clone(), []
        for step in range(STEPS + 1):
            for place in order[: round(step * SIDE**2 / STEPS)]:
                image[:, place // SIDE, place % SIDE] = last[number, :, place // SIDE, place % SIDE]
            expected.append(model(image[None]).double().softmax(1)[0, LABELS[number]].item())
        assert found[number].tolist() == pytest.approx(expected, abs=1e-5)
        trapezia = sum((a + b) / 2 for a, b in itertools.pairwise(expected)) / STEPS
        assert areas[number].item() == pytest.approx(trapezia, abs=1e-5)


def test_against_quantus() -> None:
    """Quantus flips values, not pixels: of images with one channel that is the same. It leaves out the image itself."""
    quantus = pytest.importorskip("quantus")
    maps = some_maps()[[0, 1, 2, 5]].clamp(min=1e-3)
    objects, labels = some_objects()[[0, 1, 2, 5]], LABELS[[0, 1, 2, 5]]
    model = network(channels=1)
    images = torch.randn(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    masks = object_masks(objects, SIDE)
    given = {
        "model": model, "x_batch": images.numpy(), "y_batch": labels.numpy(), "a_batch": maps[:, None].numpy(),
        "s_batch": masks[:, None].numpy(), "channel_first": True, "softmax": True, "device": "cpu",
    }  # fmt: skip
    quiet: dict[str, Any] = {"normalise": False, "abs": False, "disable_warnings": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flipped = quantus.PixelFlipping(features_in_step=SIDE**2 // STEPS, perturb_baseline=0.0, **quiet)(**given)
        pointed = quantus.PointingGame(**quiet)(**given)
        sparse = quantus.Sparseness(**quiet)(**given)
        mass = quantus.RelevanceMassAccuracy(**quiet)(**given)
    ours = curve(model, images, torch.zeros_like(images), ranks_of(maps), labels)
    np.testing.assert_allclose(ours[:, 1:].numpy(), np.array(flipped), rtol=1e-5)
    assert concentration(maps).tolist() == pytest.approx([float(value) for value in sparse], abs=1e-5)
    assert pointing_hits(maps, masks).tolist() == [float(hit) for hit in pointed]
    assert energy_inside(maps, masks).tolist() == pytest.approx([float(share) for share in mass], rel=1e-5)


def test_the_blur_leaves_no_detail_and_keeps_a_plain_image() -> None:
    image = torch.zeros(1, 3, 20, 20)
    image[..., ::2, :] = 1
    assert (blurred(image) - 0.5).abs().max() < 0.02
    torch.testing.assert_close(blurred(torch.full((1, 3, 20, 20), 0.7)), torch.full((1, 3, 20, 20), 0.7))


class Run:
    run, side = "runs/x", SIDE

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def normalised(self, images: Tensor) -> Tensor:
        return images / 255 - 0.5


def test_methods_controls_and_what_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randint(0, 256, (6, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    objects = some_objects()
    objects[2] = torch.tensor([3.0, 3.0, 3.0, 3.0])  # out of view
    sample = Sample(pixels, LABELS, np.arange(6), objects)
    result = explanation.measure(Run(network()), sample, 0)  # type: ignore[arg-type]
    names = ["gradient", "smoothgrad", "guided", "deconvnet", "grad_cam", "fine_grained", "random", "centre"]
    assert list(result["methods"]) == names
    assert (result["images"], result["objects"], result["unsupported"]) == (6, 5, {})
    monkeypatch.setattr("train.analysis.evaluation.images.BATCH", 4)
    parts = explanation.measure(Run(network()), sample, 0)  # type: ignore[arg-type]
    for name in ("gradient", "grad_cam", "centre"):  # without random numbers: the same in any batches
        whole, split = result["methods"][name], parts["methods"][name]
        assert split["insertion_curve"] == pytest.approx(whole["insertion_curve"], abs=1e-5)
        assert (split["pointing"], split["energy"]) == pytest.approx((whole["pointing"], whole["energy"]), abs=1e-5)
    stable = {name: found["stability"] for name, found in result["methods"].items()}
    assert stable["centre"] == pytest.approx(1)
    assert abs(stable["random"]) < 0.2 < stable["gradient"] < 1
    assert result["methods"]["random"]["concentration"] == pytest.approx(1 / 3, abs=0.05)  # of a uniform distribution
    ends = [(m["insertion_curve"][-1], m["deletion_curve"][0]) for m in result["methods"].values()]
    assert all(end == pytest.approx(ends[0], abs=1e-6) for end in ends)
    assert ends[0][0] == pytest.approx(ends[0][1], abs=1e-6)  # both are the image itself
    unknown = dataclasses.replace(sample, objects=None)
    smooth = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
    )
    bare = explanation.measure(Run(smooth.eval()), unknown, 0)  # type: ignore[arg-type]
    assert list(bare["unsupported"]) == ["guided", "deconvnet"]
    assert "needs a model that uses ReLU" in bare["unsupported"]["guided"]
    assert list(bare["methods"]) == [name for name in names if name not in bare["unsupported"]]
    assert bare["methods"]["gradient"]["pointing"] is None
    assert len(explanation.rows(bare)) == len(explanation.rows(result)) == 6 * len(names)
