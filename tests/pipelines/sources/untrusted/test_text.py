"""Lists, annotations, names and class numbers: what is no text, no name, no label."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import DataError, find_dataset


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (999_999_999, r"train\.txt' has the label 999999999, and 2 images: .* below 1200, or else '.*classes\.txt'"),
        (2**63, "line 2: must be a path and a label"),
        (2**64, "line 2"),
        (-1, "line 2"),
        ("9" * 5000, "line 2"),
    ],
)
def test_labels_of_lists_that_are_none(tmp_path: Path, label: object, message: str) -> None:
    (tmp_path / "train.txt").write_text(f"a.jpg 0\nb.jpg {label}\n")
    with pytest.raises(DataError, match=message):
        find_dataset(tmp_path)
    (tmp_path / "train.txt").write_text("a.jpg 0\nb.jpg 1199\n")
    assert len(find_dataset(tmp_path).classes) == 1200


@pytest.mark.parametrize("label", [999_999_999, 2**31, 2**62, 2**63 - 1, -1, -(2**63)])
@pytest.mark.parametrize("kind", ["tar", "tfrecord", "lmdb"])
def test_labels_of_records_that_are_none(tmp_path: Path, write_shard: Callable, kind: str, label: int) -> None:
    if kind == "lmdb":  # its messages hold them in two's complement
        label %= 2**64
    if kind == "tfrecord":
        label = max(label - 1, -(2**63))
    write_shard(kind, tmp_path / {"tar": "a.tar", "tfrecord": "a.tfrecord", "lmdb": "a"}[kind], [
        ("a.jpg", 0, b"x"), ("b.jpg", label, b"x")
    ])  # fmt: skip
    with pytest.raises(DataError, match="label"):
        find_dataset(tmp_path)


@pytest.mark.parametrize("text", [str(2**63), str(-(2**70)), "9" * 5000, "9" * 30])
def test_class_numbers_outside_int64(tmp_path: Path, write_shard: Callable, text: str) -> None:
    write_shard("tar", tmp_path / "a.tar", [("a.jpg", text, b"x")])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"a\.tar/photos/000000-a\.cls' must hold a class number.*got b'"):
        find_dataset(tmp_path)


def test_a_byte_order_mark_is_ignored(roots: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("list", "annotations"):
        root = tmp_path / kind
        shutil.copytree(roots[kind], root)
        for path in root.rglob("*.txt"):
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        for train in (True, False):
            found, expected = find_dataset(root, train), find_dataset(roots[kind], train)
            assert found.digest == expected.digest
            assert found.classes == expected.classes


def test_latin_1(tmp_path: Path) -> None:
    """In names of files it names them; class names must be text."""
    name = os.fsdecode(b"b\xe9.jpg")
    (tmp_path / name).write_bytes(b"content")
    (tmp_path / "train.txt").write_bytes(b"b\xe9.jpg 0\n")
    assert find_dataset(tmp_path).encoded(0) == b"content"
    (tmp_path / "classes.txt").write_bytes("ape\nbée\n".encode("latin1"))
    with pytest.raises(DataError, match=r"classes\.txt', line 2: must be text in UTF-8, got 'b\\udce9e'"):
        find_dataset(tmp_path)
    root = tmp_path / "annotations"
    for folder in (os.fsdecode(b"train/b\xe9"), "val/images"):
        (root / folder).mkdir(parents=True)
        (root / folder / "a.jpg").write_bytes(b"content")
    (root / "val" / "val_annotations.txt").write_bytes(b"a.jpg\tb\xe9\n")
    assert find_dataset(root, train=False).labels.tolist() == [0]
    (root / "val" / "val_annotations.txt").write_bytes(b"a.jpg\tb\xe8\n")
    with pytest.raises(DataError, match="class"):
        find_dataset(root, train=False)


def test_zero_bytes_in_names(roots: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"a.jpg 0\na\0b.jpg 0\n")
    with pytest.raises(DataError, match=r"train\.txt', line 2: must be text in UTF-8, got 'a\\x00b\.jpg 0'"):
        find_dataset(tmp_path)
    (tmp_path / "train.txt").write_bytes("a.jpg 0\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"train\.txt', line 1"):
        find_dataset(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        find_dataset(f"{tmp_path}/a\0b")
