"""python -m train check-data: what is found, and how it is told."""

import base64
import io
import json
import os
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines import DataError, image_loader
from pipelines.bad_files import check
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
    assert lines[-1] == "87 files: 7 undecodable, 1 damaged, 1 unsupported"
    for line in (
        f"undecodable  {folder}/train/a/missing.jpg: No such file or directory",
        f"undecodable  {folder}/val/b/empty.jpg: the file is empty",
        f"undecodable  {folder}/val/b/page.jpg: it is no image of a known format, it begins with b'<!DOCTYPE html><'",
        f"undecodable  {folder}/val/b/truncated.jpg: its JPEG data is damaged or cut short",
        f"unsupported  {folder}/val/b/an_icon.jpg: it is an icon image, a format that is not supported",
        f"damaged      {folder}/train/a/zeros.jpg: Corrupt JPEG data: premature end of data segment",
    ):
        assert line in lines
    content = json.loads((tmp_path / "bad.json").read_text())
    assert (content["data"], content["files"]) == (str(folder), 87)
    assert [f"{bad['kind']:<11}  {bad['name']}: {bad['reason']}" for bad in content["bad"]] == lines[:-1]
    names = [bad["name"] for bad in content["bad"] if bad["kind"] != "unsupported"]
    assert (tmp_path / "bad.txt").read_text().splitlines() == names


def test_undecodable_are_the_files_that_a_run_stumbles_on(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert program(["check-data", str(folder), "--fast", "--workers", "1"]) == 1
    output = capsys.readouterr().out
    assert "87 files: 7 undecodable, 1 unsupported\n" in output
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
        ([str(folder), "--list", os.devnull], f"{os.devnull}: not a regular file; choose another name"),
        ([str(folder), "--json", str(tmp_path / "no" / "bad.json")], f"there is no folder {tmp_path / 'no'}"),
    ):
        assert program(["check-data", *arguments]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        program(["check-data", "--help"])
    assert "Exit status" in capsys.readouterr().out


def test_files_left_out_by_their_suffix_are_counted(
    tmp_path: Path, make_photo: Callable[..., Image.Image], capfd: pytest.CaptureFixture
) -> None:
    for name in ("train/a/0.gif", "val/a/0.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        make_photo(20, 20).save(tmp_path / name)
    for name in ("train/a/1.svg", "val/a/1.svg", "val/a/2.psd", "val/a/notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert program(["check-data", str(tmp_path), "--json", str(tmp_path / "bad.json")]) == 0
    output = capfd.readouterr().out.splitlines()
    assert output[0].startswith("3 files left out because of the suffix: 2 .svg, 1 .psd. Images have the suffix .jpg,")
    assert output[1:] == ["2 files: 0 undecodable, 0 damaged"]
    assert json.loads((tmp_path / "bad.json").read_text())["left_out"] == {".svg": 2, ".psd": 1}


def test_real_images(real_data: Callable[[str], Path], capsys: pytest.CaptureFixture) -> None:
    assert program(["check-data", str(real_data("imagenet-samples"))]) == 0
    assert "500 files: 0 undecodable, 0 damaged" in capsys.readouterr().out
    assert program(["check-data", str(real_data("cifar-10-batches-py"))]) == 0
    assert "60000 images, in pickles that can be read" in capsys.readouterr().out


# A JPEG file whose sampling factors, 1×3, libjpeg decodes and TurboJPEG does not name.
ODD_SAMPLING = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
    "AQEBAQEBD/wAARCABGAGQDARMAAhEAAxEA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/a"
    "AAwDAQACAAMAAD8Ay1tbUFVQW1tOnUFtbTp1BbYSdO2VthJ07ZYS255zygtradOoLa2nTqC2tp06gtsJOnbLCW07nmywltzydQW1tOnTsJbTp1"
    "BbW06dQW1tOnUFtbTueUFthOeTtlbYSdO2WEtp06gtradOoLa2nTqC2tp3PKC2wnPJ2ywltOnbLCW06dOtsJOnbLCW06dQW1tzznlBbW06dQW1"
    "tOnUFthJ07ZW2EnTtlhLadzygtrbnk6gtradOoLa2nTqC2wk6dssJbTp3//Z"
)


def _bytes(photo: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, form, **options)
    return buffer.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_good_files_are_not_called_bad(
    tmp_path: Path, make_photo: Callable[..., Image.Image], capfd: pytest.CaptureFixture
) -> None:
    photo = make_photo(80, 90)
    jpeg, png, webp = _bytes(photo, "JPEG"), _bytes(photo, "PNG"), _bytes(photo, "WEBP", lossless=True)
    text = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**24)))
    good = {
        "sampling.jpg": ODD_SAMPLING,
        "profile.jpg": _bytes(photo, "JPEG", icc_profile=b"no profile"),
        # An ICC profile's second part of one.
        "part.jpg": jpeg[:2] + b"\xff\xe2" + struct.pack(">H", 20) + b"ICC_PROFILE\0\2\1abcd" + jpeg[2:],
        "zeros.jpg": jpeg[:-2] + bytes(300) + jpeg[-2:],
        "filling.jpg": jpeg[:-2] + b"\xff" * 9 + jpeg[-2:],
        "text.jpg": jpeg[:-2] + b"written by a camera" + jpeg[-2:],
        "two.jpg": jpeg[:-2] + b"\x12\x34" + jpeg[-2:],
        "behind.jpg": jpeg + b"anything",
        "revision.jpg": jpeg.replace(b"JFIF\0\1", b"JFIF\0\7", 1),
        "progressive.jpg": _bytes(photo, "JPEG", progressive=True),
        "cmyk.jpg": _bytes(photo.convert("CMYK"), "JPEG"),
        "text.png": png[:33] + text + png[33:],
        "checksum of text.png": png[:33] + text[:-1] + bytes([text[-1] ^ 1]) + png[33:],
        "behind.png": png + b"anything",
        "behind.webp": webp + b"anything",
        "palette.bmp": _bytes(photo.quantize(16), "BMP"),
        "grey.tif": _bytes(photo.convert("LA"), "TIFF"),
    }
    (tmp_path / "a").mkdir()
    for name, content in good.items():
        (tmp_path / "a" / name).write_bytes(content)
    assert program(["check-data", str(tmp_path)]) == 0, capfd.readouterr()
    assert capfd.readouterr() == (f"{len(good)} files: 0 undecodable, 0 damaged\n", "")
    for train in (True, False):  # a run decodes all of them
        assert len(list(image_loader(tmp_path, batch_size=1, image_size=32, train=train, device="cpu"))) == len(good)


def test_bad_files_are_called_bad(
    tmp_path: Path, make_photo: Callable[..., Image.Image], capfd: pytest.CaptureFixture
) -> None:
    photo = make_photo(200, 300)
    jpeg, png = _bytes(photo, "JPEG"), _bytes(photo, "PNG")
    middle = len(jpeg) // 2
    generator = np.random.default_rng(0)
    noise = generator.bytes(600).replace(b"\xff", b"\xfe")
    palette = bytearray(_bytes(photo.quantize(16), "PNG"))
    palette[palette.index(b"PLTE") + 5] ^= 64
    bad = {
        "damaged": {
            "noise.jpg": jpeg[:middle] + noise + jpeg[middle + 600 :],
            # What does not change the pixels comes first.
            "profile.jpg": jpeg[:2] + b"\xff\xe2" + struct.pack(">H", 20) + b"ICC_PROFILE\0\2\1abcd" + jpeg[2:middle]
            + bytes(2000) + jpeg[middle + 2000 :],
        },
        "unsupported": {
            "float.tif": _bytes(Image.new("F", (40, 40)), "TIFF"),
            "icon.png": _bytes(photo, "ICO"),
        },
        "undecodable": {"cut.jp2": _bytes(photo, "JPEG2000")[:9000], "cut.png": png[: len(png) // 2], "empty.bmp": b""},
        "not checked": {"large.png": _bytes(Image.new("1", (20_000, 15_000)), "PNG")},
    }  # fmt: skip
    (tmp_path / "a").mkdir()
    for name, content in [item for files in bad.values() for item in files.items()]:
        (tmp_path / "a" / name).write_bytes(content)
    lists = [tmp_path / name for name in ("bad.txt", "bad.zeros", "bad.json")]
    options = ["--list", str(lists[0]), "--list0", str(lists[1]), "--json", str(lists[2])]
    assert program(["check-data", str(tmp_path), *options]) == 1
    output, errors = capfd.readouterr()
    assert errors == ""
    assert output.splitlines()[-1] == "8 files: 3 undecodable, 2 damaged, 2 unsupported, 1 not checked"
    found = json.loads(lists[2].read_text())["bad"]
    kinds = {Path(file["name"]).name: file["kind"] for file in found}
    assert kinds == {name: kind for kind, files in bad.items() for name in files}
    assert all("object at" not in file["reason"] for file in found)
    # Intact files are in no list of files to be removed.
    removable = sorted(str(tmp_path / "a" / name) for kind in ("damaged", "undecodable") for name in bad[kind])
    assert lists[0].read_text().splitlines() == removable
    assert lists[1].read_bytes() == b"".join(os.fsencode(name) + b"\0" for name in removable)
    for name in kinds:
        if name != "large.png":
            (tmp_path / "a" / name).unlink()
    assert program(["check-data", str(tmp_path)]) == 0
    line = f"not checked  {tmp_path}/a/large.png: it has 20000×15000 pixels, too many to check\n"
    assert capfd.readouterr() == (line + "1 files: 0 undecodable, 0 damaged, 1 not checked\n", "")


def test_a_tiff_file_with_a_jpegs_name(
    tmp_path: Path, make_photo: Callable[..., Image.Image], capfd: pytest.CaptureFixture
) -> None:
    """In a folder of JPEG names alone, which DALI reads by itself, it would be decoded wrongly."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "tiff.jpg").write_bytes(_bytes(make_photo(40, 30).convert("LA"), "TIFF"))
    assert program(["check-data", str(tmp_path)]) == 1
    assert "unsupported" in (output := capfd.readouterr().out)
    assert "under the name of a JPEG file, and is not decoded correctly: rename it" in output


def test_crops_that_fail_although_the_whole_image_decodes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    class Refusing:
        def run(self, content: list[np.ndarray]) -> None:
            raise RuntimeError

    monkeypatch.setattr(check, "_decode_crop", Refusing)
    assert program(["check-data", str(folder / "train"), "--fast", "--workers", "1"]) == 1
    line = f"undecodable  {folder}/train/a/0.jpg: random crops of it cannot be decoded, though the whole image can\n"
    assert line in capsys.readouterr().out


NAMES = ("line\nbreak.jpg", "return\r.jpg", "clear\x1b[2J.jpg", "latin-\udce9.jpg", "right\u202eto left.jpg", "-rf.jpg")


def test_names_that_are_no_plain_text(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "a").mkdir()
    for name in NAMES:
        (tmp_path / "a" / name).write_bytes(b"")
    lines, zeros = tmp_path / "lines", tmp_path / "zeros"
    assert program(["check-data", str(tmp_path), "--list", str(lines), "--list0", str(zeros)]) == 1
    output, errors = capfd.readouterr()
    assert len(output.splitlines()) == len(NAMES) + 1
    assert all(line.isprintable() for line in output.splitlines())
    assert r"line\nbreak.jpg" in output
    assert r"clear\x1b[2J.jpg" in output
    assert r"latin-\xe9.jpg" in output
    assert errors == f"warning: 2 names with a line break are not in {lines}; use --list0\n"
    listed = zeros.read_bytes().split(b"\0")
    assert listed.pop() == b""
    assert sorted(listed) == sorted(os.fsencode(tmp_path / "a" / name) for name in NAMES)
    assert sorted(lines.read_bytes().splitlines()) == sorted(name for name in listed if len(name.splitlines()) == 1)
    with pytest.raises(DataError) as caught:
        list(image_loader(tmp_path, batch_size=8, device="cpu"))
    assert str(caught.value).isprintable()
    subprocess.run("xargs -0 rm -- < zeros", shell=True, cwd=tmp_path, check=True)
    assert list((tmp_path / "a").iterdir()) == []
