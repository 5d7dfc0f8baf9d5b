"""Folders and links: what cannot be listed is named, and what is no regular file is never waited for."""

import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import DataError, find_dataset, image_loader
from pipelines.readers.files import Files
from pipelines.readers.untrusted import open_regular


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
def test_what_is_not_a_regular_file_is_named(
    roots: dict[str, Path], tmp_path: Path, kind: str, odd: str, read_all: Callable, files_of: Callable
) -> None:
    """Each file in turn; no reader waits for it."""
    said = "Too many levels of symbolic links" if odd == "circle" else f"it is a {odd}, not a regular file"
    for number, place in enumerate(files_of(roots[kind])):
        if place.name == "lock.mdb":
            continue
        root = tmp_path / str(number)
        shutil.copytree(roots[kind], root)
        path = root / place.relative_to(roots[kind])
        kept = _make_odd(odd, path)
        if place.name.startswith("dali_salaug-index"):
            assert read_all(root) == read_all(roots[kind])  # made again
            assert path.is_file()
            continue
        with pytest.raises((DataError, OSError), match=said) as caught:
            read_all(root)
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


def test_missing_shards_are_not_left_out(roots: dict[str, Path], tmp_path: Path) -> None:
    for kind, name in (("tar", "1.tar"), ("tfrecord", "b.tfrecord")):
        root = tmp_path / kind
        shutil.copytree(roots[kind], root)
        (root / name).symlink_to("nowhere")
        with pytest.raises(DataError, match=rf"cannot read '.*{name}': No such file"):
            find_dataset(root)
