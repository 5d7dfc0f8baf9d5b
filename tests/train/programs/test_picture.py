"""The README's picture: its shares against loops over pixels, its cells and bars against the arrays, the program."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from train.__main__ import main as program
from train.analysis.boxes import read_boxes
from train.analysis.coverage import box_shares, measure
from train.analysis.trained import Trained, load_best
from train.config import Config
from train.data.shapes import SHAPES, SIDE
from train.engine import checkpoint
from train.models.registry import build_model
from train.programs import picture
from train.programs.picture import Examples, make_examples
from train.tasks.classification.stage import make_stage

COUNT, DRAWS = 3, 3


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the best.pt of a run without training, at the images' own size: boxes are whole pixels."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = Config(data=str(shapes), method="cutout", region_size=28, device="cpu", workers=1)
    state = {
        "config": config.resolved(side=SIDE, embedded=False, cifar=False).to_dict(),
        "classes": sorted(SHAPES),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
        "resize_to": SIDE,
    }
    checkpoint.save(state | {"model": build_model("small", len(SHAPES), SIDE).state_dict()}, folder / "best.pt")
    return folder


@pytest.fixture(scope="module")
def trained(run: Path) -> Trained:
    return load_best(run)


@pytest.fixture(scope="module")
def examples(trained: Trained, shapes: Path) -> Examples:
    return make_examples(trained, shapes / "boxes.tsv", count=COUNT, draws=DRAWS, seed=0)


def inside(box: torch.Tensor) -> np.ndarray:
    """Return the pixels of a box, (SIDE, SIDE) bool, by a loop."""
    top, left, bottom, right = box.tolist()
    return np.array([[top <= y < bottom and left <= x < right for x in range(SIDE)] for y in range(SIDE)])


def test_the_first_image_of_each_class(examples: Examples, shapes: Path) -> None:
    boxes = read_boxes(shapes / "boxes.tsv")
    assert examples.names == sorted(SHAPES)[:COUNT]
    assert examples.objects.tolist() == [list(boxes[f"val/{name}/0000.jpg"]) for name in examples.names]
    for name, pixels in zip(examples.names, examples.columns[0].pictures, strict=True):
        with Image.open(shapes / f"val/{name}/0000.jpg") as image:
            assert np.abs(np.asarray(image).astype(int) - pixels).max() <= 3  # two JPEG decoders, and a rounding


def test_pictures_and_shares_against_counting_pixels(examples: Examples) -> None:
    clean, saliency, cutout, keep_cutout, policy, keep_policy = examples.columns
    assert saliency.pictures.shape == (COUNT, SIDE // 2, SIDE // 2, 3)
    assert policy.shares.tolist() == [0] * COUNT
    fill = np.round(255 * np.array([0.5, 0.4, 0.3]))
    for row in range(COUNT):
        thing = inside(examples.objects[row])
        for column, pasted, outside in (
            (cutout, fill, clean.pictures[row]),
            (keep_cutout, fill, clean.pictures[row]),
            (keep_policy, clean.pictures[row], policy.pictures[row]),
        ):
            square = inside(column.regions[row])
            expected = np.where(square[:, :, None], pasted, outside)
            assert np.abs(expected - column.pictures[row]).max() <= 1
            left = thing & square if column is keep_policy else thing & ~square
            assert column.shares[row].item() == pytest.approx(left.sum() / thing.sum())


def test_the_seed_draws_squares_and_policy(examples: Examples, trained: Trained, shapes: Path) -> None:
    again, other = (
        make_examples(trained, shapes / "boxes.tsv", count=COUNT, draws=DRAWS, seed=seed) for seed in (0, 1)
    )
    for place in (2, 3, 4, 5):
        first = examples.columns[place].pictures
        assert np.array_equal(first, again.columns[place].pictures)
        assert not np.array_equal(first, other.columns[place].pictures)


def test_the_program(run: Path, examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["picture", str(run), "--count", str(COUNT), "--draws", str(DRAWS)]
    assert program(options) == 0
    assert program([*options, "--out", "again.png"]) == 0
    assert Path("picture.png").read_bytes() == Path("again.png").read_bytes()
    assert Path("picture.png").stat().st_size < 400_000
    with Image.open("picture.png") as image:
        pixels = np.asarray(image).astype(int)
    pitch = picture.SIDE + picture.CAPTION
    assert pixels.shape == (picture.HEADER + COUNT * pitch + picture.FOOTER, 1234, 3)
    assert picture.SIDE >= 160
    lefts = [10, 208, 422, 620, 834, 1032]
    means = measure(load_best(run), run, None, None, 100, DRAWS)
    overall = [1 - means["cut"]["random"]["mean"], 1 - means["cut"]["salient"]["mean"], 0]
    overall.append(means["paste"]["salient"]["mean"])
    for left, column, mean in zip(lefts[2:], examples.columns[2:], overall, strict=True):
        for row, share in enumerate([*column.shares.tolist(), mean]):
            bottom = picture.HEADER + row * pitch + (picture.SIDE if row < COUNT else 0)
            bar = pixels[bottom + 7, left : left + picture.SIDE]
            green = (np.abs(bar - [0x30, 0xA4, 0x50]).max(1) == 0).sum()
            assert green == pytest.approx(share * picture.SIDE, abs=0.51)
    for row in range(COUNT):  # of RandAugment, on which nothing is drawn
        top = picture.HEADER + row * pitch
        cell = pixels[top : top + picture.SIDE, lefts[4] : lefts[4] + picture.SIDE]
        own = Image.fromarray(examples.columns[4].pictures[row])
        expected = np.asarray(own.resize((picture.SIDE,) * 2, Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(cell - expected).max() <= 2


def test_the_square_with_the_median_share(trained: Trained, shapes: Path) -> None:
    one, three = (make_examples(trained, shapes / "boxes.tsv", count=COUNT, draws=draws, seed=0) for draws in (1, 3))
    stage = make_stage(trained.config, len(SHAPES), seed=0, warmup_epochs=0)
    images = torch.zeros(COUNT, 3, SIDE, SIDE)
    boxes = [stage.trace(trained.model, images, torch.zeros(COUNT, dtype=torch.int64)).boxes for _ in range(3)]
    shares = torch.stack([1 - box_shares(drawn, one.objects) for drawn in boxes if drawn is not None])
    assert one.columns[2].shares.tolist() == shares[0].tolist()
    assert three.columns[2].shares.tolist() == shares.sort(dim=0).values[1].tolist()


def test_another_map(trained: Trained, shapes: Path) -> None:
    config = dataclasses.replace(trained.config, saliency="grad_cam", saliency_scale=1.0)
    given = trained._replace(config=config)
    shown = make_examples(given, shapes / "boxes.tsv", count=1, draws=1, seed=0).columns[1].pictures
    assert shown.shape == (1, SIDE, SIDE, 3)


def test_images_without_a_box_are_left_out(trained: Trained, shapes: Path, tmp_path: Path) -> None:
    lines = (shapes / "boxes.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "some.tsv").write_text("".join(line for line in lines if "/cross/" not in line))
    names = make_examples(trained, tmp_path / "some.tsv", count=2, draws=1, seed=0).names
    assert names == ["crescent", "disc"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["empty"], "empty/best.pt: no such checkpoint"),
        (["other.pt"], "other.pt: not a checkpoint of a run"),
        (["RUN", "--out", "a.jpg"], "--out must end in .png; got a.jpg"),
        (["RUN", "--out", "no/a.png"], "there is no folder"),
        (["RUN", "--saliency-scale", "2"], "--saliency-scale must be in [0, 1]; got 2.0"),
        (["RUN", "--boxes", "none.tsv"], "none.tsv: no such file; pass --boxes"),
        (["RUN", "--boxes", "others.tsv"], "others.tsv: has none of the validation images"),
    ],
)
def test_errors(
    options: list[str],
    message: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("others.tsv").write_text("path\tx0\ty0\tx1\ty1\nval/cat/1.jpg\t3\t5\t7\t6\n")
    checkpoint.save({"model": {}}, Path("other.pt"))
    assert program(["picture", *(str(run) if option == "RUN" else option for option in options)]) == 2
    assert message in capsys.readouterr().err
