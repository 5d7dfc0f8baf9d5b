"""python -m train check-data: what is found, and how it is told."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipelines import image_loader
from train.__main__ import main as program

GOOD = 70  # more than one chunk


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    make_photo: Callable[..., Image.Image],
    spoiled: Callable[[Image.Image], dict[str, bytes]],
) -> Path:
    root = tmp_path_factory.mktemp("check")
    for part in ("train/a", "train/b", "val/b"):
        (root / part).mkdir(parents=True)
    for index in range(GOOD):
        make_photo(40, 50, seed=index).save(root / "train" / "ab"[index % 2] / f"{index}.{('jpg', 'png')[index % 2]}")
    photo = make_photo(90, 110)
    for index in range(8):
        photo.save(root / "val" / "b" / f"fine{index}.webp")
    for name, content in spoiled(photo).items():
        (root / "val" / "b" / name).write_bytes(content)
    photo.save(root / "train" / "a" / "zeros.jpg", quality=92)
    content = bytearray((root / "train" / "a" / "zeros.jpg").read_bytes())
    middle = slice(len(content) * 4 // 10, len(content) * 6 // 10)
    content[middle] = bytes(len(content[middle]))
    (root / "train" / "a" / "zeros.jpg").write_bytes(content)
    (root / "train" / "a" / "missing.jpg").symlink_to(root / "nowhere")
    return root


def test_each_kind_is_listed_with_its_reason(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    arguments = ["check-data", str(folder), "--json", str(tmp_path / "bad.json"), "--list", str(tmp_path / "bad.txt")]
    assert program(arguments) == 1
    output, errors = capfd.readouterr()
    assert errors == ""  # nothing of the decoders' own
    lines = output.splitlines()
    assert lines[-1] == "87 files: 8 undecodable, 1 damaged"
    for line in (
        f"undecodable  {folder}/train/a/missing.jpg: No such file or directory",
        f"undecodable  {folder}/val/b/empty.jpg: the file is empty",
        f"undecodable  {folder}/val/b/page.jpg: it is no image of a known format, it begins with b'<!DOCTYPE html><'",
        f"undecodable  {folder}/val/b/truncated.jpg: its JPEG data is damaged or cut short",
        f"damaged      {folder}/train/a/zeros.jpg: Corrupt JPEG data: premature end of data segment",
    ):
        assert line in lines
    content = json.loads((tmp_path / "bad.json").read_text())
    assert (content["data"], content["files"]) == (str(folder), 87)
    assert [f"{bad['kind']:<11}  {bad['name']}: {bad['reason']}" for bad in content["bad"]] == lines[:-1]
    assert (tmp_path / "bad.txt").read_text().splitlines() == [bad["name"] for bad in content["bad"]]


def test_undecodable_are_the_files_that_a_run_stumbles_on(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert program(["check-data", str(folder), "--fast", "--workers", "1"]) == 1
    output = capsys.readouterr().out
    assert "87 files: 8 undecodable\n" in output
    stumbled = []
    for train in (True, False):
        loader = image_loader(
            folder, batch_size=8, image_size=32, train=train, crop="pad", device="cpu", on_bad_file="replace",
            max_bad_share=1.0,
        )  # fmt: skip
        list(loader)
        stumbled += [loader.dataset.name(index) for index in sorted(loader.bad_files)]
    assert [line.split()[1].rstrip(":") for line in output.splitlines()[:-1]] == stumbled


def test_good_files_and_those_that_cannot_be_checked(
    shapes: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert program(["check-data", str(shapes)]) == 0
    assert capsys.readouterr() == ("64 files: 0 undecodable, 0 damaged\n", "")
    assert program(["check-data", str(shapes / "val")]) == 0  # the same for training and validation, checked once
    assert "16 files: 0" in capsys.readouterr().out
    (tmp_path / "train").symlink_to(shapes / "train")
    assert program(["check-data", str(tmp_path)]) == 0
    output, errors = capsys.readouterr()
    assert "48 files: 0" in output
    assert f"only the training images are checked: no folder '{tmp_path}/val'" in errors
    for arguments, message in (
        ([str(tmp_path / "nowhere")], f"no folder '{tmp_path / 'nowhere'}'"),
        ([str(folder), "--workers", "0"], "--workers must be at least 1; got 0"),
        ([str(folder), "--json", str(tmp_path / "no" / "bad.json")], f"there is no folder {tmp_path / 'no'}"),
    ):
        assert program(["check-data", *arguments]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        program(["check-data", "--help"])
    assert "Exit status" in capsys.readouterr().out


def test_real_images(real_data: Callable[[str], Path], capsys: pytest.CaptureFixture) -> None:
    assert program(["check-data", str(real_data("imagenet-samples"))]) == 0
    assert "500 files: 0 undecodable, 0 damaged" in capsys.readouterr().out
    assert program(["check-data", str(real_data("cifar-10-batches-py"))]) == 0
    assert "60000 images, in pickles that can be read" in capsys.readouterr().out
