"""The benchmarks on tiny data: what they print and write, and that all sides of a comparison do the same work."""

import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dali_salaug import SaliencyConsistency
from pipelines import image_loader
from train.__main__ import main as program
from train.benchmarks.consistency import NAIVE, PLAIN, naive_loss
from train.benchmarks.growth import off_the_line
from train.benchmarks.loader import images_per_second
from train.benchmarks.references import FORMS, TorchvisionImages
from train.benchmarks.step import PARTS, parts_of, read_trace
from train.models.registry import build_model


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10's files with 5 × 8 and 8 random images."""
    root = tmp_path_factory.mktemp("cifar")
    generator = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        pixels = generator.integers(0, 256, (8, 3072), dtype=np.uint8)
        (root / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": list(range(8))}))
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": [f"{i}".encode() for i in range(10)]}))
    return root


def test_the_loader_beside_both_forms_of_torchvision(
    cifar: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ["--data", str(cifar), "--batch-size", "8", "--repeats", "2", "--workers", "1", "--batches", "4"]
    path = tmp_path / "speed.json"
    assert program(["benchmark", "loader", *options, "--policies", "none", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    row = report["policies"]["none"]
    assert row["reference"] == max(("Pillow", "tensors"), key=lambda form: row[form]["median"])
    for a, b, ratio in zip(*(row[k]["runs"] for k in ("dali", row["reference"], "ratio")), strict=True):
        assert ratio == pytest.approx(a / b)
    assert f"{row['ratio']['median']:.2f} (" in capsys.readouterr().out
    assert report["environment"]["torch"] == torch.__version__
    assert report["settings"]["workers"] == 1
    assert report["command"].startswith(f"python -m train benchmark loader --data {cifar}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("policy", ["none", "randaugment"])
@pytest.mark.parametrize("layout", ["shapes", "cifar"])
def test_the_reference_gives_what_the_loader_gives(
    layout: str, policy: str, form: str, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue(layout)
    ours = image_loader(root, batch_size=8, image_size=32, policy=None if policy == "none" else policy, device="cpu")
    batch = next(iter(ours))
    views, label = TorchvisionImages(ours, 32, policy, form)[3]
    assert len(views) == (1 if batch.augmented is None else 2)
    for view in views:
        assert view.shape == batch.images.shape[1:]
        assert view.dtype == batch.images.dtype
        assert view.min() >= -2.2
        assert view.max() <= 2.7
        assert view.std() > 0.1
    assert label == ours.dataset.labels[3]


def test_speed_is_counted_after_what_was_made_ahead() -> None:
    taken = []
    batches = (taken.append(i) or i for i in range(100))
    assert images_per_second(batches, 10, 4) > 0
    assert len(taken) == 15


def test_too_few_images_for_a_batch(shapes: Path, capsys: pytest.CaptureFixture) -> None:
    assert program(["benchmark", "loader", "--data", str(shapes), "--batch-size", "500", "--image-size", "32"]) == 2
    assert "do not fill a batch" in capsys.readouterr().err


def test_the_stage_beside_a_step(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "stage.json"
    options = ["--model", "small", "--image-size", "32", "--batch-size", "4", "--repeats", "2", "--device", "cpu"]
    assert program(["benchmark", "stage", *options, "--json", str(path)]) == 0
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
    whole = result["whole"]
    prices = ["full", "low resolution", "early head", "both", "memory", "memory, first layer"]
    assert list(whole["steps"]) == list(whole["ratios"]) == prices
    assert len(whole["plain"]) == 2 * 7
    for number, name in enumerate(prices):
        for turn, ratio in enumerate(whole["ratios"][name]):
            place = 7 * turn + (number - turn) % 6  # each turn starts one price later
            around = whole["plain"][place] + whole["plain"][place + 1]
            assert ratio == pytest.approx(2 * whole["steps"][name][turn] / around)
        assert f"\n{name:<24}" in text
    ratio = (
        whole["steps"]["both"][0] / whole["plain"][3]
    )  # the first turn counts from its third, the fourth of its order
    assert ratio > 0


def test_the_graph_of_a_stage_needs_a_gpu(capsys: pytest.CaptureFixture) -> None:
    assert program(["benchmark", "stage", "--device", "cpu", "--cuda-graph", "keep_cutout"]) == 2
    assert "--cuda-graph needs a GPU; got --device cpu" in capsys.readouterr().err


@pytest.mark.gpu
def test_the_stage_by_a_graph(tmp_path: Path) -> None:
    options = ["--model", "small", "--image-size", "32", "--batch-size", "4", "--repeats", "2", "--device", "cuda"]
    names = ["--methods", "cutout", "--cuda-graph", "keep_cutout", "puzzlemix"]
    assert program(["benchmark", "stage", *options, *names, "--json", str(tmp_path / "stage.json")]) == 0
    parts = json.loads((tmp_path / "stage.json").read_text())["parts"]
    assert {"keep_cutout, stage", "keep_cutout, graph", "puzzlemix, stage", "puzzlemix, graph"} <= set(parts)


def test_the_consistency_loss_beside_a_step(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "consistency.json"
    options = ["--model", "small", "--image-size", "32", "--batch-size", "4", "--repeats", "2", "--device", "cpu"]
    assert program(["benchmark", "consistency", *options, "--json", str(path)]) == 0
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


def test_all_of_them_and_their_page(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "all"
    command = ["benchmark", "all", "--quick", "--data", str(shapes), "--device", "cpu", "--out", str(folder)]
    assert program(command) == 0
    report, page = json.loads((folder / "results.json").read_text()), (folder / "README.md").read_text()
    assert list(report["results"]) == ["loader", "stage", "consistency", "step", "growth"]
    assert report["command"] == "python -m train " + " ".join(command)
    assert f"- torch: {torch.__version__}" in page
    assert str(folder / "README.md") in capsys.readouterr().out
    for name, result in report["results"].items():
        assert f"]({name}.png)" in page
        assert (folder / f"{name}.png").stat().st_size > 5000
        assert result["took"] > 0

    step = report["results"]["step"]
    assert step["settings"]["method"] == "keep_randaugment"
    assert all(0 < wait < whole for wait, whole in zip(step["wait"], step["step"], strict=True))
    assert all(value > 0 for name in PARTS for value in step["parts"][name])
    events = read_trace(folder / step["trace"])
    whole = sorted(
        e["dur"] / 1e6 for e in events if e.get("cat") == "user_annotation" and e["name"].startswith("step ")
    )
    parts = sorted(map(sum, zip(*step["parts"].values(), strict=True)))
    # Of the parts nothing is missing: a step that another process interrupts between two of them is longer.
    assert max(part / all_of_it for part, all_of_it in zip(parts, whole, strict=True)) == pytest.approx(1, rel=0.2)

    [small, *_, large] = report["results"]["growth"]["growth"]["batch size"]
    assert large["memory"]["step"] > small["memory"]["step"]
    assert program(command) == 2
    assert "already exists" in capsys.readouterr().err


def test_a_step_is_that_of_training(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """One in two parts waits twice for the loader, and updates the weights once."""
    options = ["step", "--data", str(shapes), "--device", "cpu", "--workers", "1", "--trace", str(tmp_path / "t.json")]
    quick = ["--model", "small", "--image-size", "16", "--method", "none", "--steps", "2", "--traced", "2"]
    flags = ["--batch-size", "8", "--accumulate", "2", "--json", str(tmp_path / "step.json")]
    assert program(["benchmark", *options, *quick, *flags]) == 0
    result = json.loads((tmp_path / "step.json").read_text())
    assert result["batch_size"] == 8
    assert all(0 < wait < whole for wait, whole in zip(result["wait"], result["step"], strict=True))
    ranges = [e["name"] for e in read_trace(tmp_path / "t.json") if e.get("cat") == "user_annotation"]
    assert [ranges.count(name) for name in ("loader", "model", "optimizer")] == [4, 4, 2]
    capsys.readouterr()
    assert program(["benchmark", *options, *quick, "--batch-size", "5000"]) == 2
    assert "48 images do not fill a batch of 5000: choose a smaller --batch-size" in capsys.readouterr().err


def test_the_loader_is_compared_on_files_alone(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "0.cls").write_text("0")
    with tarfile.open(tmp_path / "train.tar", "w") as shard:
        shard.add(next((shapes / "train").rglob("*.jpg")), "0.jpg")
        shard.add(tmp_path / "0.cls", "0.cls")
    assert program(["benchmark", "loader", "--data", str(tmp_path)]) == 2
    assert f"CIFAR's pickles, which torchvision reads too; got {tmp_path}" in capsys.readouterr().err


def _range(name: str, start: int, length: int) -> dict[str, Any]:
    return {"name": name, "cat": "user_annotation", "ts": start, "dur": length}


def _kernel(number: int, launched: int, length: int, stream: int) -> list[dict[str, Any]]:
    return [
        {"name": "cudaLaunchKernel", "cat": "cuda_runtime", "ts": launched, "dur": 1, "args": {"correlation": number}},
        {"name": "k", "cat": "kernel", "ts": launched + 1000, "dur": length,
         "args": {"correlation": number, "stream": stream}},
    ]  # fmt: skip


def test_the_parts_of_a_trace() -> None:
    """The stage lies in the model's range; on a GPU what counts is the kernels launched in a part's time."""
    host = [
        _range("step 0", 0, 100), _range("loader", 0, 10), _range("model", 10, 70), _range("saliency", 12, 20),
        _range("compositing", 32, 5), _range("optimizer", 80, 15),
    ]  # fmt: skip
    parts = {name: round(1e6 * seconds) for name, [seconds] in parts_of(host).items()}
    assert parts == {"loader": 10, "saliency": 20, "compositing": 5, "model": 45, "optimizer": 15}
    kernels = _kernel(1, 15, 300, 7) + _kernel(2, 33, 40, 7) + _kernel(3, 50, 500, 7) + _kernel(4, 85, 60, 7)
    loaders = _kernel(5, 20, 90, 13)  # DALI's, at any time, on a stream of its own
    parts = {name: round(1e6 * seconds) for name, [seconds] in parts_of(host + kernels + loaders).items()}
    assert parts == {"loader": 10, "saliency": 300, "compositing": 40, "model": 500, "optimizer": 60}


def test_a_knee_is_off_the_line() -> None:
    pixels = (1, 2, 4, 8)
    rows = [{"pixels": n, "seconds": {"step": [5 + n, 5 + n, 0]}, "memory": {"step": n + 10 * (n > 4)}} for n in pixels]
    assert off_the_line(rows, "step", "seconds") == pytest.approx(0)
    assert off_the_line(rows, "step", "memory") > 0.2
