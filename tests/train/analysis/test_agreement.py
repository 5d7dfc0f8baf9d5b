"""The agreement of maps, by the loss itself and by a network whose maps are known; the program."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dali_salaug import BoxDraw, Cutout, Draw, Method, Mixup, SaliencyConsistency
from dali_salaug.methods.mixup import MixupDraw
from train.__main__ import main as program
from train.analysis.agreement import compare, default_transformation
from train.config import Config
from train.models.registry import build_model

FLIP = torch.tensor([[[-1.0, 0, 16], [0, 1, 0]]])


def batch(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(count) % 4


def told(kind: str, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """The copies of six images, and what was done to them."""
    angle, one = torch.linspace(0.1, 0.9, 6), torch.ones(6)
    if kind == "turned":
        sin, cos = angle.sin(), angle.cos()
        rows = [torch.stack([cos, sin, -3 * one], 1), torch.stack([-sin, cos, 4 * one], 1)]
        return images.flip(3), {"matrices": torch.stack(rows, 1)}
    method: Method = Cutout(4)
    drawn: Draw = BoxDraw(torch.tensor([[0, 0, 3 + i, 8] for i in range(6)]))
    if kind == "mixup":
        method = Mixup(4)
        drawn = MixupDraw(torch.arange(6).roll(2), torch.stack([angle, 1 - angle], 1))
    return method.apply(images, drawn, None), {"method": method, "drawn": drawn}


def of_one(how: dict[str, Any], place: int) -> dict[str, Any]:
    one = slice(place, place + 1)
    if "matrices" in how:
        return {"matrices": how["matrices"][one]}
    return {"method": how["method"], "drawn": BoxDraw(how["drawn"].boxes[one])}


@pytest.mark.parametrize("kind", ["turned", "cutout", "mixup"])
def test_it_is_the_loss_of_each_image_and_its_copy(kind: str) -> None:
    """Given one image at a time; where two are mixed, the batch, whose mean it then is."""
    torch.manual_seed(0)
    model = build_model("small", 4, 16).eval()
    images, labels = batch()
    copies, how = told(kind, images)
    targets = how["method"].targets(labels, how["drawn"], (16, 16)) if kind == "mixup" else labels
    got = compare(model, images, copies, labels, targets, how)

    loss = SaliencyConsistency()
    with torch.no_grad():
        expected = loss(model, images, copies, labels, **how).saliency
        if kind != "mixup":
            parts = [
                loss(model, images[i, None], copies[i, None], labels[i, None], **of_one(how, i)).saliency
                for i in range(6)
            ]
            torch.testing.assert_close(got.own, torch.stack(parts))  # type: ignore[arg-type]
        if kind != "turned":
            torch.testing.assert_close(got.own.mean(), expected)
    assert (got.own > 0).all()
    of_copies = targets if kind != "mixup" else targets.argmax(1)
    assert got.transformed_hit.tolist() == (model(copies).argmax(1) == of_copies).tolist()
    assert got.clean_hit.tolist() == (model(images).argmax(1) == labels).tolist()


class OneMapPerClass(nn.Module):
    """Linear: the map of an image of class k is the largest |weight| over channels, whatever the image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bchw,kchw->bk", x, self.weight)


def test_unrelated_is_another_images() -> None:
    model = OneMapPerClass()
    images, labels = batch(4)
    maps = model.weight.detach().amax(1)
    low, high = (getattr(maps, end)((1, 2), keepdim=True) for end in ("amin", "amax"))
    unit = (maps - low) / (high - low)
    got = compare(model, images, images.flip(3), labels, labels, {"matrices": FLIP.expand(4, 2, 3)})
    torch.testing.assert_close(got.own, (unit - unit.flip(2)).square().mean((1, 2)))
    torch.testing.assert_close(got.unrelated, (unit.roll(1, 0) - unit.flip(2)).square().mean((1, 2)))
    same = compare(model, images, images, labels, labels, {"matrices": torch.eye(2, 3).expand(4, 2, 3)})
    assert same.own.abs().max() < 1e-10
    assert same.unrelated.min() > 0.01


@pytest.fixture(scope="module")
def trained(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without the loss."""
    run = tmp_path_factory.mktemp("trained")
    options = ["--image-size", "32", "--batch-size", "24", "--epochs", "1", "--method", "none"]
    assert program(["--data", str(shapes), "--out", str(run), *options]) == 0
    return run


@pytest.mark.parametrize(
    ("options", "method", "policy"),
    [
        (["--policy", "affine"], "randaugment", "affine"),
        ([], "randaugment", "flips_rotation"),
        (["--method", "cutout"], "cutout", None),
        (["--method", "cutmix"], "cutmix", None),
        (["--method", "keep_cutout", "--images", "9"], "keep_cutout", None),
    ],
)
def test_the_program(
    options: list[str], method: str, policy: str | None, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    results: list[dict[str, Any]] = []
    for name in ("first", "again"):
        assert program(["agreement", str(trained), *options, "--json", str(tmp_path / name)]) == 0
        results.append(json.loads((tmp_path / name).read_text()))
    result = results[0]
    assert results[1] == result, "the same images and transformations"
    assert (result["method"], result["policy"]) == (method, policy)
    assert result["images"] == (9 if "--images" in options else 16)
    assert 0 < result["own"]["mean"] < 1
    assert result["own"]["error"] > 0
    if "--images" not in options:
        top1 = json.loads((trained / "log.jsonl").read_text())["val_top1"]
        assert 100 * result["clean_hit"]["mean"] == pytest.approx(top1)
    text = capsys.readouterr().out
    assert f"images, transformed by {policy or method};" in text
    assert f"{result['own']['mean']:.5f} ± {result['own']['error']:.5f}" in text


@pytest.mark.parametrize(
    ("method", "policy", "expected"),
    [
        ("cutout", None, {}),
        ("autoaugment", "simclr", {}),
        ("none", None, {"method": "randaugment", "policy": "flips_rotation"}),
        ("keep_randaugment", "randaugment", {"method": "randaugment", "policy": "randaugment"}),
        ("keep_autoaugment", "affine", {"method": "randaugment", "policy": "affine"}),
        ("keep_augmix", "augmix", {"method": "randaugment", "policy": "flips_rotation"}),
        ("augmix", "augmix", {"method": "randaugment", "policy": "flips_rotation"}),
    ],
)
def test_the_transformation_without_an_option(method: str, policy: str | None, expected: dict[str, str]) -> None:
    assert default_transformation(Config(method=method, policy=policy)) == expected


def test_another_seed_draws_others(trained: Path, tmp_path: Path) -> None:
    for seed in "01":
        assert (
            program(["agreement", str(trained), "--method", "cutout", "--seed", seed, "--json", str(tmp_path / seed)])
            == 0
        )
    assert (tmp_path / "0").read_text() != (tmp_path / "1").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "keep_randaugment"], "the agreement needs a method that"),
        (["--method", "magic"], "--method must be one of none, "),
        (["--policy", "augmix"], "a mixture of several images"),
    ],
)
def test_what_cannot_be_measured(
    options: list[str], message: str, trained: Path, capsys: pytest.CaptureFixture
) -> None:
    assert program(["agreement", str(trained), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_semi_supervised_run_and_a_single_image(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--labels", "16", "--unlabelled-ratio", "2", "--epochs", "1", "--image-size", "16", "--batch-size", "8"]
    run = str(tmp_path / "run")
    assert program(["semi", "--data", str(shapes), "--out", run, *options, "--device", "cpu"]) == 0
    assert program(["agreement", run, "--policy", "affine", "--images", "8"]) == 0
    assert program(["show", run, "--method", "keep_cutout", "--out", str(tmp_path / "sheet.png")]) == 0
    assert program(["picture", run, "--count", "2", "--draws", "1", "--out", str(tmp_path / "picture.png")]) == 0
    for folder in (shapes / "train").iterdir():
        (tmp_path / "one" / "train" / folder.name).mkdir(parents=True)
        shutil.copy(min(folder.iterdir()), tmp_path / "one" / "train" / folder.name)
    shutil.copytree(tmp_path / "one" / "train" / "disc", tmp_path / "one" / "val" / "disc")
    capsys.readouterr()
    assert program(["agreement", run, "--policy", "affine", "--data", str(tmp_path / "one")]) == 2
    assert "has one image; the agreement needs two" in capsys.readouterr().err


def test_a_run_with_the_loss_is_measured_by_its_own_policy(shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--image-size", "32", "--batch-size", "24", "--epochs", "1", "--consistency", "1", "1", "1"]
    options += ["--consistency-layers", "3", "--consistency-scale", "0.5", "--method", "randaugment"]
    assert program(["--data", str(shapes), "--out", str(run), *options, "--policy", "affine"]) == 0
    assert program(["agreement", str(run / "last.pt"), "--json", str(tmp_path / "own")]) == 0
    assert json.loads((tmp_path / "own").read_text())["policy"] == "affine"
    assert program(["show", str(run), "--method", "keep_cutout", "--out", str(tmp_path / "sheet.png")]) == 0
    with pytest.raises(SystemExit):
        program(["agreement", str(run), "--images", "1"])
