"""The benchmark's program on a tiny folder: what it prints, and that both sides do the same work."""

import json
from pathlib import Path

import pytest
import torch

from pipelines import image_loader
from train.benchmark import TorchvisionImages, images_per_second, main


def test_prints_the_ratio_and_writes_json(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--data", str(shapes), "--image-size", "32", "--batch-size", "8", "--repeats", "2", "--workers", "1"]
    path = tmp_path / "speed.json"
    assert main(["loader", *options, "--batches", "4", "--policy", "randaugment", "--json", str(path)]) == 0
    text = capsys.readouterr().out
    result = json.loads(path.read_text())
    assert f"ratio        median {result['ratio']['median']:8.2f}" in text
    for a, b, ratio in zip(*(result[k]["runs"] for k in ("dali", "torchvision", "ratio")), strict=True):
        assert ratio == pytest.approx(a / b)
    assert result["environment"]["torch"] == torch.__version__
    assert result["settings"]["workers"] == 1


@pytest.mark.parametrize("policy", ["none", "randaugment"])
def test_the_reference_gives_what_the_loader_gives(policy: str, shapes: Path) -> None:
    name = None if policy == "none" else policy
    ours = image_loader(shapes, batch_size=8, image_size=32, policy=name, device="cpu")
    batch = next(iter(ours))
    views, label = TorchvisionImages(ours, 32, policy)[3]
    assert len(views) == (1 if batch.augmented is None else 2)
    for view in views:
        assert view.shape == batch.images.shape[1:]
        assert view.dtype == batch.images.dtype
        assert view.min() >= -2.2
        assert view.max() <= 2.7
    assert label == ours.dataset.labels[3]


def test_speed_is_counted_after_what_was_made_ahead() -> None:
    taken = []
    batches = (taken.append(i) or i for i in range(100))
    assert images_per_second(batches, 10, 4) > 0
    assert len(taken) == 15


def test_too_few_images_for_a_batch(shapes: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["loader", "--data", str(shapes), "--batch-size", "500", "--repeats", "1"]) == 2
    assert "do not fill a batch" in capsys.readouterr().err


def test_the_stage_beside_a_step(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "stage.json"
    options = ["--model", "small", "--image-size", "32", "--batch-size", "4", "--repeats", "2", "--device", "cpu"]
    assert main(["stage", *options, "--json", str(path)]) == 0
    text, result = capsys.readouterr().out, json.loads(path.read_text())
    assert set(result["parts"]) == set(result["shares"])
    for name, shares in result["shares"].items():
        assert len(shares) == len(result["step"]) == 2
        for share, part, step in zip(shares, result["parts"][name], result["step"], strict=True):
            assert share == pytest.approx(part / step)
        assert f"\n{name:<20}" in text
    maps = result["arithmetic"]
    assert maps["map, both"] < maps["map, low resolution"] < maps["map, early head"] < maps["map, full"]
    assert maps["map, full"] == pytest.approx(2 / 3, abs=0.02)
    assert maps["map, low resolution"] == pytest.approx(maps["map, full"] / 4, rel=0.05)  # the linear layer stays
    memory = result["memory"]
    assert memory["step"] > 4 * 16 * 32 * 32 * 4  # the first layer's output alone
    assert memory["step"] < memory["stage and step"] < 1.1 * memory["step"]
