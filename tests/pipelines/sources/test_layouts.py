"""Shards, LMDB folders and lists of files give the batches that the same images give as files in class folders."""

import gzip
import json
import os
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def, tfrecord

from pipelines import Batch, DataError, Dataset, ImageLoader, find_dataset, image_loader
from train.__main__ import main as program

KINDS = ("tar", "tfrecord", "lmdb", "list")
SHARDS = 3


def _samples(root: Path, train: bool = True) -> list[tuple[str, int, bytes]]:
    dataset = find_dataset(root, train)
    return [
        (Path(path).name, label, Path(path).read_bytes())
        for path, label in zip(dataset.reader.files, dataset.labels.tolist(), strict=True)
    ]


def _write(kind: str, root: Path, name: str, samples: list, write_shard: Callable, shards: int = SHARDS) -> None:
    """One split under `root`, in a layout that people have."""
    root.mkdir(exist_ok=True)
    if kind == "list":
        (root / "images" / name).mkdir(parents=True)
        for number, (_, _, content) in enumerate(samples):
            (root / "images" / name / f"the {number:03}.jpg").write_bytes(content)
        lines = [f"images/{name}/the {number:03}.jpg {label}\n" for number, (_, label, _) in enumerate(samples)]
        (root / f"{name}.txt").write_text("".join(lines))
    elif kind == "lmdb":
        write_shard(kind, root / f"ilsvrc12_{name}_lmdb", samples)
    else:
        for number in range(shards):
            part = samples[len(samples) * number // shards : len(samples) * (number + 1) // shards]
            if kind == "tar":
                (root / name).mkdir(exist_ok=True)
                write_shard(kind, root / name / f"{number:04}.tar", part)
            else:
                name = "validation" if name == "val" else name
                write_shard(kind, root / f"{name}-{number:05}-of-{shards:05}", part)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, folders: Path, write_shard: Callable) -> Path:
    """The photographs of `folders` in the order of its list, and the same as "val" without the first, in each kind."""
    root = tmp_path_factory.mktemp("sources")
    for kind in KINDS:
        for name, samples in (("train", _samples(folders)), ("val", _samples(folders)[1:])):
            _write(kind, root / kind, name, samples, write_shard)
        (root / kind / "classes.txt").write_text("ape\nbee\ncat\n")
    return root


def _loader(root: Path | Dataset, **changes: Any) -> ImageLoader:
    options = {"batch_size": 8, "image_size": 32, "device": "cpu", "num_threads": 1, "seed": 3}
    return image_loader(root, **(options | changes))


def _assert_same(batches: list[Batch], others: list[Batch]) -> None:
    for batch, other in zip(batches, others, strict=True):
        for name in ("images", "labels", "indices"):
            assert torch.equal(getattr(batch, name), getattr(other, name)), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_batches_are_those_of_the_files(sources: Path, folders: Path, kind: str) -> None:
    loader, files = _loader(sources / kind), _loader(folders)
    assert loader.dataset.classes == files.dataset.classes
    for _ in range(2):  # each epoch in its own order
        _assert_same(list(loader), list(files))

    whole = list(_loader(files.dataset.take(np.arange(1, 37)), train=False))
    _assert_same(list(_loader(sources / kind, train=False)), whole)
    _assert_same(list(_loader(sources / kind, images=9)), list(_loader(folders, images=9)))


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_together_and_resumed_are_one_process(sources: Path, kind: str) -> None:
    whole = list(_loader(sources / kind))
    parts = [list(_loader(sources / kind, batch_size=4, rank=rank, world_size=2)) for rank in range(2)]
    assert sorted(index for part in parts for batch in part for index in batch.indices.tolist()) == list(range(37))
    for number, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[number].images for part in parts]), batch.images)

    first = _loader(sources / kind)
    iterator = iter(first)
    next(iterator), next(iterator)
    state = json.loads(json.dumps(first.state_dict()))
    resumed = _loader(sources / kind)
    resumed.load_state_dict(state)
    _assert_same(list(resumed), whole[2:])


def test_each_source_knows_its_state(sources: Path) -> None:
    states = [_loader(sources / kind).state_dict() for kind in KINDS]
    states.append(_loader(sources / "tar", train=False).state_dict())
    digests = {state["configuration"]["dataset"] for state in states}
    assert len(digests) == len(states)
    for state in states[1:]:
        with pytest.raises(ValueError, match="dataset"):
            _loader(sources / "tar").load_state_dict(state)


@pytest.mark.parametrize("kind", KINDS)
def test_moved_data_are_the_same(sources: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(sources / kind, tmp_path / "moved")
    assert find_dataset(tmp_path / "moved").digest == find_dataset(sources / kind).digest


def test_dali_s_own_readers_give_the_same(sources: Path) -> None:
    """What is in the files is what the formats' other readers find there, in the same order."""
    parts = {kind: find_dataset(sources / kind) for kind in ("tar", "tfrecord", "lmdb")}
    assert all(parts[kind].reader.kind == "records" for kind in parts)
    shards = parts["tfrecord"].reader.files
    indexes = [f"{shard}.idx" for shard in shards]
    folders = os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))  # an environment may not be active
    script = shutil.which("tfrecord2idx", path=folders)
    assert script is not None, "it comes with DALI"
    for shard, place in zip(shards, indexes, strict=True):
        subprocess.run([script, shard, place], check=True, capture_output=True)

    @pipeline_def(batch_size=37, num_threads=1, device_id=None)
    def read() -> tuple:
        features = {
            "image/encoded": tfrecord.FixedLenFeature((), tfrecord.string, ""),
            "image/class/label": tfrecord.FixedLenFeature([1], tfrecord.int64, -1),
        }
        records = fn.readers.tfrecord(path=shards, index_path=indexes, features=features)
        tars = fn.readers.webdataset(paths=parts["tar"].reader.files, ext=["jpg", "cls"])
        datums = fn.readers.caffe(path=parts["lmdb"].reader.files)
        return (*tars, records["image/encoded"], records["image/class/label"], *datums)

    outputs = [[np.asarray(sample) for sample in output] for output in read().run()]
    for index in range(37):
        image, label, record, record_label, datum, datum_label = (output[index] for output in outputs)
        for kind, content in (("tar", image), ("tfrecord", record), ("lmdb", datum)):
            assert parts[kind].encoded(index) == content.tobytes()
        labels = [int(label.tobytes()), int(record_label[0]) - 1, int(datum_label[0])]
        assert labels == [parts[kind].labels[index] for kind in ("tar", "tfrecord", "lmdb")]
    for place in indexes:
        Path(place).unlink()


def test_many_threads_and_more_shards_than_are_kept_open(
    tmp_path: Path, write_shard: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a thread reads from is neither closed nor another file, however often files are dropped and opened again."""
    from pipelines.readers import records

    monkeypatch.setattr(records, "_OPEN", 2)
    samples = [(f"{number}.jpg", number % 2, b"%d " % number * 999) for number in range(24)]
    _write("tar", tmp_path, "train", samples, write_shard, shards=12)
    dataset = find_dataset(tmp_path)
    order = np.random.default_rng(0).integers(0, 24, 2000)
    for index, content in zip(order.tolist(), dataset.reader.inputs(order), strict=True):
        assert content.tobytes() == samples[index][2]


@pytest.mark.parametrize("kind", ["tar", "tfrecord", "lmdb"])
def test_bad_images_are_named_and_replaced(
    tmp_path: Path, folders: Path, write_shard: Callable, spoiled: Callable, make_photo: Callable, kind: str
) -> None:
    bad = spoiled(make_photo(90, 120))
    samples = _samples(folders) + [(name, 1, content) for name, content in bad.items()]
    _write(kind, tmp_path, "train", samples, write_shard)
    names = {37 + number: name for number, name in enumerate(bad)}

    loader = _loader(tmp_path, on_bad_file="replace", max_bad_share=0.5)
    whole = list(loader)
    assert loader.bad_files.keys() >= names.keys() - {37, 38}  # one cut short is whole in some crops
    assert loader.bad_files[43] == "the file is empty"
    assert sum(len(batch.indices) for batch in whole) == len(loader.dataset) == 44
    for index, name in names.items():
        place = loader.dataset.name(index)
        assert place.startswith(str(tmp_path))
        assert kind == "tfrecord" or Path(name).stem in place
    with pytest.raises(DataError, match=r"cannot decode image .* Fetch or make the file that it is in again"):
        list(_loader(tmp_path))


def test_several_lmdb_folders_hold_other_images_under_the_same_keys(tmp_path: Path, write_shard: Callable) -> None:
    """Keys are of a folder: those of another may be the same."""
    samples = [(f"{number}.jpg", number % 3, b"%d" % number) for number in range(6)]
    again = [(name, label, b"another " + content) for name, label, content in samples]
    write_shard("lmdb", tmp_path / "first_train_lmdb", samples)
    write_shard("lmdb", tmp_path / "second_train_lmdb", again)
    dataset = find_dataset(tmp_path)
    assert [dataset.encoded(index) for index in range(12)] == [content for *_, content in samples + again]
    assert dataset.labels.tolist() == [0, 1, 2] * 4
    part = dataset.take(np.array([10, 1]))
    assert [part.encoded(index) for index in range(2)] == [b"another 4", b"1"]
    assert part.name(0) == f"{tmp_path / 'second_train_lmdb'}, key 00000004_4.jpg"
    assert part.digest != dataset.take(np.array([4, 1])).digest


def test_shards_that_vanish_or_are_cut_short_during_a_run(sources: Path, tmp_path: Path) -> None:
    shutil.copytree(sources / "tar", tmp_path / "data")
    loader = _loader(tmp_path / "data", on_bad_file="replace", max_bad_share=0.9)
    (tmp_path / "data" / "train" / "0000.tar").unlink()
    with open(tmp_path / "data" / "train" / "0002.tar", "r+b") as file:
        file.truncate(20_000)
    list(loader)
    assert set(range(12)) <= loader.bad_files.keys() <= set(range(12)) | set(range(24, 37))
    assert loader.bad_files[0] == "No such file or directory"
    assert loader.bad_files[36] == "the file is empty"
    with pytest.raises(DataError, match=r"0001\.tar|0000\.tar|0002\.tar"):
        find_dataset(tmp_path / "data")  # listed anew: the shards are others


@pytest.mark.parametrize("kind", ["tar", "tfrecord", "lmdb"])
def test_the_command_makes_the_index_that_training_uses(
    sources: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    shutil.copytree(sources / kind, root, ignore=shutil.ignore_patterns("dali_salaug-index-*"))
    assert program(["index", str(root)]) == 0
    made = sorted(path.relative_to(root).as_posix() for path in root.rglob("*index*"))
    places = {"tar": ("train/", "val/")}.get(kind, ("", ""))
    assert made == [f"{places[0]}dali_salaug-index-train.npz", f"{places[1]}dali_salaug-index-val.npz"]
    files = 1 if kind == "lmdb" else SHARDS
    out = capsys.readouterr().out.splitlines()
    assert out == [
        f"{root / made[0]}: 37 images of 3 classes in {files} files",
        f"{root / made[1]}: 36 images of 3 classes in {files} files",
    ]

    from pipelines.sources import index as indexes

    made_again = []
    make = indexes._make
    monkeypatch.setattr(indexes, "_make", lambda *args: made_again.append(args[2].name) or make(*args))
    find_dataset(root), find_dataset(root, train=False)
    assert made_again == []
    (root / made[1]).write_bytes((root / made[1]).read_bytes()[:-200])  # damaged
    assert len(find_dataset(root, train=False)) == 36
    assert made_again == ["val"]


def test_an_index_follows_its_shards(tmp_path: Path, folders: Path, write_shard: Callable) -> None:
    samples = _samples(folders)
    _write("tar", tmp_path, "train", samples, write_shard)
    assert len(find_dataset(tmp_path)) == 37
    write_shard("tar", tmp_path / "train" / "0001.tar", samples[:5])
    assert len(find_dataset(tmp_path)) == 37 - 12 + 5
    (tmp_path / "train" / "0002.tar").unlink()
    dataset = find_dataset(tmp_path)
    assert [dataset.encoded(index) for index in range(12, 17)] == [content for _, _, content in samples[:5]]


def test_where_the_folder_cannot_be_written_the_cache_has_the_index(
    tmp_path: Path, folders: Path, write_shard: Callable, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    from pipelines.sources import index as indexes

    def refuse(*, dir: Path, **options: Any) -> Any:
        if dir == tmp_path / "data" / "train" or refuse_all:
            raise PermissionError(13, "Permission denied")
        return named(dir=dir, **options)

    refuse_all = False
    named = indexes.tempfile.NamedTemporaryFile
    monkeypatch.setattr(indexes.tempfile, "NamedTemporaryFile", refuse)
    monkeypatch.setenv("DALI_SALAUG_CACHE", str(tmp_path / "cache"))
    _write("tar", tmp_path / "data", "train", _samples(folders), write_shard)
    for _ in range(2):
        dataset = find_dataset(tmp_path / "data")
        assert dataset.reader.index_file is not None
        assert dataset.reader.index_file.parent == tmp_path / "cache" / "indexes"
    dataset.reader.index_file.unlink()
    refuse_all = True
    dataset = find_dataset(tmp_path / "data")
    assert len(dataset) == 37
    assert dataset.reader.index_file is None
    assert "could not be stored" in caplog.text


def test_labels_are_held_to_the_classes(sources: Path, tmp_path: Path, write_shard: Callable, folders: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(sources / "tar", root)
    (root / "classes.txt").write_text("ape\nbee\n")
    with pytest.raises(DataError, match="labels from 0 to 2, but there are 2 classes"):
        find_dataset(root)
    (root / "classes.txt").unlink()
    write_shard("tar", root / "val" / "0002.tar", [("x.jpg", 3, b"x")])
    assert find_dataset(root).classes == ["0", "1", "2"]
    with pytest.raises(DataError, match="labels from 0 to 3, but there are 3 classes"):
        find_dataset(root, train=False)
    shutil.rmtree(root / "val")
    with pytest.raises(DataError, match="none for validation"):
        find_dataset(root, train=False)


def test_damaged_and_compressed_containers_are_named(sources: Path, tmp_path: Path) -> None:
    record = (sources / "tfrecord" / "train-00001-of-00003").read_bytes()
    archive = (sources / "tar" / "train" / "0001.tar").read_bytes()
    cases = (
        ("a-00000-of-00001", record[:-9], "record 11 is damaged or cut short"),
        ("a-00000-of-00001", b"\x01" + record[1:], "record 0 is damaged"),
        ("a-00000-of-00001", gzip.compress(record), "uncompressed: record 0 is damaged"),
        ("a.tar", archive[:20_000], "no whole tar archive, uncompressed: cut short"),
        ("a.tar", archive[: 512 * 3], "no whole tar archive, uncompressed: unexpected end of data"),
        ("a.tar", gzip.compress(archive), "no whole tar archive, uncompressed"),
        ("a.tar.gz", gzip.compress(archive), "is compressed"),
    )
    for number, (name, content, message) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            find_dataset(folder)


def test_an_archive_beside_class_folders_changes_nothing(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders, tmp_path / "data")
    (tmp_path / "data" / "download.tar").write_bytes(b"x")
    assert find_dataset(tmp_path / "data").digest == find_dataset(folders).digest


@pytest.mark.parametrize("kind", ["tar", "tfrecord", "lmdb"])
@pytest.mark.parametrize("name", ["imagenet-samples", "tiny-imagenet-20"])
def test_real_photographs(
    tmp_path: Path, real_data: Callable[[str], Path], write_shard: Callable, name: str, kind: str
) -> None:
    """100 of each: the same batch as from their files; also by the command line's check, without an error."""
    root = real_data(name)
    dataset = find_dataset(root)
    dataset = dataset.first(max(100, len(dataset.classes)))
    samples = [
        (Path(path).name, label, dataset.encoded(index))
        for index, (path, label) in enumerate(zip(dataset.reader.files, dataset.labels.tolist(), strict=True))
    ]
    _write(kind, tmp_path, "train", samples, write_shard)
    (tmp_path / "classes.txt").write_text("\n".join(dataset.classes))
    options = {"batch_size": 50, "image_size": 64}
    _assert_same(list(_loader(tmp_path, **options)), list(_loader(dataset, **options)))


def test_a_hundred_thousand_files_are_listed_in_time(tmp_path: Path) -> None:
    """The issue's limit is 5 s from the call to the loader; on an idle machine it takes a fraction of a second.

    The hundred class folders are links to one of a thousand files: as many entries to list, fewer to make.
    """
    (tmp_path / "files").mkdir()
    for number in range(1000):
        (tmp_path / "files" / f"{number:04}.jpg").touch()
    (tmp_path / "data").mkdir()
    for label in range(100):
        (tmp_path / "data" / f"{label:03}").symlink_to(tmp_path / "files")
    start = time.perf_counter()
    loader = _loader(tmp_path / "data")
    loader.state_dict()
    took = time.perf_counter() - start
    assert len(loader.dataset) == 100_000
    assert took < 5
