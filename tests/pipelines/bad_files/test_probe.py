"""Bad files: one message that names the file, and a loader that lives on. Odd files: RGB all the same."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import DataError, image_loader
from pipelines.loading.inputs import Inputs

GOOD = 10


@pytest.fixture
def photos(tmp_path: Path, make_photo: Callable[..., Image.Image]) -> Path:
    for index in range(GOOD):
        (tmp_path / "data" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        make_photo(80, 90, seed=index).save(tmp_path / "data" / "ab"[index % 2] / f"{index}.jpg")
    return tmp_path / "data"


REASONS = {
    "truncated.jpg": "its JPEG data is damaged or cut short",
    "truncated.png": "its PNG data is damaged or cut short",
    "text.jpg": "it is no image of a known format, it begins with b'this is not an i'",
    "page.jpg": "it is no image of a known format, it begins with b'<!DOCTYPE html><'",
    "header.jpg": "its JPEG data is damaged or cut short",
    "an_icon.jpg": "it is an icon image, a format that is not supported",
    "empty.jpg": "the file is empty",
}


@pytest.mark.parametrize("name", list(REASONS))
@pytest.mark.parametrize("train", [True, False])
def test_a_bad_file_is_named_and_the_loader_lives_on(
    photos: Path,
    make_photo: Callable[..., Image.Image],
    spoiled: Callable[..., dict[str, bytes]],
    name: str,
    train: bool,
) -> None:
    bad = photos / "a" / name
    bad.write_bytes(spoiled(make_photo(70, 60))[name])
    loader = image_loader(photos, batch_size=4, image_size=48, train=train, device="cpu")
    with pytest.raises(DataError) as caught:
        list(loader)
    message = str(caught.value)
    assert message.startswith(f"cannot decode image '{bad}': {REASONS[name]}")
    assert ("Convert the image" if name == "an_icon.jpg" else "Delete or replace the file") in message
    assert "\n" not in message
    assert caught.value.__context__ is None  # no traceback of DALI

    make_photo(70, 60).save(bad, "PNG")
    loader.set_epoch(0)
    assert sorted(i for batch in loader for i in batch.indices.tolist()) == list(range(GOOD + 1))


def test_a_bad_file_stops_only_its_own_batch(photos: Path) -> None:
    (photos / "b" / "zzz.jpg").write_bytes(b"nothing")
    loader = image_loader(photos, batch_size=1, image_size=48, train=False, device="cpu")
    iterator = iter(loader)
    for index in range(GOOD):
        assert next(iterator).indices.tolist() == [index]
    with pytest.raises(DataError, match=r"zzz\.jpg"):
        next(iterator)
    assert loader.state_dict()["batch"] == GOOD


@pytest.mark.parametrize("what", ["vanished", "unreadable"])
def test_a_file_that_cannot_be_read(photos: Path, what: str) -> None:
    path = photos / "a" / "4.jpg"
    loader = image_loader(photos, batch_size=4, image_size=48, device="cpu")
    path.unlink()
    if what == "unreadable":
        path.symlink_to(path)  # a circle of links: also an error for root
    with pytest.raises(DataError, match=rf"cannot decode image '{path}': .*(No such file|links)"):
        list(loader)


def test_errors_of_dali_are_not_hidden(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = image_loader(photos, batch_size=4, image_size=48, device="cpu")
    draw = Inputs.__call__
    monkeypatch.setattr(
        Inputs, "__call__", lambda *place: {**draw(*place), "sides": np.zeros((len(place[3]), 3), np.int32)}
    )
    with pytest.raises(RuntimeError) as caught:
        list(loader)
    assert not isinstance(caught.value, DataError)


def _odd_pictures(photo: Image.Image) -> dict[str, Image.Image]:
    sixteen = np.asarray(photo.convert("L")).astype(np.uint16) * 257
    return {
        "cmyk.jpg": photo.convert("CMYK"),
        "grey.jpg": photo.convert("L"),
        "alpha.png": photo.convert("RGBA"),
        "palette.png": photo.quantize(200),
        "sixteen.png": Image.fromarray(sixteen),
        "grey_alpha.png": photo.convert("LA"),
        "plain.webp": photo,
        "plain.bmp": photo,
        "plain.tiff": photo,
        "plain.ppm": photo,
        "plain.jp2": photo,
        "CAPITALS.JPEG": photo,
    }


@pytest.mark.parametrize("train", [True, False])
def test_odd_formats_become_rgb(tmp_path: Path, make_photo: Callable[..., Image.Image], train: bool) -> None:
    photo = make_photo(96, 96, seed=5)
    (tmp_path / "only").mkdir()
    for name, picture in _odd_pictures(photo).items():
        picture.save(tmp_path / "only" / name)
    loader = image_loader(
        tmp_path, batch_size=20, image_size=96, train=train, device="cpu", crop_scale=(1.0, 1.0),
        mean=(0, 0, 0), std=(1, 1, 1),
    )  # fmt: skip
    [batch] = loader
    for image, index in zip(batch.images.numpy(), batch.indices.tolist(), strict=True):
        name = os.path.basename(loader.dataset.reader.files[index])
        assert np.isfinite(image).all()
        if not train:
            expected = photo.convert("L") if "grey" in name or "sixteen" in name else photo
            difference = np.abs(image.transpose(1, 2, 0) * 255 - np.asarray(expected.convert("RGB"), np.float32))
            assert difference.mean() < 12, name


def test_the_iteration_raises_no_deprecation_warning(photos: Path, warned: Callable[[], list[str]]) -> None:
    for policy in ("randaugment", "autoaugment", "autoaugment_cifar10", "trivialaugment"):
        list(image_loader(photos, batch_size=4, image_size=48, policy=policy, device="cpu"))
    assert [text for text in warned() if "deprecat" in text.lower()] == []


LOADING = """
import sys
from pipelines import DataError, image_loader
for root in sys.argv[1:]:
    loader = image_loader(root, batch_size=32, image_size=48, train=False, device="cpu", num_threads=2)
    for _ in range(3):
        try:
            list(loader)
        except DataError as error:
            print(str(error).split("'")[1], flush=True)
        loader.set_epoch(0)
"""


def test_a_header_that_cannot_be_parsed_does_not_end_the_process(
    tmp_path: Path, make_photo: Callable[..., Image.Image]
) -> None:
    """DALI's decoder ends it if other images of the batch are being decoded: the first one is bad."""
    whole, bad = tmp_path / "whole.jpg", []
    make_photo(400, 500).save(whole)
    for content in (b"", b"this is not an image\n", b"\x89PNG\r\n\x1a\n" + bytes(60)):
        folder = tmp_path / str(len(bad)) / "only"
        folder.mkdir(parents=True)
        bad.append(folder / "0.jpg")
        bad[-1].write_bytes(content)
        for number in range(1, 32):
            (folder / f"{number}.jpg").hardlink_to(whole)
    roots = [str(path.parents[1]) for path in bad]
    ended = subprocess.run([sys.executable, "-c", LOADING, *roots], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [str(path) for path in bad for _ in range(3)]
