"""The layouts of re-identification: identities and cameras from names, what is left out, and what is refused."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines import DataError, image_loader
from train.tasks.reid.data import ReidData, find_reid


def _named(data: ReidData, places: np.ndarray) -> list[tuple[str, int, int]]:
    """The file, identity and camera of test images."""
    rows = zip(places, data.identities[places], data.cameras[places], strict=True)
    return [(os.path.basename(data.test.name(int(p))), int(i), int(c)) for p, i, c in rows]


def test_the_layout_of_market(market: Path) -> None:
    data = find_reid(market)
    assert data.train.classes == ["0002", "0007"]
    assert data.train.class_indices.tolist() == [0, 0, 1]
    assert _named(data, data.queries) == [("0001_c1s1_001051_00.jpg", 1, 1), ("0003_c2s1_000003_00.jpg", 2, 2)]
    assert _named(data, data.gallery) == [  # without the junk
        ("0000_c2s1_000004_02.jpg", 0, 2),
        ("0001_c1s1_000005_01.jpg", 1, 1),
        ("0001_c2s1_000006_01.jpg", 1, 2),
        ("0003_c6s1_000007_01.jpg", 2, 6),
    ]
    assert data.shared == []
    loader = image_loader(data.test, train=False, batch_size=6, image_size=(16, 8), val_crop="squash", device="cpu")
    (batch,) = loader
    assert batch.images.shape == (6, 3, 16, 8)
    assert batch.indices.tolist() == list(range(6))


def test_the_data_may_move(market: Path, tmp_path: Path) -> None:
    before = find_reid(market)
    shutil.move(market, tmp_path / "elsewhere")
    after = find_reid(tmp_path / "elsewhere")
    assert (before.train.digest, before.test.digest) == (after.train.digest, after.test.digest)
    name = tmp_path / "elsewhere" / "query" / "0003_c2s1_000003_00.jpg"
    name.rename(name.with_name("0003_c4s1_000003_00.jpg"))
    assert find_reid(tmp_path / "elsewhere").test.digest != before.test.digest


def _write(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 16)).save(root / name)
    return root


TRAIN = ["train/ann/x_c1.png", "train/ann/deep/er/y.jpg", "train/bob/z_c2_1.jpg"]


def test_folders_of_identities(tmp_path: Path) -> None:
    test = ["query/cy/a_c1.jpg", "query/ann/a_c12_1.jpg", "gallery/cy/b_c3.jpg", "gallery/dan/c3_b.jpg"]
    data = find_reid(_write(tmp_path, [*TRAIN, *test]))
    assert data.train.classes == ["ann", "bob"]
    assert data.train.class_indices.tolist() == [0, 0, 1]
    assert _named(data, data.queries) == [("a_c12_1.jpg", 0, 12), ("a_c1.jpg", 1, 1)]
    assert _named(data, data.gallery) == [("b_c3.jpg", 1, 3), ("c3_b.jpg", 2, 3)]
    assert data.shared == ["ann"]


def test_one_folder_of_test_images_is_both_and_cameras_are_optional(tmp_path: Path) -> None:
    data = find_reid(_write(tmp_path, [*TRAIN, "test/1/a.jpg", "test/1/b.jpg", "test/2/cat.jpg"]))
    assert data.queries.tolist() == data.gallery.tolist() == [0, 1, 2]
    assert data.identities.tolist() == [0, 0, 1]
    assert len(set(data.cameras)) == 3, "no image is compared with itself alone"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"query/0003_c2s1_000003_00.jpg": "query/none.jpg"}, "none.jpg'.* must begin with the identity"),
        ({"query/0003_c2s1_000003_00.jpg": "query/0003.jpg"}, "0003.jpg'.* must begin with the identity"),
        ({"query/0003_c2s1_000003_00.jpg": "query/0003_c1234567890.jpg"}, "must begin with the identity"),
        ({"query/0003_c2s1_000003_00.jpg": "query/0003_c²s1.jpg"}, "must begin with the identity and the camera"),
        ({"query/0003_c2s1_000003_00.jpg": "query/\n\x1b[2J\udcff.jpg"}, r"\\n\\x1b\[2J\\xff.jpg'.* must begin with"),
        ({"query/0003_c2s1_000003_00.jpg": "query/0000_c1s1.jpg"}, "query must show an identity; its number is 0"),
        ({"query": "queries"}, "has no layout of re-identification. Legal are Market-1501's layout"),
        ({"bounding_box_train/0007_c3s2_000002_01.jpg": "x.jpg"}, "has fewer than two identities"),
        (
            {
                "bounding_box_test/0001_c2s1_000006_01.jpg": "bounding_box_test/0001_c1s1_000006_01.jpg",
                "bounding_box_test/0003_c6s1_000007_01.jpg": "a.jpg",
            },
            "no query has a match, an image of its identity by another camera",
        ),
    ],
)  # fmt: skip
def test_other_names_are_refused(market: Path, changes: dict[str, str], said: str) -> None:
    for before, after in changes.items():
        (market / before).rename(market / after)
    with pytest.raises(DataError, match=said) as caught:
        find_reid(market)
    assert "\n" not in str(caught.value)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none' is not a folder. Legal are"):
        find_reid(tmp_path / "none")
    mixed = _write(tmp_path / "mixed", [*TRAIN, "test/1/a_c1.jpg", "test/1/b.jpg"])
    with pytest.raises(DataError, match=r"b.jpg': its name must have the camera, such as _c2"):
        find_reid(mixed)
    empty = _write(tmp_path / "empty", [*TRAIN, "test/1/a.jpg"])
    (empty / "test" / "2").mkdir()
    with pytest.raises(DataError, match="2', the folder of an identity, has no images"):
        find_reid(empty)
    shutil.rmtree(empty / "test")
    (empty / "test").mkdir()
    with pytest.raises(DataError, match="test' has no folders of identities"):
        find_reid(empty)


def test_a_folder_that_cannot_be_listed_is_named(market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(folder: Path) -> Any:
        if Path(folder).name == "query":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="query': cannot be listed: Permission denied"):
        find_reid(market)


def test_what_is_no_image_is_one_bad_file(market: Path) -> None:
    """Links, pipes and folders with an image's name are listed, and named when they are read; nothing waits."""
    bad = market / "bounding_box_train"
    os.mkfifo(bad / "0009_c1_pipe.jpg")
    (bad / "0009_c1_circle.jpg").symlink_to("0009_c1_circle.jpg")
    (bad / "0009_c2_folder.jpg").mkdir()
    data = find_reid(market)
    options = {"image_size": (16, 8), "device": "cpu", "num_threads": 1, "batch_size": 6, "crop": "pad"}
    loader = image_loader(data.train, on_bad_file="replace", max_bad_share=1, **options)
    assert len(next(iter(loader)).images) == 6
    assert len(loader.bad_files) == 3
    with pytest.raises(DataError, match="0009_c"):
        list(image_loader(data.train, **options))
