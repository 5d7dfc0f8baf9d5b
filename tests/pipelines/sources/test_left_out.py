"""Files that are left out because of their suffix are counted and named, once."""

import logging
from pathlib import Path

import pytest

from pipelines import find_dataset
from pipelines.sources import left_out


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


OTHERS = ("a/1.svg", "a/deep/2.SVG", "b/3.psd", "b/x.jpg.part", "b/no_suffix", "b/x.a_very_long_suffix")
SILENT = ("a/0.txt", "b/0.xml", "b/0.JSON", "a/.hidden.svg", "a/@eaDir/9.svg", "readme.svg", "a/x.svg/0.png")
COUNTS = {".svg": 2, ".psd": 1, ".part": 1, "": 2}


def test_class_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _touch(tmp_path, "a/1.jpg", "b/2.gif", "b/3.avif", "b/4.heic", "b/5.jfif", *OTHERS, *SILENT)
    with caplog.at_level(logging.WARNING):
        dataset, same = find_dataset(tmp_path), find_dataset(tmp_path, train=False)
    assert len(dataset) == len(same) == 6
    assert dataset.left_out == same.left_out == COUNTS
    [record] = caplog.records
    assert record.name == "pipelines"
    message = (
        f"'{tmp_path}': 6 files left out because of the suffix: 2 without one, 2 .svg, 1 .part, 1 .psd. Images have"
    )
    assert record.getMessage().startswith(message)
    assert ".jpg, .jpeg, .jpe, .jfif" in record.getMessage()
    assert dataset.take([0]).left_out == COUNTS  # type: ignore[arg-type]


def test_each_part_has_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _touch(tmp_path, "train/a/1.jpg", "train/a/1.tga", "val/a/1.jpg")
    assert (find_dataset(tmp_path).left_out, find_dataset(tmp_path, train=False).left_out) == ({".tga": 1}, {})
    assert sum("1 file left out" in record.getMessage() for record in caplog.records) == 1


def test_nothing_is_said_where_nothing_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _touch(tmp_path, "a/1.jpg", "b/1.jpg", "a/1.txt")
    assert find_dataset(tmp_path).left_out == {}
    assert not caplog.records


def test_validation_images_in_one_folder(tmp_path: Path) -> None:
    _touch(tmp_path, "train/n1/1.JPEG", "val/v.JPEG", "val/v.raw")
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nv,n1 1 2 3 4\n")
    assert find_dataset(tmp_path, train=False).left_out == {".raw": 1}


def test_what_files_are_called_is_printable_and_short() -> None:
    counts = {f".{n}": n for n in range(1, 30)} | {".a\n\x1b[2J": 50}
    text = left_out(counts)
    assert "\n" not in text
    assert "\x1b" not in text
    assert text.startswith(
        "485 files left out because of the suffix: 50 .a\\n\\x1b[2J, 29 .29, 28 .28, 27 .27, 26 .26, …."
    )
