"""The program: two runs that differ in their seed, from training to the page; its errors; hostile names on the page."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from train.__main__ import main as program
from train.analysis.evaluation import accuracy, page
from train.analysis.evaluation.images import Sample, draw_sample, load_subject, whole_set
from train.analysis.evaluation.program import _seeing_the_same, rows_of, titles_of
from train.config.options import TASKS
from train.engine import checkpoint

TRAINING = ["--image-size", "32", "--batch-size", "16", "--epochs", "1", "--method", "none", "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs with seeds 0 and 1; the second is the first with other weights and another seed in its checkpoint."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "train.tasks.classification.task.write_figure",
            lambda *given, **_: Image.new("RGB", (1, 1)).save(given[-1]),
        )
        assert program(["--data", str(shapes), "--out", str(folder / "a"), *TRAINING]) == 0
    (folder / "b").mkdir()
    state = checkpoint.load(folder / "a" / "best.pt")
    weights = {name: value + 0.02 * torch.randn_like(value) if value.is_floating_point() else value
               for name, value in state["model"].items()}  # fmt: skip
    weights = {name: value.abs() if "running_var" in name else value for name, value in weights.items()}
    checkpoint.save(state | {"model": weights, "config": state["config"] | {"seed": 1}}, folder / "b" / "best.pt")
    return [folder / "a", folder / "b"]


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes to corrupt a few images."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})


class Reader(HTMLParser):
    """The tags, pictures and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text())
    return reader


def test_all_parts_of_two_seeds(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["--images", "8", "--corruption-images", "1", "--json", str(tmp_path / "a.json")]
    assert program(["evaluate", *map(str, runs), *options, "--out", str(tmp_path / "new" / "out")]) == 0
    out = capsys.readouterr().out
    report: dict[str, Any] = json.loads((tmp_path / "a.json").read_text())
    assert json.loads((tmp_path / "new" / "out" / "evaluation.json").read_text()) == report
    assert report["command"].endswith(
        " ".join(["evaluate", *map(str, runs), *options, "--out", str(tmp_path / "new/out")])
    )
    assert {"dali_salaug", "torch", "torchmetrics", "imagecorruptions-imaug"} <= report["versions"].keys()
    first, second = report["runs"]
    assert (first["title"], first["config"]["seed"], second["config"]["seed"]) == ("a", 0, 1)
    assert first["accuracy"]["images"] == sum(map(sum, first["accuracy"]["confusion"])) == 16
    assert (
        first["accuracy"]["top1"] == json.loads((runs[0] / "log.jsonl").read_text().splitlines()[-1])["val_top1"] / 100
    )
    assert (first["attacks"]["images"], first["occlusion"]["images"], first["corruptions"]["images"]) == (8, 8, 1)
    assert first["explanation"]["objects"] == 8
    (group,) = report["groups"]
    assert (group["runs"], group["seeds"]) == (["a", "b"], [0, 1])
    mean = next(row for row in group["means"] if row["name"] == "top-1")
    assert mean["mean"] == pytest.approx((first["accuracy"]["top1"] + second["accuracy"]["top1"]) / 2)
    reader = read(tmp_path / "new" / "out" / "evaluation.html")
    assert reader.tags.count("img") == 10  # confusion, curves and maps of both, and one of each other part
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    for line in ("top-1, %", "energy in the object: grad_cam, %", "PGD, ε = 8/255, %", "mean over seeds 0, 1"):
        assert line in out
        assert line in reader.text
    # Again, of one run alone, into its own folder: the same numbers.
    again = ["evaluate", str(runs[0] / "best.pt"), "--images", "8", "--parts", "attacks", "explanation"]
    assert program([*again, "--seed", "0"]) == 0
    own = json.loads((runs[0] / "evaluation" / "evaluation.json").read_text())
    assert own["runs"][0]["attacks"] == first["attacks"]
    assert own["runs"][0]["explanation"] == first["explanation"]
    assert "accuracy" not in own["runs"][0]
    assert own["groups"] == []


def test_without_boxes_and_with_small_images(
    runs: list[Path], shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(shapes / "val", tmp_path / "data" / "val")
    shutil.copytree(shapes / "val", tmp_path / "data" / "train")
    run = tmp_path / "run"
    options = [*TRAINING[2:], "--image-size", "16"]
    assert program(["--data", str(tmp_path / "data"), "--out", str(run), *options]) == 0
    parts = ["--parts", "corruptions", "explanation", "--images", "4"]
    assert (
        program(["evaluate", str(runs[0]), str(run), "--corruption-images", "1", *parts, "--out", str(tmp_path / "o")])
        == 0
    )
    report = json.loads((tmp_path / "o" / "evaluation.json").read_text())
    assert report["runs"][0]["corruptions"]["images"] == 1
    assert report["runs"][1]["corruptions"] is None
    assert report["runs"][1]["explanation"]["methods"]["gradient"]["pointing"] is None
    notes = " ".join(report["notes"])
    assert program(["evaluate", str(run), "--parts", "corruptions"]) == 2
    assert "nothing to measure: the corruptions need images of at least 32" in capsys.readouterr().err
    assert "run: no corruptions, since the corruptions need images of at least 32 pixels a side." in notes
    assert "run: no box of an object, so neither pointing game nor energy." in notes


def test_a_semi_supervised_run(shapes: Path, tmp_path: Path) -> None:
    options = ["--labels", "16", "--unlabelled-ratio", "2", "--epochs", "1", "--image-size", "16", "--batch-size", "8"]
    assert program(["semi", "--data", str(shapes), "--out", str(tmp_path / "run"), *options, "--device", "cpu"]) == 0
    assert program(["evaluate", str(tmp_path / "run"), "--parts", "accuracy", "occlusion", "--images", "4"]) == 0
    report = json.loads((tmp_path / "run" / "evaluation" / "evaluation.json").read_text())
    logged = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert report["runs"][0]["accuracy"]["top1"] == pytest.approx(logged["val_top1"] / 100)
    assert report["runs"][0]["config"]["task"] == "semi"


def test_errors(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: str) -> str:
        assert program(["evaluate", *arguments]) == 2
        return capsys.readouterr().err

    a = str(runs[0])
    assert "no such checkpoint" in refused(str(tmp_path))
    state = checkpoint.load(runs[0] / "best.pt")
    checkpoint.save(state | {"config": state["config"] | {"task": "boxes"}}, tmp_path / "best.pt")
    assert "its configuration has task = 'boxes', none of train, " in refused(str(tmp_path))
    monkeypatch.setitem(TASKS, "boxes", ("train.config.run:ResolvedRun", ""))
    assert "it is of a run of the command boxes, which this command does not take" in refused(a, str(tmp_path))
    assert f"each RUN may be stated once; got {a}, {a}" in refused(a, a)
    assert "there is no folder" in refused(a, "--json", str(tmp_path / "none" / "a.json"))
    other = tmp_path / "other"
    for name in ("cat", "dog"):
        for split in ("train", "val"):
            (other / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(other / split / name / "x.png")
    assert "its classes are not those that the run in" in refused(a, "--data", str(other))
    assert "no such file; pass --boxes" in refused(a, "--parts", "occlusion", "--boxes", str(tmp_path / "none.tsv"))
    paths_below_val = tmp_path / "others.tsv"
    paths_below_val.write_text("path\tx0\ty0\tx1\ty1\ndisc/0000.jpg\t3\t3\t9\t9\n")
    wrong = refused(a, "--parts", "explanation", "--images", "4", "--boxes", str(paths_below_val))
    assert f"--boxes {paths_below_val}: none of the images that are measured has its object in view" in wrong
    assert "--boxes is for the parts explanation and occlusion; got --parts attacks" in refused(
        a, "--parts", "attacks", "--boxes", str(paths_below_val)
    )
    with pytest.raises(SystemExit):
        program(["evaluate", a, "--parts", "colour"])
    assert "invalid choice: 'colour'" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    assert "needs torchmetrics: pip install 'dali-salaug[evaluation]'" in refused(a, "--parts", "calibration")


def test_a_sample_has_the_pixels_that_are_validated(runs: list[Path], shapes: Path) -> None:
    subject = load_subject(runs[0], None)
    whole = torch.cat([images for images, _ in whole_set(subject)])
    sample = draw_sample(subject, 10, None)
    assert sample.indices.tolist() == sorted([*range(0, 16, 2), 1, 3])  # the first of each of 8 classes, 2 more
    torch.testing.assert_close(subject.normalised(sample.pixels), whole[sample.indices])
    assert sample.labels.tolist() == [index // 2 for index in sample.indices]
    assert sample.objects is not None
    assert sample.objects.shape == (10, 4)
    assert torch.equal(draw_sample(subject, 3, None).pixels, sample.pixels[[0, 2, 4]])
    changed = Sample(sample.pixels.roll(1, 0), sample.labels, sample.indices, None)
    assert _seeing_the_same({3: sample, 5: changed, 6: sample}) == [[3, 6], [5]]


def test_names_are_text_on_the_page(tmp_path: Path) -> None:
    classes = ["<script>alert(1)</script>", "$\\frac{", 'b" onload="x']
    logits = torch.eye(3)
    result = accuracy.measure(logits, torch.arange(3), classes)
    title = "<img src=x>"
    report = {
        "runs": [{"run": title, "title": title, "accuracy": result}], "command": "a & <b>", "date": "today",
        "versions": {"torch": "<i>"}, "notes": ["<u>"], "groups": [],
    }  # fmt: skip
    (rows,) = rows_of([{"accuracy": result}], ["accuracy"])
    columns = page.columns_of([title], [rows], [])
    page.write_page(tmp_path / "x.html", report, columns, rows, {"accuracy": accuracy.pictures({title: result})})
    reader = read(tmp_path / "x.html")
    assert not {"script", "i", "u", "b"} & set(reader.tags)
    assert reader.tags.count("img") == 1
    for text in (*classes, title, "a & <b>", "100.0"):
        assert text in reader.text
    assert [row.name for row in rows] == ["top-1", "of the worst class"]  # there is no top-5 of three classes
    text = page.as_text(columns, rows).splitlines()
    assert text[-1].split() == ["of", "the", "worst", "class,", "%", "100.0"]


def test_titles(tmp_path: Path) -> None:
    for name in ("x/run", "y/run", "z"):
        (tmp_path / name).mkdir(parents=True)
    paths = [tmp_path / "x/run", tmp_path / "y/run", tmp_path / "z"]
    assert titles_of(paths) == [str(paths[0]), str(paths[1]), "z"]
    assert titles_of([paths[0] / "best.pt"]) == ["run"]
    assert np.unique(titles_of([paths[0], paths[0] / "best.pt"])).size == 2
