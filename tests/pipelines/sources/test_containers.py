"""Which members of shards, records and lines of lists are samples, their names and labels, and which are refused."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from tfrecord import TFRecordWriter

from pipelines import DataError, find_dataset


def _tar(path: Path, *members: tuple[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", b"x"), ("b.jpg", b"x"), ("b.cls", b"0")], r"sample 'a': needs an image .* it has no \.cls"),
        ([("a.cls", b"0")], "it has no image"),
        ([("a.jpg", b"x"), ("a.cls", b"ape")], r"0\.tar/a\.cls' must hold a class number.*got b'ape'"),
        ([("a.jpg", b"x"), ("a.cls", b"1_0")], "must hold a class number"),
        ([("a.jpg", b"x"), ("a.cls", b"-1")], "labels from -1 to -1"),
        ([("readme.md", b"x")], "no images in the WebDataset shards"),
    ],
)
def test_shards_without_what_is_needed(tmp_path: Path, members: list, message: str) -> None:
    _tar(tmp_path / "train" / "0.tar", *members)
    with pytest.raises(DataError, match=message):
        find_dataset(tmp_path)


def test_names_in_shards_are_webdataset_s(tmp_path: Path) -> None:
    """The key ends at the first dot of the name, members of other suffixes belong to it, hidden ones to nothing."""
    names = ["./n1/a.b/01.JPG", "./n1/a.b/01.cls", "./n1/a.b/01.seg.png", "./n1/._01.jpg", f"{'x' * 120}/2.png"]
    _tar(tmp_path / "s.tar", *((name, b"1" if name.endswith("cls") else name.encode()) for name in names),
         (f"{'x' * 120}/2.cls", b"0"))  # fmt: skip
    dataset = find_dataset(tmp_path)
    assert [dataset.encoded(index).decode() for index in range(2)] == [names[0], names[4]]
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.classes == ["0", "1"]
    assert dataset.name(0) == f"{tmp_path}/s.tar/{names[0]}"


def test_tfrecords_number_from_one_where_they_hold_no_class_0(tmp_path: Path, write_shard: Callable) -> None:
    for number, (first, classes, expected) in enumerate(
        [(0, None, [0, 1]), (-1, None, [0, 1]), (0, "a\nb", [0, 1]), (0, "a\nb\nc", [1, 2]), (-1, "a\nb", [0, 1])]
    ):
        root = tmp_path / str(number)
        root.mkdir()
        # The writer adds 1: the labels stored are first + 1 and first + 2.
        write_shard("tfrecord", root / "train.tfrecord", [("a.jpg", first, b"x"), ("b.jpg", first + 1, b"y")])
        if classes is not None:
            (root / "classes.txt").write_text(classes)
        assert find_dataset(root).labels.tolist() == expected


def test_other_messages_are_no_samples(tmp_path: Path) -> None:
    for kind in ("tfrecord", "lmdb"):
        (tmp_path / kind).mkdir()
    writer = TFRecordWriter(str(tmp_path / "tfrecord" / "train.tfrecord"))
    writer.write({"image": (b"x", "byte"), "label": (1, "int")})
    writer.close()
    with pytest.raises(DataError, match=r"must be a tf.train.Example with one 'image/encoded' .* it has .*label"):
        find_dataset(tmp_path / "tfrecord")
    with lmdb.open(str(tmp_path / "lmdb" / "train"), map_size=2**20) as database, database.begin(write=True) as change:
        change.put(b"0", b"\x08\x03\x22\x03abc\x28\x01")  # pixels, not encoded
    with pytest.raises(DataError, match=r"key b'0': must be a Caffe Datum with an encoded image"):
        find_dataset(tmp_path / "lmdb")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("a.jpg\n", r"line 1: .*got 'a\.jpg'"), ("a.jpg 0\n\nb.jpg ape\n", "line 3: .*b.jpg ape")],
)
def test_lists_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "train.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        find_dataset(tmp_path)


def test_a_list_may_be_given_itself(tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("a b.jpg 1\n/data/c.jpg 0\n")
    dataset = find_dataset(tmp_path / "few.txt")
    assert dataset.reader.files == [f"{tmp_path}/a b.jpg", "/data/c.jpg"]
    assert dataset.labels.tolist() == [1, 0]
    with pytest.raises(DataError, match=r"no list '.*val\.txt'"):
        find_dataset(tmp_path / "few.txt", train=False)
