"""s3:// addresses, of a server on this machine, give the batches that the same files give in a folder."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import torch

from pipelines import DataError, Dataset, ImageLoader, find_dataset, image_loader
from pipelines.bad_files.check import check_files
from pipelines.bad_files.probe import reason
from pipelines.decoding import MAX_PIXELS
from pipelines.readers import s3
from pipelines.readers.base import StoreError
from pipelines.readers.files import FileContents, Files

# Keys of which URLs make others, and keys that URLs would have to escape.
ODD_NAMES = ("c/a#b.jpg", "c/a?b=c.jpg", "c//deep//a.jpg", "/c/first.jpg", "c/100%.jpg", "d/a%20b.jpg", "d/a b+c&d.jpg",
             "d#1/é.jpg", "d/@eaDir/a.jpg", "__MACOSX/d/a.jpg", "c/a\tb.jpg")  # fmt: skip


@pytest.fixture(scope="module")
def store(folders: Path) -> Iterator[str]:
    """s3://photos/small with train/ and val/ of the photographs of `folders`, and what is no image."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # In a process of its own: DALI's client soon gives up where this one is busy.
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_RETRY_MODE", "standard")
        patch.setenv("AWS_MAX_ATTEMPTS", "10")
        patch.setenv("AWS_ACCESS_KEY_ID", "name")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        until = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.1)
        client = boto3.client("s3")
        client.create_bucket(Bucket="photos")
        for path in sorted(folders.rglob("*.jpg")):
            name = path.relative_to(folders).as_posix()
            for split in ("train", "val"):
                client.put_object(Bucket="photos", Key=f"small/{split}/{name}", Body=path.read_bytes())
        for name in (
            "small/train/ape/notes.txt",
            "small/train/ape/1.svg",
            "small/train/.hidden/0.jpg",
            "small/0.jpg",
            "smaller/train/x/0.jpg",
        ):
            client.put_object(Bucket="photos", Key=name, Body=b"x")
        for number, name in enumerate(ODD_NAMES):
            body = (folders / "ape" / "00.jpg").read_bytes() + b"%d" % number
            client.put_object(Bucket="photos", Key=f"odd/{name}", Body=body)
        client.put_object(Bucket="photos", Key="bad/a b/text.jpg", Body=b"this is not an image")
        client.put_object(Bucket="photos", Key="bad/a b/good.jpg", Body=path.read_bytes())
        yield "s3://photos/small"
    server.terminate()
    server.wait()


def _loader(root: str | Path | Dataset, **changes: object) -> ImageLoader:
    options = {"batch_size": 16, "image_size": 32, "device": "cpu", "num_threads": 2, "seed": 3}
    return image_loader(root, **(options | changes))


def test_the_batches_are_those_of_the_files(store: str, folders: Path) -> None:
    loader, files = _loader(store), _loader(str(folders))
    assert loader.dataset.classes == files.dataset.classes
    assert loader.dataset.left_out == {".svg": 1}
    assert find_dataset(store, train=False).left_out == files.dataset.left_out == {}
    assert loader.dataset.reader.files[0] == f"{store}/train/ape/00.jpg"
    assert loader.dataset.encoded(0) == (folders / "ape/00.jpg").read_bytes()
    expected = list(files)
    for batch, other in zip(loader, expected, strict=True):
        for name in ("images", "labels", "indices"):
            assert torch.equal(getattr(batch, name), getattr(other, name)), name
    iterator = iter(loader)
    next(iterator)
    resumed = _loader(store)
    resumed.load_state_dict(loader.state_dict())
    assert torch.equal(next(iter(resumed)).images, next(iterator).images)

    # The same for validation, of the folder val; of the classes alone; and as pathlib writes the address.
    for root in (f"{store}/val/", Path(store)):
        (batch,) = _loader(root, train=False, batch_size=37)
        assert batch.labels.tolist() == files.dataset.labels.tolist()


def test_a_list_may_have_addresses(store: str, folders: Path, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(f"{store}/train/ape/03.jpg 1\n{folders}/bee/01.jpg 0\n")
    (batch,) = _loader(str(tmp_path))
    assert sorted(zip(batch.indices.tolist(), batch.labels.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_bad_files_are_named_and_replaced(store: str) -> None:
    root = "s3://photos/bad"
    loader = _loader(root, on_bad_file="replace", max_bad_share=1)
    (batch,) = loader
    assert batch.indices.tolist() == [0, 0]
    assert loader.bad_files.keys() == {1}
    with pytest.raises(DataError, match=r"'s3://photos/bad/a b/text.jpg': it is no image of a known format"):
        list(_loader(root))
    boto3.client("s3").delete_object(Bucket="photos", Key="bad/a b/text.jpg")
    with pytest.raises(DataError, match=r"'s3://photos/bad/a b/text.jpg': .*NoSuchKey"):
        list(_loader(loader.dataset))


def test_what_cannot_be_listed_is_named(store: str) -> None:
    with pytest.raises(DataError, match=r"cannot list 's3://nothing': .*NoSuchBucket"):
        find_dataset("s3://nothing")
    with pytest.raises(DataError, match=r"'s3://photos/empty' holds no images"):
        find_dataset("s3://photos/empty")
    assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1")


def test_odd_keys_are_read(store: str, folders: Path, tmp_path: Path) -> None:
    dataset = find_dataset("s3://photos/odd")
    names = {0: "c", 1: "c", 2: "c", 3: "c", 4: "c", 5: "d", 6: "d", 7: "d#1", 10: "c"}
    assert dataset.classes == ["c", "d", "d#1"]
    content = (folders / "ape" / "00.jpg").read_bytes()
    found = {}
    for index, label in enumerate(dataset.labels.tolist()):
        number = int(dataset.encoded(index).removeprefix(content))
        found[number] = dataset.classes[label]
        assert dataset.name(index) == f"s3://photos/odd/{ODD_NAMES[number]}"
    assert found == names
    loader = _loader(dataset, train=False, batch_size=len(dataset))
    (batch,) = loader
    assert loader.bad_files == {}
    (expected,) = _loader(find_dataset(folders).take([0] * len(dataset)), train=False, batch_size=len(dataset))
    assert torch.equal(batch.images, expected.images)

    # Only what needs it is read here; a list may have both.
    assert type(dataset.reader) is FileContents
    assert type(find_dataset(store).reader) is Files
    (tmp_path / "train.txt").write_text(f"s3://photos/odd/c/a#b.jpg 1\n{folders}/ape/00.jpg 0\n")
    (batch,) = _loader(tmp_path, batch_size=2)
    assert sorted(batch.labels.tolist()) == [0, 1]
    part = dataset.take([2, 0])
    assert type(part.reader) is FileContents
    assert part.encoded(1) == dataset.encoded(0)
    assert part.digest != dataset.take([0, 2]).digest


@pytest.mark.parametrize("name", ["a b", "é", "100%", "a%20b", "a+b&c=d;e:f@g", "[a]{b}|c^d", "a~b'c\"d"])
def test_keys_that_dali_finds(store: str, name: str) -> None:
    """Addresses that are not plain are read by boto3; those that are, by DALI as they are."""
    client = boto3.client("s3")
    content = client.get_object(Bucket="photos", Key="small/train/ape/00.jpg")["Body"].read()
    client.put_object(Bucket="photos", Key=f"plain/{name}.jpg", Body=content)
    address = f"s3://photos/plain/{name}.jpg"
    assert s3.is_plain(address)
    (batch,) = _loader(Dataset(["a"], torch.zeros(1, dtype=torch.int64).numpy(), "", Files([address])))
    assert batch.indices.tolist() == [0]


@pytest.mark.parametrize("name", ["a#b", "a?b", "a//b", "/a", "./a", "a/../b", "a/."])
def test_keys_that_dali_does_not_find(name: str) -> None:
    assert not s3.is_plain(f"s3://photos/{name}")
    assert s3.split(f"s3://photos/{name}") == ("photos", name)
    assert s3.split(f"s3:/photos/{name}") == ("photos", name)  # as pathlib writes it


def test_splits_in_any_case(store: str) -> None:
    client = boto3.client("s3")
    for name in ("Training/a/1.jpg", "Training/b/1.jpg", "VALIDATION/b/1.jpg", "lost+found/c/1.jpg"):
        client.put_object(Bucket="photos", Key=f"cases/{name}", Body=b"x")
    dataset = find_dataset("s3://photos/cases", train=False)
    assert (dataset.classes, dataset.labels.tolist()) == (["a", "b"], [1])
    assert dataset.reader.files == ["s3://photos/cases/VALIDATION/b/1.jpg"]


def test_a_store_that_is_gone_is_no_damaged_file(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, odd = find_dataset(store), find_dataset("s3://photos/odd")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3.client.cache_clear()
    try:
        gone = rf"the store at {endpoint} cannot be read: .*No file is to blame"
        with pytest.raises(StoreError, match=gone):
            plain.encoded(0)
        with pytest.raises(StoreError, match=gone):
            reason(plain, 0, MAX_PIXELS)
        with pytest.raises(StoreError, match=gone):
            list(check_files(plain, threads=1))
        loader = _loader(odd, on_bad_file="replace", max_bad_share=1)
        with pytest.raises(StoreError, match=gone):
            list(loader)
        assert loader.bad_files == {}
        with pytest.raises(StoreError, match="cannot list 's3://photos/small'"):
            find_dataset(store)
    finally:
        monkeypatch.undo()
        s3.client.cache_clear()
