"""Data sets of Hugging Face's `datasets`, made and read with the package itself."""

import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import DataError, Dataset, find_dataset, image_loader
from pipelines.readers import base, hugging_face

datasets = pytest.importorskip("datasets")
OPTIONS: dict[str, Any] = {"batch_size": 8, "image_size": 16, "device": "cpu", "num_threads": 1}
CLASSES = ["ape", "bee", "cat"]


@pytest.fixture(scope="module")
def stored(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The photographs of `folders` as Arrow files of several pieces, mapped into memory."""
    known = find_dataset(folders)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=CLASSES),
            "tags": datasets.Sequence(datasets.ClassLabel(names=[*"wxyz"])),
            "soft": datasets.Sequence(datasets.Value("float64"), length=2),
            "age": datasets.Value("float32"),
            "count": datasets.Value("int32"),
            "raw": datasets.Value("binary"),
            "text": datasets.Value("string"),
            "ragged": datasets.Sequence(datasets.Value("int64")),
        }
    )
    contents = [known.encoded(i) for i in range(37)]
    rows = {
        "image": [{"bytes": content, "path": f"/x/{i}.jpg"} for i, content in enumerate(contents)],
        "label": known.class_indices.tolist(),
        "tags": [[t for t in range(4) if i & 1 << t] for i in range(37)],
        "soft": [[i / 7, 1 - i / 7] for i in range(37)],
        "age": [i + 0.25 for i in range(37)],
        "count": [i % 5 for i in range(37)],
        "raw": contents,
        "text": ["a"] * 37,
        "ragged": [[0] * (1 + i % 2) for i in range(37)],
    }
    root = tmp_path_factory.mktemp("hugging") / "set"
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(root, num_shards=3)
    return datasets.load_from_disk(root)


@pytest.mark.parametrize("image", ["image", "raw"])
def test_the_batches_are_those_of_the_files(stored: Any, folders: Path, image: str) -> None:
    dataset = Dataset.from_hugging_face(stored, image)
    assert dataset.classes == CLASSES
    pairs = zip(image_loader(dataset, **OPTIONS), image_loader(find_dataset(folders), **OPTIONS), strict=True)
    for batch, expected in pairs:
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.labels, expected.labels)


@pytest.mark.parametrize("order", ["select", "slice", "shuffle", "filter", "concatenate", "twice"])
def test_selected_and_shuffled_rows(stored: Any, order: str) -> None:
    part = {
        "select": lambda: stored.select([5, 36, 5, 0]),
        "slice": lambda: stored.select(range(11, 30)),
        "shuffle": lambda: stored.shuffle(seed=1),
        "filter": lambda: stored.filter(lambda age: age > 20, input_columns="age"),
        "concatenate": lambda: datasets.concatenate_datasets([stored.select([9, 1]), stored.select(range(14, 17))]),
        "twice": lambda: stored.shuffle(seed=1).select(range(3, 20)).train_test_split(0.5, seed=0)["train"],
    }[order]()
    dataset = Dataset.from_hugging_face(part, label=["label", "age"])
    expected = part.cast_column("image", datasets.Image(decode=False))[:]
    assert len(dataset) == len(expected["age"])
    labels: Any = dataset.labels
    assert labels["label"].tolist() == expected["label"]
    assert labels["age"].tolist() == expected["age"]
    assert [dataset.encoded(i) for i in range(len(dataset))] == [row["bytes"] for row in expected["image"]]
    chosen = dataset.take(np.array([2, 0]))
    assert [chosen.encoded(i) for i in range(2)] == [expected["image"][i]["bytes"] for i in (2, 0)]


def test_labels_of_every_column(stored: Any) -> None:
    def labels(column: Any) -> Any:
        return Dataset.from_hugging_face(stored, label=column)

    tags = np.array([[i >> t & 1 for t in range(4)] for i in range(37)], np.float32)
    assert np.array_equal(labels("tags").labels, tags)
    assert labels("tags").classes == [*"wxyz"]
    soft = np.array([[i / 7, 1 - i / 7] for i in range(37)], np.float32)
    assert np.array_equal(labels("soft").labels, soft)
    assert np.array_equal(labels("age").labels, np.arange(37, dtype=np.float32) + np.float32(0.25))
    assert np.array_equal(labels("count").labels, np.arange(37) % 5)
    assert labels("count").classes == [*"01234"]
    several = labels(["tags", "count"])
    assert list(several.labels) == ["tags", "count"]
    assert (several.classes, several.labels["tags"].shape) == ([], (37, 4))
    assert labels(None).labels == labels([]).labels == {}


def test_missing_labels(stored: Any) -> None:
    def of(name: str, feature: Any, values: list) -> Any:
        features = datasets.Features({"image": datasets.Value("binary"), name: feature})
        return datasets.Dataset.from_dict({"image": [b"x"] * 3, name: values}, features=features)

    hidden = Dataset.from_hugging_face(of("label", datasets.ClassLabel(names=CLASSES), [2, None, -1]))
    assert hidden.class_indices.tolist() == [2, -1, -1]
    with pytest.raises(DataError, match="the class of 'the Hugging Face data set, row 1' is not known"):
        hidden.require_labels()
    tags = datasets.Sequence(datasets.ClassLabel(names=CLASSES))
    assert np.array_equal(
        Dataset.from_hugging_face(of("label", tags, [None, [], [1]])).labels, np.eye(3)[[0, 0, 1]] * [[0], [0], [1]]
    )
    with pytest.raises(DataError, match="column 'label' of 'the Hugging Face data set' lacks 1 of its values"):
        Dataset.from_hugging_face(of("label", datasets.Value("float32"), [0.5, None, 1.0]))
    with pytest.raises(DataError, match=r"lists in column 'ragged' of '.*' must have one length, got 1 to 2"):
        Dataset.from_hugging_face(stored, label="ragged")


def test_what_cannot_be_used_says_what_to_do(stored: Any) -> None:
    for source, message in (
        (
            datasets.DatasetDict({"test": stored}),
            r"source must be one split, such as source\['test'\], got all of them",
        ),
        (stored.to_iterable_dataset(), "loaded without streaming=True, got the class IterableDataset"),
        (stored.with_transform(lambda rows: rows), "source must have no transform, .*set image_size, crop, crop_scale"),
        ([1, 2], r"source must be a datasets\.Dataset of Hugging Face, got \[1, 2\]"),
    ):
        with pytest.raises(ValueError, match=message):
            Dataset.from_hugging_face(source)
    for options, message in (
        ({"image": "picture"}, "image must be a column of the data set, one of 'image', 'label', .*, got 'picture'"),
        ({"image": "label"}, "image must be a column of type Image or binary, got 'label'"),
        ({"label": "kind"}, "label must be a column of the data set, one of 'image', 'label', .*, got 'kind'"),
        ({"label": "image"}, "label must be a column of ClassLabel, numbers, or lists of them"),
        ({"label": "text"}, r"source\.class_encode_column makes ClassLabel of text, got 'text'"),
        ({"label": 3}, "label must be a column, a list of columns or None, got 3"),
        ({"label": ["age", 3]}, "label must be a column of the data set, one of .*, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            Dataset.from_hugging_face(stored, **options)
    with pytest.raises(ValueError, match=r"Dataset\.from_hugging_face makes a Dataset of Hugging Face's, got"):
        image_loader(stored, **OPTIONS)
    assert len(Dataset.from_hugging_face(stored.with_format("torch"))) == 37


def test_only_the_needed_images_are_read(stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the data set, its hash nor its pickle reads or holds the images."""
    read: list[int] = []
    encoded = hugging_face.HuggingFaceImages.encoded
    monkeypatch.setattr(
        hugging_face.HuggingFaceImages, "encoded", lambda self, index: read.append(index) or encoded(self, index)
    )
    dataset = Dataset.from_hugging_face(stored)
    size = sum(len(row["bytes"]) for row in stored.cast_column("image", datasets.Image(decode=False))["image"])
    assert dataset.digest
    assert dataset.name(3).endswith("row 3 (3.jpg)")
    pickled = pickle.dumps(dataset)
    assert len(pickled) < size / 20
    assert not read
    copy = pickle.loads(pickled)
    assert copy.digest == dataset.digest
    content = copy.encoded(36)
    assert read == [36]
    assert content == dataset.encoded(36)


def test_the_digest_follows_samples_and_not_the_files_of_arrow(stored: Any, tmp_path: Path) -> None:
    digest = Dataset.from_hugging_face(stored).digest
    stored.save_to_disk(tmp_path / "again", num_shards=2)
    assert Dataset.from_hugging_face(datasets.load_from_disk(tmp_path / "again")).digest == digest
    others = [stored.shuffle(seed=1), stored.select(range(36))]
    others.append(stored.map(lambda row: {"label": (row["label"] + 1) % 3}, load_from_cache_file=False))
    assert digest not in {Dataset.from_hugging_face(other).digest for other in others}


def test_images_by_path_and_bad_ones(folders: Path, tmp_path: Path) -> None:
    path = find_dataset(folders).reader.files[4]
    rows = [
        {"bytes": None, "path": path}, {"bytes": None, "path": str(tmp_path / "none.jpg")},
        {"bytes": None, "path": "zip://a.jpg::b.zip"}, None, {"bytes": b"", "path": "c"},
        {"bytes": b"no image", "path": "../../evil\n.jpg"}, *[{"bytes": None, "path": path}] * 10,
    ]  # fmt: skip
    features = datasets.Features({"image": datasets.Image()})
    dataset = Dataset.from_hugging_face(datasets.Dataset.from_dict({"image": rows}, features=features), label=None)
    assert dataset.encoded(0) == Path(path).read_bytes()
    loader = image_loader(dataset, train=False, on_bad_file="replace", max_bad_share=1, **OPTIONS)
    assert [batch.replaced for batch in loader] == [(1, 2, 3, 4, 5), ()]
    assert {place: reason[:28] for place, reason in loader.bad_files.items()} == {
        1: "No such file or directory", 2: "its content is not in the da", 3: "the file is empty",
        4: "the file is empty", 5: "it is no image of a known fo",
    }  # fmt: skip
    loader = image_loader(dataset.take(np.array([0, 5])), train=False, **OPTIONS)
    with pytest.raises(DataError, match=r"'the Hugging Face data set, row 5 \(evil\\n\.jpg\)': it is no image"):
        list(loader)


def test_labels_out_of_range_in_arrow(stored: Any) -> None:
    """Arrow files do not check them."""
    import pyarrow as pa

    feature = datasets.Sequence(datasets.ClassLabel(names=CLASSES))
    features = datasets.Features({"image": datasets.Value("binary"), "label": feature})
    for label in (-1, 3):
        table = pa.table({"image": [b"x"], "label": pa.array([[0, label]], pa.list_(pa.int64()))})
        source = datasets.Dataset(table.cast(features.arrow_schema), datasets.DatasetInfo(features=features))
        with pytest.raises(DataError, match=f"column 'label' of '.*' must have labels from 0 to 2, got {label}"):
            Dataset.from_hugging_face(source)


def test_images_that_pillow_encoded(make_photo: Callable[..., Image.Image]) -> None:
    photo = make_photo(16, 16)
    dataset = Dataset.from_hugging_face(datasets.Dataset.from_dict({"image": [photo] * 2}), label=None)
    with Image.open(io.BytesIO(dataset.encoded(1))) as image:
        assert np.array_equal(np.asarray(image), np.asarray(photo))


def test_the_package_is_imported_only_when_it_is_used() -> None:
    program = "import sys, pipelines, train.__main__; print([n for n in ('datasets', 'pyarrow') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def test_batches_are_read_by_several_threads(stored: Any) -> None:
    dataset = Dataset.from_hugging_face(stored.shuffle(seed=3))
    expected = [dataset.encoded(i) for i in range(37)]
    assert list(base.reading_threads().map(dataset.encoded, list(range(37)) * 8)) == expected * 8
