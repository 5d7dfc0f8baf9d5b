"""The benchmark's program on a tiny folder: what it prints, and that both sides do the same work."""

import json
from pathlib import Path

import pytest
import torch

from dali_salaug import SaliencyConsistency
from pipelines import image_loader
from train.benchmark import TorchvisionImages, images_per_second, main
from train.consistency_benchmark import NAIVE, PLAIN, naive_loss
from train.models import build_model


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


def test_the_consistency_loss_beside_a_step(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "consistency.json"
    options = ["--model", "small", "--image-size", "32", "--batch-size", "4", "--repeats", "2", "--device", "cpu"]
    assert main(["consistency", *options, "--json", str(path)]) == 0
    text, result = capsys.readouterr().out, json.loads(path.read_text())
    assert list(result["steps"]) == list(result["times"]) == list(result["memory"])
    assert list(result["steps"])[::5] == [PLAIN, NAIVE]
    for name, times in result["times"].items():
        for time, step, plain in zip(times, result["steps"][name], result["steps"][PLAIN], strict=True):
            assert time == pytest.approx(step / plain)
        assert f"\n{name:<35} " in text
    memory = result["memory"]
    assert memory[PLAIN] > 8 * 16 * 32 * 32 * 4  # the first layer's output alone, of both halves
    assert memory[PLAIN] < memory["saliency, half resolution"] < memory["saliency"]
    assert "resnet50 7.01" in text


def test_what_it_is_measured_beside_is_the_same_loss() -> None:
    """The value, and each weight's gradient."""
    torch.manual_seed(0)
    model = build_model("small", 10, 16).double()
    images, labels = torch.randn(4, 3, 16, 16, dtype=torch.float64), torch.arange(4)
    matrices = torch.tensor([[-1.0, 0, 16], [0, 1, 0]]).expand(4, 2, 3)
    data = (images, images.flip(3) + 0.1, labels)
    expected = naive_loss(model, *data, matrices)
    expected.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    got = SaliencyConsistency()(model, *data, matrices=matrices).total
    got.backward()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close([p.grad for p in model.parameters()], gradients, rtol=1e-6, atol=1e-9)
