"""The share of the object's box, against loops over pixels; the boxes' way through the resize; the program."""

import dataclasses
import json
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from train.__main__ import main as program
from train.analysis.boxes import read_boxes, upright_size, with_boxes, with_objects
from train.analysis.coverage import box_shares
from train.analysis.trained import Trained
from train.config import Config
from train.data.loaders import validation_images
from train.errors import UserError


def test_shares_against_counting_pixels() -> None:
    generator = np.random.default_rng(0)

    def boxes(count: int) -> np.ndarray:
        corners = np.sort(generator.integers(0, 20, (count, 2, 2)), axis=1)
        corners[:, 1] += 1
        return corners.reshape(count, 4)

    regions, objects = boxes(200), boxes(200)
    expected = []
    for region, thing in zip(regions, objects, strict=True):
        inside = total = 0
        for y in range(thing[0], thing[2]):
            for x in range(thing[1], thing[3]):
                total += 1
                inside += region[0] <= y < region[2] and region[1] <= x < region[3]
        expected.append(inside / total)
    assert 0 in expected
    assert 1 in expected
    shares = box_shares(torch.from_numpy(regions), torch.from_numpy(objects))
    assert shares.tolist() == pytest.approx(expected)


def network_for(side: int, data: Path) -> Trained:
    """A run on images of a folder, of `side` pixels, without a normalisation."""
    config = Config(data=str(data), image_size=side, device="cpu", workers=1)
    zero = torch.zeros(3, 1, 1)
    resolved = config.resolved(side=side, embedded=False, cifar=False)
    return Trained(resolved, ["a"], torch.nn.Identity(), zero, zero + 1, torch.device("cpu"))


def folder_of(images: dict[str, tuple[Image.Image, tuple[int, int, int, int]]], folder: Path) -> Path:
    """Write validation images of one class, and the table of their boxes: x0, y0, x1, y1, inclusive."""
    for part in ("train", "val"):
        (folder / part / "a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "train" / "a" / "x.png")
    lines = ["path\tx0\ty0\tx1\ty1"]
    for name, (image, box) in images.items():
        image.save(folder / "val" / "a" / name, exif=image.getexif())
        lines.append("\t".join(map(str, (f"val/a/{name}", *box))))
    (folder / "boxes.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("side", [96, 160])  # from 128 pixels on, validation resizes to more than it keeps
def test_the_box_goes_with_its_object_through_the_resize(side: int, tmp_path: Path) -> None:
    """Oracle: paint the box white on black, and look where it is in what the network sees. Files may be on their side
    or head."""
    images = {}
    for number, (width, height, turns) in enumerate(
        [(64, 64, 0), (90, 60, 0), (60, 90, 0), (48, 200, 0), (90, 60, 1), (60, 90, 2)]
    ):
        y0, x0, y1, x1 = height // 2 - 9, width // 2 - 13, height // 2 + 12, width // 2 + 10
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[y0:y1, x0:x1] = 255
        image = Image.fromarray(np.rot90(pixels, turns))
        # To be turned by a quarter, clockwise, so many times.
        image.getexif()[ExifTags.Base.Orientation] = (1, 6, 3)[turns]
        images[f"{number}.png"] = image, (x0, y0, x1 - 1, y1 - 1)
    data = folder_of(images, tmp_path)
    assert upright_size(str(data / "val" / "a" / "4.png")) == (90, 60)
    dataset = validation_images(Config(data=str(data)))
    known = with_boxes(dataset, data / "boxes.tsv")
    assert known.tolist() == list(range(6))
    ((places, seen, labels, objects),) = with_objects(network_for(side, data), dataset, data / "boxes.tsv", known[::-1])
    assert places.tolist() == [5, 4, 3, 2, 1, 0]
    assert seen.shape == (6, 3, side, side)
    assert labels.tolist() == [0] * 6
    for image, box in zip(seen, objects, strict=True):
        rows, columns = np.nonzero(image[0].numpy() > 0.5)
        found = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        assert box.tolist() == pytest.approx(found, abs=1.5)


def test_an_object_outside_of_the_central_crop_is_left_out(tmp_path: Path) -> None:
    grey = Image.new("RGB", (200, 50))
    data = folder_of({"out.png": (grey, (0, 0, 19, 49)), "in.png": (grey, (90, 0, 109, 49))}, tmp_path)
    dataset = validation_images(Config(data=str(data)))
    names = [Path(dataset.name(int(place))).name for place in with_boxes(dataset, data / "boxes.tsv")]
    ((places, _, _, objects),) = with_objects(network_for(50, data), dataset, data / "boxes.tsv", np.arange(2))
    assert [names[place] for place in places] == ["in.png"]
    assert objects.flatten().tolist() == pytest.approx([0, 15, 50, 35])


def test_an_image_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"x\.png: cannot decode the image: it is no image of a known format"):
        upright_size(str(tmp_path / "x.png"))
    with pytest.raises(UserError, match=r"y\.png: cannot decode the image: No such file"):
        upright_size(str(tmp_path / "y.png"))


def test_boxes_are_inclusive_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "boxes.tsv").write_text("path\tx0\ty0\tx1\ty1\nval/a/1.jpg\t3\t5\t7\t6\n")
    assert read_boxes(tmp_path / "boxes.tsv") == {"val/a/1.jpg": (5, 3, 7, 8)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "needs the tab-separated columns path, x0, y0, x1, y1; path is missing"),
        (b"path\tx0\n", "needs the tab-separated columns path, x0, y0, x1, y1; y0 is missing"),
        (b"path x0 y0 x1 y1\n", "path is missing"),
        (b"path\tx0\ty0\tx1\ty1\na\t0\t0\t1\t1\nb\t0\t0\t1\n", "line 3: needs a path and four whole numbers, x0"),
        (b"path\tx0\ty0\tx1\ty1\na\t0\t0\t1\t1.5\n", "line 2: .*'1.5'"),
        (b"path\tx0\ty0\tx1\ty1\na\t4\t0\t3\t1\n", "line 2: .*x0 <= x1 and y0 <= y1 from 0 on, got 4, 0, 3, 1"),
        (b"path\tx0\ty0\tx1\ty1\na\t-4\t0\t3\t1\n", "line 2: .*got -4, 0, 3, 1"),
        (b"path\tx0\ty0\tx1\ty1\n\xff\t0\t0\t1\t1\n", "can't decode byte 0xff"),
    ],
)
def test_a_table_without_boxes(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.tsv").write_bytes(content)
    with pytest.raises(UserError, match=f"bad.tsv.*{message}"):
        read_boxes(tmp_path / "bad.tsv")


def test_the_program(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    options = ["--image-size", "32", "--batch-size", "24", "--epochs", "1", "--method", "keep_cutout"]
    assert program(["--data", str(shapes), "--out", str(run), *options]) == 0
    assert (
        program(["coverage", str(run), "--images", "10", "--repeats", "3", "--json", str(tmp_path / "shares.json")])
        == 0
    )
    result: dict[str, Any] = json.loads((tmp_path / "shares.json").read_text())
    assert (result["images"], result["repeats"]) == (10, 3)
    for what in ("cut", "paste"):
        random, salient, difference = (result[what][k] for k in ("random", "salient", "difference"))
        assert 0 < random["mean"] < 1
        assert difference["mean"] == pytest.approx(salient["mean"] - random["mean"])
        low, high = difference["ci95"]
        assert high - low == pytest.approx(2 * NormalDist().inv_cdf(0.975) * difference["error"])
    text = capsys.readouterr().out
    assert "KeepCutout" in text
    assert "paired by image" in text


def test_images_elsewhere_are_refused_before_they_are_read(tmp_path: Path) -> None:
    data = folder_of({"x.png": (Image.new("RGB", (8, 8)), (0, 0, 3, 3))}, tmp_path)
    dataset = validation_images(Config(data=str(data)))
    reader = dataclasses.replace(dataset.reader, files=["s3://bucket/val/a/x.png"])  # type: ignore[type-var]
    dataset = dataclasses.replace(dataset, reader=reader)
    with pytest.raises(UserError, match="images with boxes are read on this machine only, not from s3://"):
        with_boxes(dataset, tmp_path / "none.tsv")


def test_objects_that_no_network_sees(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    options = ["--image-size", "32", "--batch-size", "24", "--epochs", "1", "--method", "none"]
    assert program(["--data", str(shapes), "--out", str(run), *options]) == 0
    first = min((shapes / "val").glob("*/*")).relative_to(shapes)
    table = tmp_path / "boxes.tsv"
    table.write_text(f"path\tx0\ty0\tx1\ty1\n{first}\t900\t900\t909\t909\n")
    for command in (["coverage", str(run)], ["picture", str(run), "--out", str(tmp_path / "a.png")]):
        assert program([*command, "--boxes", str(table)]) == 2
        assert "in the part of its image that the network sees" in capsys.readouterr().err


def test_a_folder_without_a_run_or_boxes(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert program(["coverage", str(tmp_path)]) == 2
    assert "no such checkpoint" in capsys.readouterr().err


def test_what_is_wrong_with_the_options_is_said_first(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert program(["coverage", str(tmp_path), "--json", str(tmp_path / "no" / "shares.json")]) == 2
    assert f"there is no folder {tmp_path / 'no'} to write it in" in capsys.readouterr().err
    for wrong in ("0", "1.5"):
        with pytest.raises(SystemExit):
            program(["coverage", str(tmp_path), "--repeats", wrong])
        assert f"argument --repeats: must be a whole number of at least 1; got {wrong}" in capsys.readouterr().err
