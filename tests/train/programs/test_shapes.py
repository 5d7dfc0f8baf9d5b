"""python -m train shapes: the embedded data, in a folder and at a size of the user's choice."""

from pathlib import Path

import pytest
from PIL import Image

from pipelines import find_dataset
from train.__main__ import main as program
from train.analysis.boxes import read_boxes
from train.data.shapes import SHAPES, write_shapes


def test_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(write_shapes.__kwdefaults__, "train_per_class", 2)
    monkeypatch.setitem(write_shapes.__kwdefaults__, "val_per_class", 1)
    folder = tmp_path / "deep" / "er"
    assert program(["shapes", str(folder), "--side", "96"]) == 0
    for train, count in ((True, 2), (False, 1)):
        dataset = find_dataset(folder, train=train)
        assert (dataset.classes, len(dataset)) == (sorted(SHAPES), count * len(SHAPES))
    with Image.open(folder / "val" / "star" / "0000.jpg") as image:
        assert image.size == (96, 96)
    assert len(read_boxes(folder / "boxes.tsv")) == 3 * len(SHAPES)

    assert program(["shapes", str(folder)]) == 2
    assert f"{folder}: is not empty; name a new folder" in capsys.readouterr().err
    assert program(["shapes", str(folder / "boxes.tsv")]) == 2
    assert f"{folder / 'boxes.tsv'}: cannot be written" in capsys.readouterr().err
