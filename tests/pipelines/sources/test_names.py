"""Which folders and files are for training, which for validation, which hold classes, and which are no data."""

import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from pipelines import DataError, find_dataset
from pipelines.readers.untrusted import untrusted
from pipelines.sources.matlab import read_table
from pipelines.sources.names import says, says_any, split_folder

CLASSES = ["n01", "n02", "n03"]


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def _labels(root: Path) -> dict[str, str]:
    """Class by file, of the validation images."""
    dataset = find_dataset(root, train=False)
    assert dataset.classes == find_dataset(root).classes
    return {
        Path(file).name: dataset.classes[label]
        for file, label in zip(dataset.reader.files, dataset.labels.tolist(), strict=True)
    }


@pytest.mark.parametrize(
    ("name", "train", "val"),
    [
        ("train-0.tar", True, False),
        ("strain-0.tar", False, False),
        ("interval-0.tar", False, False),
        ("trainer.tar", False, False),
        ("valley.tar", False, False),
        ("éval.tar", False, False),
        ("ilsvrc12_train_lmdb", True, False),
        ("ilsvrc12_val_lmdb", False, True),
        ("imagenet1k-Train-0001.tar", True, False),
        ("TRAIN.tar", True, False),
        ("ImageNetTrain.tar", True, False),
        ("myValidationSet.tar", False, True),
        ("train2017.tar", True, False),
        ("validation-00000-of-00128", False, True),
        ("cifar_training.tfrecord", True, False),
        ("valid-1.tar", False, True),
        ("trainset.tar", True, False),
        ("test-0.tar", False, False),
    ],
)
def test_words_of_names(name: str, train: bool, val: bool) -> None:
    assert (says(name, "train"), says(name, "val")) == (train, val)
    assert says_any(name) == (train or val or name.startswith("test"))


def test_shards_are_told_by_whole_words(tmp_path: Path, write_shard: Callable) -> None:
    for name in ("strain-0", "interval-1"):
        write_shard("tar", tmp_path / f"{name}.tar", [(f"{name}.jpg", 0, b"x"), (f"{name}b.jpg", 1, b"x")])
    assert len(find_dataset(tmp_path)) == len(find_dataset(tmp_path, train=False)) == 4
    for name in ("Train-0", "VAL-0"):
        write_shard("tar", tmp_path / f"{name}.tar", [(f"{name}.jpg", 0, b"x"), (f"{name}b.jpg", 1, b"x")])
    assert "Train-0" in find_dataset(tmp_path).name(0)
    assert len(find_dataset(tmp_path)) == len(find_dataset(tmp_path, train=False)) == 2
    write_shard("tar", tmp_path / "train-val-0.tar", [("c.jpg", 0, b"x")])
    for train in (True, False):
        with pytest.raises(DataError, match=r"train-val-0\.tar' has both 'train' and 'val' in its name"):
            find_dataset(tmp_path, train=train)
    (tmp_path / "Training").mkdir()
    (tmp_path / "Training" / "0.tar").write_bytes((tmp_path / "VAL-0.tar").read_bytes())
    assert "Training/0.tar" in find_dataset(tmp_path).name(0)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train", "val"),
        ("Train", "Val"),
        ("training", "validation"),
        ("TRAINING", "Validation"),
        ("train", "valid"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val"),
    ],
)
def test_folders_of_splits_in_any_case(tmp_path: Path, train: str, val: str) -> None:
    _touch(tmp_path, f"{train}/n01/a.jpg", f"{train}/n02/b.jpg", f"{val}/n02/c.jpg", f"{val}/n01/d.jpg", "test/e.jpg")
    assert [Path(file).name for file in find_dataset(tmp_path).reader.files] == ["a.jpg", "b.jpg"]
    assert _labels(tmp_path) == {"c.jpg": "n02", "d.jpg": "n01"}


def test_folders_that_could_be_either(tmp_path: Path) -> None:
    _touch(tmp_path, "Train/n01/a.jpg", "training/n01/b.jpg")
    with pytest.raises(DataError, match=r"has 2 folders for 'train': Train, training\. Keep one"):
        find_dataset(tmp_path)
    _touch(tmp_path, "train/n01/c.jpg")
    assert [Path(file).name for file in find_dataset(tmp_path).reader.files] == ["c.jpg"]
    assert split_folder(["bullet train", "strain", "train station"], "train", "") is None


def test_splits_are_not_taken_for_classes(tmp_path: Path) -> None:
    _touch(tmp_path, "my_train/n01/a.jpg", "my_train/n02/a.jpg", "my_val/n01/b.jpg")
    with pytest.raises(DataError, match="names of parts of a data set, not of classes: my_train, my_val"):
        find_dataset(tmp_path)
    _touch(tmp_path / "b", "train images/a.jpg", "test images/b.jpg")
    with pytest.raises(DataError, match="names of parts"):
        find_dataset(tmp_path / "b")
    _touch(tmp_path / "c", "bullet train/a.jpg", "car/b.jpg")
    assert find_dataset(tmp_path / "c").classes == ["bullet train", "car"]


def test_what_systems_leave_is_left_out(tmp_path: Path) -> None:
    _touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "val/b/4.jpg")
    before = find_dataset(tmp_path).digest, find_dataset(tmp_path, train=False).digest
    for junk in ("@eaDir", "__MACOSX", ".ipynb_checkpoints", "lost+found", "#recycle", "$RECYCLE.BIN"):
        for folder in ("", "train", "val", "train/a", "val/b"):
            _touch(tmp_path / folder, f"{junk}/1.jpg", f"{junk}/a/1.jpg", f"{junk}/1.jpg.d/SYNOPHOTO_THUMB_M.jpg")
    _touch(tmp_path, "train/Thumbs.db", "train/a/Thumbs.db", "train/a/._1.jpg", "train/._a/1.jpg", "train/.DS_Store")
    assert (find_dataset(tmp_path).digest, find_dataset(tmp_path, train=False).digest) == before
    _touch(tmp_path / "alone", "a/1.jpg", "b/2.jpg", "@eaDir/1.jpg", "__MACOSX/a/._1.jpg", "lost+found/x.txt")
    assert find_dataset(tmp_path / "alone").classes == ["a", "b"]


def test_what_systems_leave_in_archives(tmp_path: Path, write_shard: Callable) -> None:
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("@eaDir/a.jpg", "a.jpg", "a.cls", "__MACOSX/a.cls", "b/@eaDir/a.jpg/x.jpg", "b/a.jpg", "b/a.cls"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"0"))
    assert [find_dataset(tmp_path).name(i)[-5:] for i in range(2)] == ["a.jpg"] * 2
    write_shard("tar", tmp_path / "._a.tar", [("a.jpg", 0, b"x")])
    assert len(find_dataset(tmp_path)) == 2


# ImageNet


def _val_names(count: int = 6) -> list[str]:
    return [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, count + 1)]


EXPECTED = dict(zip(_val_names(), ["n03", "n01", "n01", "n02", "n03", "n02"], strict=True))


def _kaggle(root: Path) -> Path:
    base = "ILSVRC/Data/CLS-LOC"
    _touch(root, *(f"{base}/train/{name}/{name}_1.JPEG" for name in CLASSES), f"{base}/test/ILSVRC2012_test_1.JPEG")
    _touch(root, *(f"{base}/val/{name}" for name in _val_names()), "ILSVRC/ImageSets/CLS-LOC/val.txt")
    return root


def _csv(path: Path) -> None:
    rows = [
        f"{Path(name).stem},{label} 1 2 3 4 {label} 5 6 7 8 \n"
        for name, label in sorted(EXPECTED.items(), reverse=True)
    ]
    path.write_text("ImageId,PredictionString\n" + "".join(rows))


def _xml(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, label in EXPECTED.items():
        (folder / f"{Path(name).stem}.xml").write_text(
            f"<annotation>\n<folder>val</folder>\n<source>\n<name>x</name></source>\n<object>\n\t<name>{label}</name>\n"
            f"</object><object><name>n99</name></object></annotation>"
        )


@pytest.mark.parametrize("given", ["", "ILSVRC", "ILSVRC/Data/CLS-LOC"])
@pytest.mark.parametrize("labels", ["csv", "xml"])
def test_kaggle_s_imagenet(tmp_path: Path, labels: str, given: str) -> None:
    _kaggle(tmp_path)
    if labels == "csv":
        _csv(tmp_path / "LOC_val_solution.csv")
    else:
        _xml(tmp_path / "ILSVRC" / "Annotations" / "CLS-LOC" / "val")
    assert find_dataset(tmp_path / given).classes == CLASSES
    assert len(find_dataset(tmp_path / given)) == 3
    assert _labels(tmp_path / given) == EXPECTED


# The class of each number of the kit: not in the order of the names.
_IDS = {1: "n02", 2: "n03", 3: "n01", 4: "n00"}


def _kit(folder: Path, *, table: str = "meta.mat") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    number = {label: key for key, label in _IDS.items()}
    lines = [f"{number[label]}\n" for label in EXPECTED.values()]
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(lines))
    if table == "meta.mat":
        form = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
        rows = np.array([(float(key), label, "some, words", "a gloss", 0.0) for key, label in _IDS.items()], dtype=form)
        savemat(folder / "meta.mat", {"synsets": rows.reshape(-1, 1)})
    elif table:
        (folder / table).write_text("".join(f"{label} {key} some_words\n" for key, label in _IDS.items()))


@pytest.mark.parametrize("table", ["meta.mat", "map_clsloc.txt"])
@pytest.mark.parametrize("place", ["ILSVRC2012_devkit_t12/data", "data", "."])
def test_imagenet_s_archives(tmp_path: Path, place: str, table: str) -> None:
    _touch(tmp_path, *(f"ILSVRC2012_img_train/{name}/{name}_1.JPEG" for name in CLASSES))
    _touch(tmp_path, *(f"ILSVRC2012_img_val/{name}" for name in _val_names()))
    _kit(tmp_path / place, table=table)
    assert _labels(tmp_path) == EXPECTED
    (tmp_path / "ILSVRC2012_img_val" / _val_names()[1]).unlink()  # by the number in the name, not by the order
    assert _labels(tmp_path) == {name: label for name, label in EXPECTED.items() if name != _val_names()[1]}


@pytest.mark.parametrize("do_compression", [False, True])
def test_matlab_s_tables(do_compression: bool) -> None:
    form = [("words", "O"), ("number", "O"), ("class", "O"), ("children", "O")]
    rows = [("é, e", np.uint16(1), "n1", np.zeros((0, 0))), ("", 300.0, "n02119789", np.arange(9.0))]
    file = io.BytesIO()
    table = np.array(rows, dtype=form).reshape(-1, 1)
    savemat(file, {"before": 3, "table": table, "after": "text"}, do_compression=do_compression)
    content = file.getvalue()
    expected = [("1", "n1"), ("300", "n02119789")]
    assert read_table(content, "table", ("number", "class")) == expected

    generator = np.random.default_rng(5)  # damaged at random: SciPy's reader ends the process
    outcomes = []
    for _ in range(500):
        damaged = bytearray(content[: generator.integers(100, len(content) + 1)])
        for place in generator.integers(0, len(damaged), generator.integers(0, 4)):
            damaged[place] ^= 1 << int(generator.integers(8))
        try:
            with untrusted("meta.mat", "a table"):
                outcomes.append(read_table(bytes(damaged), "table", ("number", "class")) == expected)
        except DataError:
            outcomes.append(False)
    assert outcomes.count(False) > 10


def test_imagenet_whose_validation_classes_are_not_known(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"train/{name}/{name}_1.JPEG" for name in CLASSES), *(f"val/{name}" for name in _val_names()))
    with pytest.raises(DataError, match="val' holds images but no class folders, and their classes are not known"):
        find_dataset(tmp_path, train=False)
    _kit(tmp_path, table="")
    with pytest.raises(DataError, match=r"has class numbers; '.*meta\.mat', which names them, is missing"):
        find_dataset(tmp_path, train=False)
    (tmp_path / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(range(256)) * 8)
    with pytest.raises(DataError, match=r"cannot read '.*meta\.mat' as a table of ImageNet's classes"):
        find_dataset(tmp_path, train=False)
    _kit(tmp_path)
    assert _labels(tmp_path) == EXPECTED
    _touch(tmp_path, "val/ILSVRC2012_val_00000007.JPEG")
    with pytest.raises(DataError, match=r"00000007.JPEG' is not named as the images that"):
        find_dataset(tmp_path, train=False)
    _csv(tmp_path / "LOC_val_solution.csv")
    with pytest.raises(DataError, match=r"LOC_val_solution\.csv' does not say the class of .*00000007\.JPEG"):
        find_dataset(tmp_path, train=False)


def test_validation_images_of_other_classes(tmp_path: Path) -> None:
    _kaggle(tmp_path)
    (tmp_path / "LOC_val_solution.csv").write_text("".join(f"{Path(name).stem},n77 1 2 3 4\n" for name in _val_names()))
    with pytest.raises(DataError, match=r"has 1 class.* that the training images lack: n77"):
        find_dataset(tmp_path, train=False)


def test_warnings_of_likely_mistakes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "train/c/3.jpg", "val/a/4.jpg", "one/d/5.jpg")
    with caplog.at_level(logging.WARNING, "pipelines"):
        find_dataset(tmp_path)
        assert caplog.messages == []
        find_dataset(tmp_path, train=False)
        assert caplog.messages == [f"'{tmp_path}' has no validation images of 2 of the 3 classes: b, c"]
        find_dataset(tmp_path / "one")
    assert caplog.messages[1].startswith(f"'{tmp_path / 'one'}' has one class only, 'd': every prediction is right.")
    assert {record.name for record in caplog.records} == {"pipelines"}
