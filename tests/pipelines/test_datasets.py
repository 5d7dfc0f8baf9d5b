"""The file lists: layouts, order, class numbers, and what is wrong with a folder."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines import DataError, Dataset, find_dataset
from pipelines.readers.files import Files
from pipelines.readers.pixels import Pixels


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def _listed(root: Path, train: bool = True) -> list[tuple[str, str]]:
    dataset = find_dataset(root, train)
    assert dataset.labels.dtype == np.int64
    return [
        (str(Path(path).relative_to(root)), dataset.classes[label])
        for path, label in zip(dataset.reader.files, dataset.labels, strict=True)
    ]


def test_class_folders_are_sorted_nested_and_free_of_the_hidden(tmp_path: Path) -> None:
    _touch(tmp_path, "b/2.JPG", "b/1.png", "b/deep/er/0.webp", "b/notes.txt", "b/.0.png", "b/.git/1.png")
    _touch(tmp_path, "a/9.tiff", ".hidden/1.png", "readme.png")
    expected = [("a/9.tiff", "a"), ("b/1.png", "b"), ("b/2.JPG", "b"), ("b/deep/er/0.webp", "b")]
    assert _listed(tmp_path) == expected
    assert _listed(tmp_path, train=False) == expected


def test_links_to_classes_and_files_are_followed_but_not_into_circles(tmp_path: Path) -> None:
    _touch(tmp_path, "store/1.png", "data/a/2.png")
    (tmp_path / "data/b").symlink_to(tmp_path / "store")
    (tmp_path / "data/a/circle").symlink_to(tmp_path / "data")
    (tmp_path / "data/a/3.png").symlink_to(tmp_path / "store/1.png")
    assert _listed(tmp_path / "data") == [("a/2.png", "a"), ("a/3.png", "a"), ("b/1.png", "b")]


def test_imagenet_layout_numbers_validation_by_training_classes(tmp_path: Path) -> None:
    _touch(tmp_path, "train/n1/x.JPEG", "train/n2/y.JPEG", "train/n3/z.JPEG", "val/n3/v.JPEG")
    assert _listed(tmp_path, train=False) == [("val/n3/v.JPEG", "n3")]
    assert find_dataset(tmp_path, train=False).labels.tolist() == [2]
    _touch(tmp_path, "val/n7/v.JPEG")
    with pytest.raises(DataError, match="n7"):
        find_dataset(tmp_path, train=False)


def test_tiny_imagenet_layout(tmp_path: Path) -> None:
    _touch(tmp_path, "train/n1/images/a.JPEG", "train/n1/n1_boxes.txt", "train/n2/images/b.JPEG")
    _touch(tmp_path, "val/images/v0.JPEG", "val/images/v1.JPEG")
    (tmp_path / "val/val_annotations.txt").write_text("v1.JPEG\tn1\t0\t0\t9\t9\nv0.JPEG\tn2\t0\t0\t9\t9\n")
    assert _listed(tmp_path) == [("train/n1/images/a.JPEG", "n1"), ("train/n2/images/b.JPEG", "n2")]
    assert _listed(tmp_path, train=False) == [("val/images/v0.JPEG", "n2"), ("val/images/v1.JPEG", "n1")]
    (tmp_path / "val/val_annotations.txt").write_text("v1.JPEG n1\n")
    with pytest.raises(DataError, match="without a tab"):
        find_dataset(tmp_path, train=False)


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    _touch(tmp_path, "car/1.jpg", "train/2.jpg")
    assert _listed(tmp_path) == [("car/1.jpg", "car"), ("train/2.jpg", "train")]


@pytest.mark.parametrize("train", [True, False])
def test_cifar10_has_its_pixels_and_labels(cifar: Path, train: bool) -> None:
    dataset = find_dataset(cifar, train)
    same = find_dataset(cifar / "cifar-10-batches-py", train)
    first = "data_batch_1" if train else "test_batch"
    content = pickle.loads((cifar / "cifar-10-batches-py" / first).read_bytes())
    assert isinstance(dataset.reader, Pixels)
    images = dataset.reader.images
    assert len(dataset) == len(images) == (100 if train else 30)
    assert images[3, 7, 5].tolist() == content[b"data"][3].reshape(3, 32, 32)[:, 7, 5].tolist()
    assert dataset.labels[:20].tolist() == content[b"labels"][:20]
    assert dataset.classes[4] == "class 4"
    assert same.digest == dataset.digest


def test_cifar100_with_text_keys(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    content = {"data": np.zeros((4, 3072), np.uint8), "fine_labels": [1, 0, 1, 2], "coarse_labels": [9] * 4}
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["x", "y", "z"]}))
    dataset = find_dataset(tmp_path, train=False)
    assert dataset.classes == ["x", "y", "z"]
    assert dataset.labels.tolist() == [1, 0, 1, 2]


def test_a_damaged_pickle_is_named(cifar: Path, tmp_path: Path) -> None:
    shutil.copytree(cifar, tmp_path / "copy")
    path = tmp_path / "copy/cifar-10-batches-py/data_batch_3"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="data_batch_3"):
        find_dataset(tmp_path / "copy")
    path.unlink()
    with pytest.raises(DataError, match="data_batch_3"):
        find_dataset(tmp_path / "copy")


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder '.*nowhere'"):
        find_dataset(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty' holds no class folders"):
        find_dataset(tmp_path / "empty")
    _touch(tmp_path, "some/full/1.jpg", "some/bare/readme.txt")
    with pytest.raises(DataError, match="bare' holds no images"):
        find_dataset(tmp_path / "some")
    _touch(tmp_path, "split/train/a/1.jpg")
    with pytest.raises(DataError, match=r"no folder '.*val'"):
        find_dataset(tmp_path / "split", train=False)


@pytest.mark.parametrize("seed", range(4))
def test_the_first_images_of_each_class_are_dealt_out_evenly(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(5), generator.choice(5, 35, p=[0.02, 0.08, 0.2, 0.3, 0.4])])
    generator.shuffle(labels)
    paths = [f"/data/{i:02}.png" for i in range(40)]
    files = Dataset([*"abcde"], labels, "/data", Files(paths))
    images = np.arange(40 * 12, dtype=np.uint16).reshape(40, 2, 2, 3)
    memory = Dataset([*"abcde"], labels, "/data", Pixels(images, "/data"))
    for count in range(5, 41):
        hands = {label: [i for i in range(40) if labels[i] == label] for label in range(5)}
        chosen: list[int] = []
        while len(chosen) < count:
            for label in range(5):
                if hands[label] and len(chosen) < count:
                    chosen.append(hands[label].pop(0))
        chosen.sort()
        subset = files.first(count)
        assert subset.reader.files == [paths[i] for i in chosen]
        assert subset.labels.tolist() == labels[chosen].tolist()
        assert (subset.classes, subset.reader.kind) == (files.classes, "files")
        assert (subset.digest == files.digest) == (count == 40)
        subset = memory.first(count)
        assert isinstance(subset.reader, Pixels)
        assert subset.reader.images[:, 0, 0, 0].tolist() == [12 * i for i in chosen]
        assert (subset.digest == memory.digest) == (count == 40)


def test_more_images_than_there_are_or_fewer_than_classes(tmp_path: Path) -> None:
    dataset = find_dataset(_touch(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg"))
    for count in (1, 4):
        with pytest.raises(DataError, match=rf"has 3 images of 2 classes: .* must be from 2 to 3, got {count}"):
            dataset.first(count)


def test_the_digest_follows_samples_and_not_the_place(tmp_path: Path) -> None:
    before = find_dataset(_touch(tmp_path / "one", "a/1.jpg", "b/2.jpg")).digest
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert find_dataset(tmp_path / "two").digest == before
    _touch(tmp_path / "two", "b/3.jpg")
    assert find_dataset(tmp_path / "two").digest != before
    (tmp_path / "one/b").rename(tmp_path / "one/c")
    assert find_dataset(tmp_path / "one").digest != before
