"""CIFAR's pickles: they run no code, and hold what CIFAR holds, or a DataError says what is wrong."""

import pickle
import pickletools
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines import DataError, find_dataset
from pipelines.sources import pickles


def test_what_a_pickle_names_is_refused_by_its_name(tmp_path: Path, bomb: Callable, write_cifar: Callable) -> None:
    root = write_cifar(tmp_path, data=bomb(tmp_path / "trap"))
    with pytest.raises(DataError, match=r"cannot read '.*/train' as a CIFAR pickle.*it names posix\.mkdir, which is"):
        find_dataset(root)


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"\x80\x04\x8c\x07_codecs\x8c\x06encode\x93\x8c\x01x\x8c\x06base64\x86R.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\x01\0\0\0acos\nsystem\nsb.",  # a state for what is named
        b"\x80\x02cnumpy\ndtype\n}X\x08\0\0\0__init__Nsb.",
        b"\x80\x02cnumpy\ndtype\n\x8c\x01Ok\x85R.",
        b"\x80\x02(inumpy\ndtype\n.",
        b"\x80\x02]r\xff\xff\xff\xff.",  # room for 2³² objects
        b"\x80\x02]" + b"q\0" + b"\x85" * 200_000 + b".",  # deep
        b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",
        b"\x80\x04\x82\x01.",
        b"Pname\n.",
        pickle.dumps(range(3)),
        pickle.dumps(np.array([{}])),
        pickle.dumps(np.zeros(2, dtype=[("a", "u1")])),
    ],
)
def test_pickles_of_other_than_plain_types(content: bytes) -> None:
    with pytest.raises((pickle.UnpicklingError, ValueError, TypeError)):
        pickles.load(content)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_as_pickle_reads_them(protocol: int) -> None:
    for array in (
        np.arange(12, dtype=np.uint8).reshape(3, 4),
        np.arange(12, dtype=">i8").reshape(3, 4),
        np.asfortranarray(np.arange(12.0, dtype=np.float32).reshape(3, 4)),
        np.array([True, False]),
    ):
        for module in (b"numpy.core", b"numpy._core"):
            content = pickle.dumps({"a": array, b"b": [1, None, (2.5, "ä", b"\xff")]}, protocol)
            if protocol < 4:  # names in the text form have no lengths
                content = content.replace(b"numpy._core", module).replace(b"numpy.core", module)
            value = pickles.load(content)
            assert value[b"b"] == [1, None, (2.5, "ä", b"\xff")]
            np.testing.assert_array_equal(value["a"], array)
            assert value["a"].dtype == array.dtype


def test_python_2_s_pickle_of_cifar(tmp_path: Path) -> None:
    """As the published files are: protocol 2, byte strings, the module's old name."""
    data = bytes(range(256)) * 12
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\0\x85U\x01b\x87Rq\x03"
        b"(K\x01K\x01M\0\x0c\x86cnumpy\ndtype\nq\x04U\x02u1K\0K\x01\x87Rq\x05(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89T"
        + struct.pack("<I", len(data))
        + data
        + b"tb"
    )
    content = b"\x80\x02}q\0(U\x04data" + array + b"U\x0bfine_labels]K\x01au."
    assert max(opcode.proto for opcode, *_ in pickletools.genops(content)) == 2
    (tmp_path / "train").write_bytes(content)
    (tmp_path / "meta").write_bytes(b"\x80\x02}U\x10fine_label_names](U\x03apeU\x03beees.")
    dataset = find_dataset(tmp_path)
    assert (dataset.classes, dataset.labels.tolist()) == (["ape", "bee"], [1])
    assert dataset.reader.images.transpose(0, 3, 1, 2).tobytes() == data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": np.zeros((4, 3071), np.uint8)}, r"train' is no CIFAR .*'data' must be .*uint8 of shape \(4, 3071\)"),
        ({"data": np.zeros((4, 32, 32, 3), np.uint8)}, "shape"),
        ({"data": np.zeros((4, 3072))}, "got float64"),
        ({"data": np.uint8(4)}, "refused"),
        ({"data": [[0] * 3072] * 4}, "got list"),
        ({"data": np.zeros((5, 3072), np.uint8)}, "it has 5 images and 4 labels"),
        ({"data": np.zeros((0, 3072), np.uint8), "fine_labels": []}, "it has 0 images and 0 labels"),
        ({"fine_labels": [0, 1, 2, 3]}, "'fine_labels' must be from 0 to 2"),
        ({"fine_labels": [0, 1, 2, -1]}, "must be from 0 to 2"),
        ({"fine_labels": [0, 1, 2, 10**5000]}, "must be from 0 to 2"),
        ({"fine_labels": [0, 1, 2, 0.5]}, "must be a list of integers"),
        ({"fine_labels": "0120"}, "must be a list of integers"),
        ({"fine_labels": None}, "must be a list of integers"),
    ],
)  # fmt: skip
def test_malformed_cifar(tmp_path: Path, changes: dict, message: str, write_cifar: Callable) -> None:
    with pytest.raises(DataError, match=message):
        find_dataset(write_cifar(tmp_path, **changes))


def test_cifar_without_its_keys_or_names(tmp_path: Path, write_cifar: Callable) -> None:
    write_cifar(tmp_path)
    cases = (
        ("train", {"data": 3}, "train' is no CIFAR pickle: it has no 'fine_labels'"),
        ("train", [1], "it holds a list in place of a dict"),
        ("meta", {"fine_label_names": 3}, "must be a list of names"),
        ("meta", {"fine_label_names": []}, "must be a list of names"),
        ("meta", {"fine_label_names": [b"\xff"]}, "cannot read '.*meta' as a CIFAR pickle: UnicodeDecodeError"),
    )
    for number, (name, content, message) in enumerate(cases):
        root = tmp_path / str(number)
        _write_cifar_copy(tmp_path, root)
        (root / name).write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=message):
            find_dataset(root)
    with open(tmp_path / "train", "r+b") as file:
        file.truncate(2**31)  # with a hole: not on the disk
    with pytest.raises(DataError, match=r"cannot read '.*train': it has 2147483648 bytes, more than the"):
        find_dataset(tmp_path)


def _write_cifar_copy(source: Path, root: Path) -> None:
    root.mkdir()
    for name in ("train", "test", "meta"):
        shutil.copy(source / name, root)
