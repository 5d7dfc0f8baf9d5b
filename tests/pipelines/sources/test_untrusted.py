"""Whatever lies in the place of data, it is read, or a DataError or an OSError says what is wrong with which file.

No code that a file names is run, nothing waits for ever, and nothing ends the process.
"""

import contextlib
import errno
import io
import json
import os
import pickle
import pickletools
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import DataError, Dataset, find_dataset, image_loader
from pipelines.readers.files import Files
from pipelines.readers.untrusted import open_regular, untrusted
from pipelines.sources import pickles

KINDS = ("cifar", "list", "annotations", "tar", "tfrecord", "lmdb", "index")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory, write_shard: Callable) -> dict[str, Path]:
    """Six samples of two classes in each layout; "index" is a shard with its index."""
    roots = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    samples = [(f"{number}.jpg", number % 2, b"content %d" % number * (1 + 999 * (number % 2))) for number in range(6)]
    for name, label, content in samples:
        for folder in (roots["annotations"] / "train" / "ab"[label], roots["annotations"] / "val" / "images"):
            folder.mkdir(exist_ok=True, parents=True)
            (folder / name).write_bytes(content)
        (roots["list"] / name).write_bytes(content)
    annotations = "".join(f"{name}\t{'ab'[label]}\t0\t0\t9\t9\n" for name, label, _ in samples)
    (roots["annotations"] / "val" / "val_annotations.txt").write_text(annotations)
    for split in ("train", "val"):
        (roots["list"] / f"{split}.txt").write_text("".join(f"{name} {label}\n" for name, label, _ in samples))
    (roots["list"] / "classes.txt").write_text("ape\nbée\n")
    write_shard("tar", roots["tar"] / "0.tar", samples)
    write_shard("tfrecord", roots["tfrecord"] / "a.tfrecord", samples)
    write_shard("lmdb", roots["lmdb"] / "some", samples)
    write_shard("tar", roots["index"] / "0.tar", samples)
    find_dataset(roots["index"])
    _write_cifar(roots["cifar"])
    return roots


def _write_cifar(root: Path, **changes: Any) -> Path:
    data = np.arange(4 * 3072).astype(np.uint8).reshape(4, 3072)
    content = {"data": data, "fine_labels": [1, 0, 1, 2], "coarse_labels": [0] * 4, "filenames": ["a"] * 4}
    for name in ("train", "test"):
        (root / name).write_bytes(pickle.dumps({**content, **changes}))
    (root / "meta").write_bytes(pickle.dumps({"fine_label_names": ["x", "y", "z"]}))
    return root


def _read_all(root: Path) -> list[bytes]:
    contents = []
    for train in (True, False):
        dataset = find_dataset(root, train)
        for index in range(len(dataset)):
            dataset.name(index)
            contents.append(dataset.encoded(index))
    return contents


# Code


class _Bomb:
    """Pickled, it makes the file at `path` when it is read with pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def _bombs(trap: Path) -> dict[str, bytes]:
    index = io.BytesIO()
    np.savez(index, form=np.array([_Bomb(trap)]), label=np.array([_Bomb(trap)]))  # type: ignore[arg-type]
    return {
        "pickle": pickle.dumps(_Bomb(trap)),
        "dict": pickle.dumps({"data": _Bomb(trap), "fine_labels": [0], "fine_label_names": [_Bomb(trap)]}),
        "array": pickle.dumps({"data": np.array([_Bomb(trap)]), "fine_labels": np.array([_Bomb(trap)])}),
        "npz": index.getvalue(),
        "yaml": f"!!python/object/apply:os.mkdir ['{trap}']\n".encode(),
        "python": f"__import__('os').mkdir('{trap}')\n".encode(),
        "xml": b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><object><name>&x;</name></object>',
    }


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_runs_code(roots: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Every file of every layout, in turn, is a file that runs code where it is unpickled or evaluated."""
    trap = tmp_path / "trap"
    for number, place in enumerate(_files(roots[kind])):
        for name, bomb in _bombs(trap).items():
            root = tmp_path / f"{number}{name}"
            shutil.copytree(roots[kind], root)
            (root / place.relative_to(roots[kind])).write_bytes(bomb)
            with contextlib.suppress(DataError, OSError):
                _read_all(root)
            assert not trap.exists()
            shutil.rmtree(root)
    os.mkdir(trap)  # the trap works
    trap.rmdir()
    pickle.loads(_bombs(trap)["pickle"])
    assert trap.exists()


def test_what_a_pickle_names_is_refused_by_its_name(tmp_path: Path) -> None:
    root = _write_cifar(tmp_path, data=_Bomb(tmp_path / "trap"))
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
def test_malformed_cifar(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_dataset(_write_cifar(tmp_path, **changes))


def test_cifar_without_its_keys_or_names(tmp_path: Path) -> None:
    _write_cifar(tmp_path)
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


# What is not a regular file


def _make_odd(kind: str, path: Path) -> Any:
    path.unlink(missing_ok=True)
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "circle":
        path.symlink_to(path.name)
    else:
        server = socket.socket(socket.AF_UNIX)
        place = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        server.bind(path.name)
        os.chdir(place)
        return server
    return None


@pytest.mark.timeout(60)
@pytest.mark.parametrize("odd", ["FIFO", "device", "socket", "circle"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_regular_file_is_named(roots: dict[str, Path], tmp_path: Path, kind: str, odd: str) -> None:
    """Each file in turn; no reader waits for it."""
    said = "Too many levels of symbolic links" if odd == "circle" else f"it is a {odd}, not a regular file"
    for number, place in enumerate(_files(roots[kind])):
        if place.name == "lock.mdb":
            continue
        root = tmp_path / str(number)
        shutil.copytree(roots[kind], root)
        path = root / place.relative_to(roots[kind])
        kept = _make_odd(odd, path)
        if place.name.startswith("dali_salaug-index"):
            assert _read_all(root) == _read_all(roots[kind])  # made again
            assert path.is_file()
            continue
        with pytest.raises((DataError, OSError), match=said) as caught:
            _read_all(root)
        assert place.name in str(caught.value)
        if kept:
            kept.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("odd", ["FIFO", "device", "socket"])
def test_an_image_that_is_no_file_is_one_bad_file(folders: Path, tmp_path: Path, odd: str) -> None:
    shutil.copytree(folders, tmp_path / "data")
    path = tmp_path / "data" / "ape" / "00.jpg"
    kept = _make_odd(odd, path)
    loader = image_loader(
        tmp_path / "data", batch_size=37, image_size=16, device="cpu", num_threads=1, on_bad_file="replace"
    )
    (batch,) = loader
    assert len(batch.indices) == 37
    assert loader.bad_files == {0: f"it is a {odd}, not a regular file"}
    with pytest.raises(DataError, match=rf"'{path}': it is a {odd}, not a regular file"):
        list(image_loader(tmp_path / "data", batch_size=37, image_size=16, device="cpu", num_threads=1))
    if kept:
        kept.close()


def test_open_regular_follows_links_and_has_errors_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to("a")
    with open_regular(tmp_path / "b") as file:
        assert file.read() == b"content"
    for path, number in ((tmp_path, errno.EINVAL), (tmp_path / "c", errno.ENOENT), (f"{tmp_path}/a\0b", errno.EINVAL)):
        with pytest.raises(OSError, match=rf"\[Errno {number}\]"):
            open_regular(path)
    with pytest.raises(OSError, match="too long"):
        Files([f"{tmp_path}/{'x' * 5000}.jpg"]).encoded(0)


# Errors while listing


def test_only_what_is_expected_becomes_a_data_error() -> None:
    for error in (ValueError("a"), KeyError("b"), RecursionError("c"), struct.error("d"), OverflowError("e")):
        message = f"cannot read 'here' as a list: {type(error).__name__}: .*Fetch or make"
        with pytest.raises(DataError, match=message), untrusted("here", "a list"):
            raise error
    for kind in (MemoryError, KeyboardInterrupt, SystemExit):
        with pytest.raises(kind), untrusted("here", "a list"):
            raise kind
    with pytest.raises(DataError, match=r"^own$"), untrusted("here", "a list"):
        raise DataError("own")


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


def test_folders_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.jpg", "b/2.jpg", "b/deep/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    scandir = os.scandir
    for denied in ("", "b", "b/deep"):

        def refuse(path: Any, denied: str = denied) -> Any:  # root may list everything
            if Path(path) == tmp_path / denied:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return scandir(path)

        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", refuse)
            with pytest.raises(DataError, match=rf"cannot read '{tmp_path / denied}': Permission denied"):
                find_dataset(tmp_path)


def test_links_to_themselves_long_paths_and_deep_folders(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "a").mkdir(parents=True)
    (root / "a" / "1.jpg").write_bytes(b"x")
    (root / "circle").symlink_to("circle")
    (root / "a" / "2.jpg").symlink_to("2.jpg")
    dataset = find_dataset(root)
    assert dataset.classes == ["a"]
    assert [Path(file).name for file in dataset.reader.files] == ["1.jpg", "2.jpg"]
    with pytest.raises(OSError, match="Too many levels"):
        dataset.encoded(1)
    with pytest.raises(DataError, match="File name too long"):
        find_dataset(root / ("x" * 300))
    with pytest.raises(DataError, match=r"cannot read '.*': Too many levels of symbolic links|no folder"):
        find_dataset(root / "circle")
    try:
        subprocess.run(["mkdir", "-p", "/".join("d" * 1200)], cwd=root / "a", check=True)
        assert len(find_dataset(root)) == 2  # deeper than Python calls functions
    finally:
        subprocess.run(["rm", "-r", "d"], cwd=root / "a", check=True)  # pytest cannot


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def _block(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


SAMPLE = _header("a.jpg", 1) + _block(b"x") + _header("a.cls", 1) + _block(b"0")
END = bytes(1024)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SAMPLE, "cut short: it stops at byte 2048 without an end"),
        (SAMPLE + END + SAMPLE + END, "it ends at byte 2048, but there is more at byte 3072, as in joined archives"),
        (SAMPLE + bytes(512) + b"\0x" + bytes(510), "it ends at byte 2048, but there is more at byte 2561"),
        (SAMPLE + bytes([SAMPLE[0] ^ 1]) + SAMPLE[1:] + END, "the header at byte 2048 is damaged"),
        (bytes([SAMPLE[0] ^ 1]) + SAMPLE[1:] + END, "checksum"),
        (_header("a.jpg", -1024) + SAMPLE + END, "header|size"),
        (_header("0", 14, b"x") + _block(b"14 path=a.jpg\n") + SAMPLE + END, None),
        (2 * (_header("0", 16, b"x") + _block(b"16 size=-512512\n")) + SAMPLE + END, "size|invalid|negative"),
        (2 * (_header("0", 14, b"x") + _block(b"14 path=a.jpg\n")) + SAMPLE + END, None),
        (2000 * (_header("0", 13, b"x") + _block(b"13 path=a.jp\n")) + SAMPLE + END, "RecursionError"),
        (_header("0", 16, b"x") + _block(b"999 path=a.jpg\n\n") + SAMPLE + END, "header|sample"),
        (_header("0", 16, b"x") + _block(b"16 size=bad pax\n") + SAMPLE + END, "header|ValueError"),
    ],
)
def test_archives_that_end_early_or_are_damaged(tmp_path: Path, content: bytes, message: str | None) -> None:
    (tmp_path / "s.tar").write_bytes(content)
    if message is None:
        assert find_dataset(tmp_path).encoded(0) == b"x"
        return
    with pytest.raises(DataError, match=message) as caught:
        find_dataset(tmp_path)
    assert "s.tar" in str(caught.value)


def test_archives_that_are_whole(tmp_path: Path) -> None:
    """One block of zeros is an end, and so are many."""
    for number, end in enumerate((bytes(512), END, bytes(2**21 + 512))):
        root = tmp_path / str(number)
        root.mkdir()
        (root / "s.tar").write_bytes(SAMPLE + end)
        assert [find_dataset(root).encoded(0)] == [b"x"]


@pytest.mark.parametrize("place", [0, 100, 124, 140, 148, 156, 257, 345])
def test_each_flipped_bit_of_a_header_is_found(roots: dict[str, Path], tmp_path: Path, place: int) -> None:
    content = bytearray((roots["tar"] / "0.tar").read_bytes())
    with tarfile.open(roots["tar"] / "0.tar") as tar:
        for number, member in enumerate(tar):
            damaged = content.copy()
            damaged[member.offset_data - 512 + place] ^= 4
            (tmp_path / "s.tar").write_bytes(damaged)
            with pytest.raises(DataError, match=r"s\.tar' is no whole tar archive.*(checksum|header|byte)"):
                find_dataset(tmp_path)
            assert number or member.offset_data == 512


def test_missing_shards_are_not_left_out(roots: dict[str, Path], tmp_path: Path) -> None:
    for kind, name in (("tar", "1.tar"), ("tfrecord", "b.tfrecord")):
        root = tmp_path / kind
        shutil.copytree(roots[kind], root)
        (root / name).symlink_to("nowhere")
        with pytest.raises(DataError, match=rf"cannot read '.*{name}': No such file"):
            find_dataset(root)


# LMDB


def test_a_cut_lmdb_is_named_or_whole(tmp_path: Path, write_shard: Callable) -> None:
    samples = [(f"{number:03}.jpg", number % 2, bytes([number]) * (50 + 4000 * (number % 2))) for number in range(200)]
    (tmp_path / "whole").mkdir()
    write_shard("lmdb", tmp_path / "whole" / "some", samples)
    path = tmp_path / "whole" / "some" / "data.mdb"
    size = path.stat().st_size
    assert _read_all(path.parents[1]) == 2 * [content for *_, content in samples]
    assert size % 4096 == 0
    for number, length in enumerate((0, 1, 16, 151, 4095, 4096, 8192, 8193, 20_000, size // 2, size - 4096, size - 1)):
        root = tmp_path / str(number)
        shutil.copytree(path.parent, root / "some")
        os.truncate(root / "some" / "data.mdb", length)
        if length >= size - 4096:  # LMDB's last page may be a free one
            with contextlib.suppress(DataError):
                assert _read_all(root) == 2 * [content for *_, content in samples]
            continue
        with pytest.raises(DataError, match=r"cannot read '.*some/data\.mdb' as LMDB: .*Fetch or make it again"):
            find_dataset(root)


def test_an_lmdb_that_shrinks_while_it_is_used(folders: Path, tmp_path: Path, write_shard: Callable) -> None:
    files = find_dataset(folders)
    samples = [(f"{number:03}.jpg", int(files.labels[number]), files.encoded(number)) for number in range(37)]
    write_shard("lmdb", tmp_path / "some", samples)
    loader = image_loader(
        tmp_path, batch_size=37, image_size=16, device="cpu", num_threads=1, on_bad_file="replace", max_bad_share=1
    )
    assert len(next(iter(loader)).indices) == 37
    assert not loader.bad_files
    path = tmp_path / "some" / "data.mdb"
    os.truncate(path, path.stat().st_size * 3 // 4)
    for _ in range(4):  # some batches were made before
        (batch,) = loader
        assert len(batch.indices) == 37
    assert loader.bad_files
    assert all("some, key 000" in loader.dataset.name(index) for index in loader.bad_files)


# Indexes


def _tampered(place: Path, **changes: Any) -> None:
    with np.load(place) as stored:
        arrays = {name: stored[name] for name in stored.files} | changes
    np.savez(place, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize("kind", ["tar", "lmdb"])
def test_a_tampered_index_is_made_again(roots: dict[str, Path], tmp_path: Path, kind: str) -> None:
    root = tmp_path / "data"
    shutil.copytree(roots[kind], root)
    expected = _read_all(root)
    place = find_dataset(root).reader.index_file
    assert place is not None
    with np.load(place) as stored:
        whole = {name: stored[name] for name in stored.files}
    changes: list[dict[str, Any]] = [
        {"offset": whole["offset"] + 10**9},
        {"offset": whole["offset"] + 2**62},
        {"offset": -whole["offset"]},
        {"size": -whole["size"]},
        {"size": whole["size"] + 2**62},
        {"size": whole["size"].astype(np.float64)},
        {"size": whole["size"][:3]},
        {"size": None},
        {"label": whole["label"].astype(str)},
        {"label": whole["label"].reshape(2, 3)},
        {"label": np.array([None] * 6)},
        {"label": whole["label"][:0]},
        {"counts": whole["counts"] - 1},
        {"counts": whole["counts"] * -1},
        {"counts": np.array([3, 3])},
        {"marks": np.array(3)},
        {"form": np.zeros((0, 2))},
    ]
    if kind == "lmdb":
        changes += [
            {"keys": whole["keys"][:-1]},
            {"key_length": whole["key_length"] * 2},
            {"key_length": whole["key_length"] + 2**61},
            {"key_length": -whole["key_length"]},
        ]
    for change in changes:
        _tampered(place, **change)
        assert _read_all(root) == expected, change
        with np.load(place) as stored:
            assert all(np.array_equal(stored[name], array) for name, array in whole.items())


def test_an_index_that_would_fill_the_memory_is_made_again(roots: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(roots["index"], root)
    place = root / "dali_salaug-index-all.npz"
    whole = place.read_bytes()
    with zipfile.ZipFile(place) as stored:
        members = {name: stored.read(name) for name in stored.namelist()}
    bomb = np.lib.format.magic(1, 0)
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }"
    bomb += struct.pack("<H", 118) + header + b" " * (117 - len(header)) + b"\n"
    for compression, content in (
        (zipfile.ZIP_STORED, bomb + bytes(48)),
        (zipfile.ZIP_DEFLATED, bomb + bytes(10**7)),
        (zipfile.ZIP_STORED, bomb[:30]),
        (zipfile.ZIP_STORED, b""),
    ):
        with zipfile.ZipFile(place, "w", compression) as archive:
            for name, member in members.items():
                archive.writestr(name, content if name == "offset.npy" else member)
        assert _read_all(root) == _read_all(roots["index"])
        assert len(place.read_bytes()) == len(whole)


# Anything


def _damaged(content: bytes, generator: np.random.Generator) -> bytes:
    changed, way = bytearray(content), generator.integers(5)
    if way == 0 or not changed:
        return generator.bytes(int(generator.integers(2000)))
    if way == 1:
        return content[: generator.integers(len(content))]
    for _ in range(generator.integers(1, 9)):
        place = int(generator.integers(min(len(content), 2000) if way == 2 else len(content)))
        if way == 4:
            patterns = (b"\xff" * 8, bytes(8), b"\0\0\0\x80" * 2, generator.bytes(8))
            changed[place : place + 8] = patterns[generator.integers(4)]
        else:
            changed[place] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def attack(kind: str, source: Path, root: Path, cases: int) -> dict[str, int]:
    """Damage each file of a layout in turn, at random, and read all. Returns how often it could be read, or not."""
    outcomes = {"read": 0, "refused": 0}
    generator = np.random.default_rng(list(kind.encode()))
    shutil.copytree(source, root)
    files = [path for path in _files(root) if path.suffix != ".jpg" and path.name != "lock.mdb"]
    if kind == "index":
        files = [path for path in files if path.suffix == ".npz"]
    else:
        files = [path for path in files if path.suffix != ".npz"]
    for case in range(cases):
        path = files[case % len(files)]
        whole = path.read_bytes()
        status = path.stat()
        path.write_bytes(_damaged(whole, generator))
        try:
            _read_all(root)
            outcomes["read"] += 1
        except (DataError, OSError):
            outcomes["refused"] += 1
        path.write_bytes(whole)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return outcomes


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "lmdb"])
def test_damaged_at_random(roots: dict[str, Path], tmp_path: Path, kind: str) -> None:
    outcomes = attack(kind, roots[kind], tmp_path / "data", 150)
    assert sum(outcomes.values()) == 150
    assert outcomes["read"] == 150 if kind == "index" else outcomes["refused"] > 30


def test_an_lmdb_damaged_at_random(roots: dict[str, Path], tmp_path: Path) -> None:
    """In a process of its own: what a memory map does to one would end the tests."""
    code = (
        "import sys, json; from pathlib import Path; from tests.pipelines.sources.test_untrusted import attack\n"
        "print(json.dumps(attack('lmdb', Path(sys.argv[1]), Path(sys.argv[2]), 200)))"
    )
    command = [sys.executable, "-c", code, str(roots["lmdb"]), str(tmp_path / "data")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], timeout=120)
    assert result.returncode == 0, result.stderr
    outcomes = json.loads(result.stdout.splitlines()[-1])
    assert outcomes["refused"] > 30


def test_datasets_of_what_was_listed_can_be_pickled(roots: dict[str, Path]) -> None:
    for kind in KINDS:
        dataset = pickle.loads(pickle.dumps(find_dataset(roots[kind])))
        assert isinstance(dataset, Dataset)
        assert [dataset.encoded(i) for i in range(len(dataset))] == _read_all(roots[kind])[: len(dataset)]
