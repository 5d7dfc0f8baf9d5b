"""What the cheaper maps choose: against loops over all regions, boxes against painted ones; the program."""

import json
import math
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from dali_salaug import saliency_map
from train.__main__ import main as program
from train.analysis.boxes import objects_of
from train.analysis.history import load_history, whole_images
from train.analysis.precision import RULES, Rule
from train.analysis.prices import admitted_too, box_shares, maps_of, regions_of
from train.config import Config
from train.data.loaders import make_loader, resolve_for_data
from train.engine import checkpoint

SIDE, LENGTH, TAU = 12, 4, 0.6


def boxes_of(cells: int, rule: Rule) -> list[tuple[int, int, int, int]]:
    """All squares of a map of so many cells a side, row by row: top, left, bottom, right in pixels, not clipped."""
    step, places = SIDE // cells, range(cells)
    if rule.border == "inside":
        places = range(cells - LENGTH // step + 1)
    before = LENGTH // 2 if rule.border == "clip" else 0
    starts = [place * step - before for place in places]
    return [(top, left, top + LENGTH, left + LENGTH) for top in starts for left in starts]


def admitted_boxes(saliency: torch.Tensor, rule: Rule) -> list[tuple[int, int, int, int]]:
    """Those of a map with whole numbers that pass the threshold, by loops over its cells."""
    cells, boxes, scores = len(saliency), boxes_of(len(saliency), rule), []
    step = SIDE // cells
    for top, left, bottom, right in boxes:
        inside = [
            int(saliency[i, j])
            for i in range(cells)
            for j in range(cells)
            if top <= i * step < bottom and left <= j * step < right
        ]
        scores.append(Fraction(sum(inside), len(inside)))
    position = TAU * (len(scores) - 1)
    if rule.keep == "low":
        threshold = sorted(scores)[math.floor(position)]
        return [box for box, score in zip(boxes, scores, strict=True) if score <= threshold]
    threshold = sorted(scores)[math.ceil(position)]
    return [box for box, score in zip(boxes, scores, strict=True) if score >= threshold]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("cells", [SIDE, SIDE // 2])
def test_regions_against_loops(rule: Rule, cells: int) -> None:
    generator = torch.Generator().manual_seed(0)
    full = torch.randint(9, (5, SIDE, SIDE), generator=generator).float()
    maps = torch.randint(9, (5, cells, cells), generator=generator).float()
    maps[4] = 1  # which admits all
    objects = torch.tensor([[0, 0, 3, 12], [2.5, 1, 9, 7.25], [5, 5, 6, 6], [0, 0, 12, 12], [9, 10, 12, 12]])
    regions = regions_of(maps, SIDE, LENGTH, TAU, rule)
    shares = admitted_too(regions, regions_of(full, SIDE, LENGTH, TAU, rule))
    covered = box_shares(regions, objects)
    for image in range(5):
        allowed, chosen = admitted_boxes(full[image], rule), admitted_boxes(maps[image], rule)
        assert shares[image].item() == pytest.approx(sum(box in allowed for box in chosen) / len(chosen))
        y0, x0, y1, x1 = objects[image].tolist()
        each = []
        for top, left, bottom, right in chosen:
            height = max(0.0, min(bottom, SIDE, y1) - max(top, 0, y0))
            width = max(0.0, min(right, SIDE, x1) - max(left, 0, x0))
            each.append(height * width / ((y1 - y0) * (x1 - x0)))
        assert covered[image].item() == pytest.approx(sum(each) / len(each))


def test_boxes_are_where_the_loader_puts_the_object(tmp_path: Path) -> None:
    """Oracle: paint the box white on black, and look where it is in the loader's image. The last file is turned."""
    table = ["path\tx0\ty0\tx1\ty1"]
    for number, (width, height) in enumerate([(64, 64), (90, 60), (60, 90), (90, 60)]):
        path = tmp_path / "data" / "train" / "a" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        y0, x0, y1, x1 = height // 2 - 9, width // 2 - 13, height // 2 + 12, width // 2 + 10
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[y0:y1, x0:x1] = 255
        exif = Image.Exif()
        if number == 3:
            exif[ExifTags.Base.Orientation] = 8  # to be turned by a quarter, anticlockwise
            pixels = np.rot90(pixels, -1)
        Image.fromarray(pixels).save(path, exif=exif)
        table.append(f"train/a/{number}.png\t{x0}\t{y0}\t{x1 - 1}\t{y1 - 1}")
    Image.new("RGB", (20, 20)).save(path.parent / "without.png")
    (tmp_path / "data" / "boxes.tsv").write_text("\n".join(table) + "\n")
    config = resolve_for_data(Config(data=str(tmp_path / "data"), image_size=48, device="cpu", batch_size=5))
    training = make_loader(config, train=True).dataset
    loader = make_loader(config, train=False, dataset=training, with_views=True, mean=(0.0,) * 3, std=(1.0,) * 3)
    (batch,) = loader
    objects = objects_of(training, None, batch, 48)
    assert objects is not None
    for image, box in zip(batch.images[:4], objects[:4], strict=True):
        rows, columns = np.nonzero(image[0].numpy() > 0.5)
        assert box.tolist() == pytest.approx([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1], abs=1)
    assert objects[4].tolist() == [0, 0, 0, 0]
    (tmp_path / "data" / "boxes.tsv").unlink()
    assert objects_of(training, None, batch, 48) is None


def prices(run: Path, folder: Path) -> list[dict[str, Any]]:
    assert program(["prices", str(run), "--images", "4", "--json", str(folder / "b.json")]) == 0
    return json.loads((folder / "b.json").read_text())["rows"]


def test_the_program(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    options = ["--image-size", "16", "--batch-size", "16", "--epochs", "3", "--region-size", "6", "--keep-every", "2"]
    options += ["--method", "keep_cutout", "--saliency", "memory", "--memory-grid", "7", "--memory-share", "1"]
    options += ["--memory-max-age", "9", "--train-images", "40", "--device", "cpu"]
    assert program(["--data", str(shapes), "--out", str(run), *options]) == 0
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["epoch-0002.pt"]
    state, last = checkpoint.load(run / "checkpoints" / "epoch-0002.pt"), checkpoint.load(run / "last.pt")
    assert (state["progress"]["epoch"], state.keys()) == (2, last.keys())
    assert last["objective"]["memory"]["maps"].shape == (40, 7, 7)

    assert (
        program(
            [
                "prices",
                str(run),
                "--images",
                "9",
                "--json",
                str(tmp_path / "a.json"),
                "--picture",
                str(tmp_path / "a.png"),
            ]
        )
        == 0
    )
    result: dict[str, Any] = json.loads((tmp_path / "a.json").read_text())
    assert (result["images"], result["boxes"], result["size"]) == (9, 9, 6)
    rows = {(row["map"], row["epoch"], row["age"]): row for row in result["rows"]}
    assert list(rows) == [
        ("full", 2, 0), ("flat", 2, 0), ("scaled", 2, 0), ("remembered", 2, 0),
        ("full", 3, 0), ("flat", 3, 0), ("scaled", 3, 0), ("remembered", 3, 0), ("remembered", 3, 1),
    ]  # fmt: skip
    assert rows["full", 3, 0]["cut"] == rows["full", 3, 0]["paste"] == 1
    assert rows["flat", 3, 0]["cut"] == pytest.approx(0.6, abs=0.05)
    assert rows["flat", 3, 0]["paste"] == pytest.approx(0.4, abs=0.05)
    assert rows["remembered", 3, 1]["cut"] != rows["remembered", 3, 0]["cut"]
    assert all(0 < row["cut_box"] < row["paste_box"] < 1 for row in result["rows"] if row["map"] == "flat")
    assert "remembered       3    1" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > picture.height
    state["progress"]["epoch"] = 1  # of a file that is not what its name says, the epoch counts
    checkpoint.save(state, run / "checkpoints" / "epoch-0002.pt")
    assert {row["epoch"] for row in prices(run, tmp_path)} == {1, 3}
    # Of another run; and images of which the memory knows nothing.
    checkpoint.save(state | {"config": state["config"] | {"seed": 5}}, run / "checkpoints" / "epoch-0001.pt")
    assert program(["prices", str(run)]) == 2
    assert "epoch-0001.pt: not a checkpoint of the run of" in capsys.readouterr().err
    (run / "checkpoints" / "epoch-0001.pt").unlink()
    checkpoint.save(last | {"config": last["config"] | {"train_images": None}}, run / "last.pt")
    shutil.rmtree(run / "checkpoints")
    assert program(["prices", str(run)]) == 2
    assert "the run remembers maps of 40 images, and" in capsys.readouterr().err
    checkpoint.save(state | {"objective": {"memory": {"maps": torch.zeros(3)}}}, run / "last.pt")
    assert program(["prices", str(run)]) == 2
    assert "last.pt: malformed checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["grad_cam", "smoothgrad"])
def test_the_maps_are_those_of_the_run(method: str, shapes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--image-size", "32", "--batch-size", "24", "--epochs", "1", "--method", "keep_cutout"]
    options += ["--saliency", method, "--saliency-target", "loss", "--device", "cpu"]
    assert program(["--data", str(shapes), "--out", str(run), *options]) == 0
    history = load_history(run)
    batch, places = next(whole_images(history, 4))
    (last,) = history.snapshots
    found = {name: maps for name, _, maps in maps_of(last, history, batch, places)}
    for name, scale in (("full", 1.0), ("scaled", 0.5)):
        noise = torch.Generator().manual_seed(0)
        how: dict[str, Any] = {"method": method, "target": "loss", "scale": scale, "generator": noise}
        torch.testing.assert_close(found[name], saliency_map(last.network.model, batch.images, batch.labels, **how))


def test_an_early_head_and_no_memory(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    options = ["--image-size", "16", "--batch-size", "24", "--epochs", "1", "--method", "keep_cutout"]
    options += ["--early-head", "auto", "--region-size", "6"]
    assert program(["--data", str(shapes), "--out", str(run), *options]) == 0
    assert not (run / "checkpoints").exists()
    assert program(["prices", str(run), "--images", "4", "--boxes", str(tmp_path / "none.tsv")]) == 2
    assert "no such file; pass --boxes" in capsys.readouterr().err
    (tmp_path / "others.tsv").write_text("path\tx0\ty0\tx1\ty1\nelsewhere/x.jpg\t3\t3\t9\t9\n")
    assert program(["prices", str(run), "--images", "4", "--boxes", str(tmp_path / "others.tsv")]) == 2
    assert "none of the images that are measured has its object in view" in capsys.readouterr().err
    assert [row["map"] for row in prices(run, tmp_path)] == ["full", "flat", "scaled", "early head"]
    assert program(["prices", str(tmp_path)]) == 2
    assert "no such checkpoint" in capsys.readouterr().err
