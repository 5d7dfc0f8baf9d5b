"""Every reader has the same methods, can be pickled, and gives its data set the digest that checkpoints hold."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from pipelines import find_dataset
from pipelines.readers.pixels import Pixels

KINDS = ("files", "list", "tar", "tfrecord", "lmdb", "pixels")
# Checkpoints hold the digest of their data set: a run can be resumed only while it stays.
# Of all five samples, and of those at 3, 1 and 1.
DIGESTS = {
    "files": ("47907bf1aa18d95f", "9516b8d0495d80ef"),
    "list": ("c718f0f4aaf93e90", "61cdd245d4ce6503"),
    "tar": ("13df72485cbd81fe", "2f85fa0858b513ff"),
    "tfrecord": ("8a411bb1d2dad20c", "5e28def0c5609526"),
    "lmdb": ("8137fe2076d8bc14", "815a5d7960363607"),
    "pixels": ("cc9a32a640bf12fc", "24a34dab53761669"),
}


def _record(image: bytes, label: int) -> bytes:
    """A record of a TFRecord file; the libraries that write them put the features in any order."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    features = {b"image/class/label": field(3, field(1, bytes([label]))), b"image/encoded": field(1, field(1, image))}
    example = field(1, b"".join(field(1, field(1, name) + field(2, value)) for name, value in features.items()))
    header = struct.pack("<Q", len(example))
    return header + struct.pack("<I", masked_crc32c(header)) + example + bytes(4)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory, write_shard: Callable) -> dict[str, Path]:
    """Five samples of two classes in each layout; the content of a file is not an image, and never the same."""
    roots = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    samples = [(f"{number}é.jpg", number % 2, b"content %d" % number * (number + 1)) for number in range(5)]
    for name, label, content in samples:
        (roots["files"] / f"class {label}").mkdir(exist_ok=True)
        (roots["files"] / f"class {label}" / name).write_bytes(content)
        (roots["list"] / name).write_bytes(content)
    lines = [f"{name} {label}" for name, label, _ in samples]
    (roots["list"] / "train.txt").write_text("\n".join([*lines, "/elsewhere/a.jpg 1", "s3://bucket/deep/b.jpg 0"]))
    for number, part in enumerate((samples[:3], samples[3:])):
        write_shard("tar", roots["tar"] / f"{number}.tar", part)
        write_shard("lmdb", roots["lmdb"] / f"train{number}", part)
        records = b"".join(_record(content, label) for _, label, content in part)
        (roots["tfrecord"] / f"train-{number:05}-of-00002").write_bytes(records)
    pixels = np.arange(5 * 3072).astype(np.uint8).reshape(5, 3072)
    (roots["pixels"] / "train").write_bytes(pickle.dumps({"data": pixels, "fine_labels": [1, 0, 1, 2, 2]}))
    (roots["pixels"] / "meta").write_bytes(pickle.dumps({"fine_label_names": ["x", "y", "z"]}))
    return roots


@pytest.mark.parametrize("kind", KINDS)
def test_digests_stay(roots: dict[str, Path], kind: str) -> None:
    dataset = find_dataset(roots[kind])
    assert (dataset.digest, dataset.take(np.array([3, 1, 1])).digest) == DIGESTS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickled_reader_reads_the_same(roots: dict[str, Path], kind: str) -> None:
    dataset = find_dataset(roots[kind]).take(np.array([4, 0, 2]))
    contents = [dataset.encoded(index) for index in range(3)]  # before, as a reader may keep files open
    again = pickle.loads(pickle.dumps(dataset))
    assert [again.encoded(index) for index in range(3)] == contents
    assert (again.digest, again.labels.tolist()) == (dataset.digest, dataset.labels.tolist())
    assert [again.name(index) for index in range(3)] == [dataset.name(index) for index in range(3)]
    for one, other in zip(again.reader.inputs(np.arange(3)), dataset.reader.inputs(np.arange(3)), strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_reader_is_told_to_take_it_has(roots: dict[str, Path], kind: str) -> None:
    reader = find_dataset(roots[kind]).reader
    chosen = np.array([4, 0, 4])
    part = reader.take(chosen)
    assert (type(part), part.kind, len(part)) == (type(reader), reader.kind, 3)
    assert [part.encoded(i) for i in range(3)] == [reader.encoded(i) for i in chosen]
    for one, other in zip(part.inputs(np.arange(3)), reader.inputs(chosen), strict=True):
        assert one.dtype == np.uint8
        assert one.tobytes() == other.tobytes()


def test_the_shorter_side(roots: dict[str, Path], tmp_path: Path, make_photo: Callable) -> None:
    (tmp_path / "a").mkdir()
    make_photo(40, 70).save(tmp_path / "a" / "0.jpg")
    assert find_dataset(tmp_path).reader.side(0) == 40
    assert find_dataset(roots["pixels"]).reader.side(0) == 32
    assert Pixels(np.zeros((2, 9, 7, 3), np.uint8), "").side(1) == 7
    with pytest.raises(OSError, match="no image of a known format"):
        find_dataset(roots["tar"]).reader.side(0)
