"""Where validation images are found: folders of tests as the last resort, and folders of their own."""

import io
import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import DataError, Dataset, find_dataset, find_validation, image_loader


def _write(root: Path, *names: str) -> Path:
    """Small images, each of the grey that its place among the names has."""
    for place, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), place).save(root / name)
    return root


def _classes_of(dataset: Dataset) -> dict[str, str]:
    names = (dataset.name(index) for index in range(len(dataset)))
    return {Path(name).name: dataset.classes[label] for name, label in zip(names, dataset.labels, strict=True)}


@pytest.mark.parametrize("name", ["test", "Test", "testing"])
def test_test_images_are_the_last_resort(name: str, tmp_path: Path) -> None:
    _write(tmp_path, "train/a/0.png", "train/b/1.png", f"{name}/b/2.png")
    assert _classes_of(find_dataset(tmp_path, train=False)) == {"2.png": "b"}
    _write(tmp_path, "valid/a/3.png")
    assert _classes_of(find_dataset(tmp_path, train=False)) == {"3.png": "a"}
    assert _classes_of(find_dataset(tmp_path)) == {"0.png": "a", "1.png": "b"}


def test_test_images_without_classes_are_not(tmp_path: Path) -> None:
    _write(tmp_path, "train/a/0.png", "test/1.png")
    with pytest.raises(DataError, match=r"no folder '.*/val' for validation"):
        find_dataset(tmp_path, train=False)


def test_lists_and_shards_of_tests(tmp_path: Path) -> None:
    _write(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "train.txt").write_text("a.png 0\nb.png 1\n")
    with pytest.raises(DataError, match=r"no list '.*/val\.txt'"):
        find_dataset(tmp_path, train=False)
    (tmp_path / "test.txt").write_text("c.png 1\n")
    assert _classes_of(find_dataset(tmp_path, train=False)) == {"c.png": "1"}
    (tmp_path / "val.txt").write_text("b.png 0\n")
    assert _classes_of(find_dataset(tmp_path, train=False)) == {"b.png": "0"}


def test_shards_of_tests(tmp_path: Path) -> None:
    for name, label in (("my-train-0.tar", 0), ("my-train-1.tar", 1), ("my-test-0.tar", 1)):
        image = io.BytesIO()
        Image.new("L", (8, 8)).save(image, "PNG")
        with tarfile.open(tmp_path / name, "w") as shard:
            for member, content in (("x.png", image.getvalue()), ("x.cls", str(label).encode())):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))
    validation = find_dataset(tmp_path, train=False)
    assert validation.labels.tolist() == [1]
    assert [Path(file).name for file in validation.reader.files] == ["my-test-0.tar"]


def test_labels_of_another_folder_number_the_training_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By name: the other folder lacks a class, so that its own numbers are others."""
    training = find_dataset(_write(tmp_path / "train", "ant/0.png", "bee/1.png", "cat/2.png"))
    other = _write(tmp_path / "other", "bee/3.png", "cat/4.png", "cat/5.png")
    validation = find_validation(other, training.classes)
    assert validation.classes == ["ant", "bee", "cat"]
    assert _classes_of(validation) == {"3.png": "bee", "4.png": "cat", "5.png": "cat"}
    assert caplog.record_tuples == [
        ("pipelines", logging.WARNING, f"'{other}' has no validation images of 1 of the 3 classes: ant")
    ]
    loader = image_loader(validation, train=False, batch_size=3, image_size=8, device="cpu", num_threads=1)
    (batch,) = loader
    assert batch.labels.tolist() == [1, 2, 2]
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (loader.mean, loader.std))
    levels = (batch.images.numpy() * std + mean) * 255
    assert levels.mean((1, 2, 3)).round().tolist() == [0, 1, 2]


def test_of_a_folder_with_both_the_validation_images_count(tmp_path: Path) -> None:
    both = _write(tmp_path, "train/a/0.png", "train/b/1.png", "validation/b/2.png")
    assert _classes_of(find_validation(both, ["b", "a"])) == {"2.png": "b"}
    assert find_validation(both, ["b", "a"]).labels.tolist() == [0]


@pytest.mark.parametrize("classes", [["ant", "dog"], ["Ant", "bee"], []])
def test_classes_that_the_training_images_lack(classes: list[str], tmp_path: Path) -> None:
    other = _write(tmp_path, "ant/0.png", "bee/1.png")
    lacking = sorted({"ant", "bee"} - set(classes))
    message = rf"'{other}' has {len(lacking)} class\(es\) that the training images lack: {', '.join(lacking)}"
    with pytest.raises(DataError, match=message):
        find_validation(other, classes)
