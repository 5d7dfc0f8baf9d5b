"""Data sets of what the user has listed: paths, images in memory, and torchvision's lists of files."""

import io
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, random_split
from torchvision.datasets import DatasetFolder, FakeData, ImageFolder
from torchvision.transforms import v2

from pipelines import DataError, Dataset, find_dataset, image_loader

OPTIONS: dict[str, Any] = {"batch_size": 8, "image_size": 16, "device": "cpu", "num_threads": 1}


def _same_batches(one: Any, other: Any) -> bool:
    pairs = list(zip(image_loader(one, **OPTIONS), image_loader(other, **OPTIONS), strict=True))
    return all(torch.equal(getattr(a, name), getattr(b, name)) for a, b in pairs for name in ("images", "labels"))


@pytest.fixture
def contents(folders: Path) -> list[bytes]:
    return [Path(path).read_bytes() for path in find_dataset(folders).reader.files]


def test_paths_and_bytes_give_the_batches_of_the_folder(folders: Path, contents: list[bytes]) -> None:
    known = find_dataset(folders)
    paths, labels = list(known.reader.files), known.labels
    for samples in (paths, tuple(map(Path, paths)), np.array(paths), contents, tuple(contents)):
        dataset = Dataset.from_samples(samples, labels, ["ape", "bee", "cat"])  # type: ignore[arg-type]
        assert _same_batches(dataset, known)
    assert Dataset.from_samples(paths, labels, ["ape", "bee", "cat"]).digest == known.digest


def test_classes_are_numbers_where_they_are_not_named(contents: list[bytes]) -> None:
    assert Dataset.from_samples(contents[:3], [0, 2, 1]).classes == ["0", "1", "2"]
    assert Dataset.from_samples(contents[:3], [0.0, 2.0, 1.0]).classes == []
    assert Dataset.from_samples(contents[:3], np.eye(3), [*"abc"]).classes == [*"abc"]
    none = Dataset.from_samples(contents[:3])
    assert (none.labels, none.classes, len(none)) == ({}, [], 3)
    some = Dataset.from_samples(contents[:3], [0, -1, 1])
    assert some.classes == ["0", "1"]
    with pytest.raises(DataError, match="the class of 'sample 1 of those in memory' is not known"):
        image_loader(some, **OPTIONS)
    [batch] = image_loader(none, **OPTIONS)  # without labels, as for self-supervised training
    assert batch.labels == {}


def test_the_digest_is_of_the_content_in_memory(contents: list[bytes]) -> None:
    labels = list(range(5))
    digest = Dataset.from_samples(contents[:5], labels).digest
    assert Dataset.from_samples([bytes(bytearray(content)) for content in contents[:5]], labels).digest == digest
    for place in range(5):
        changed = list(contents[:5])
        changed[place] = changed[place][:-1] + bytes([changed[place][-1] ^ 1])
        assert Dataset.from_samples(changed, labels).digest != digest
    assert Dataset.from_samples(contents[1:5] + contents[:1], labels).digest != digest
    copy = pickle.loads(pickle.dumps(Dataset.from_samples(contents[:5], labels)))
    assert copy.digest == digest
    assert copy.encoded(3) == contents[3]


def test_the_digest_of_paths_does_not_follow_the_folder(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders, tmp_path / "moved")
    digests = [
        Dataset.from_samples(sorted(root.rglob("*.jpg")), np.zeros(37)).digest for root in (folders, tmp_path / "moved")
    ]
    assert digests[0] == digests[1]
    assert Dataset.from_samples(["s3://bucket/a/1.jpg", "s3://bucket/b/2.jpg"]).root == "s3://bucket/"


@pytest.mark.parametrize("bad", [b"", b"no image", b"\xff\xd8\xff\xe0" + bytes(99), b"GIF89a"])
def test_a_bad_image_in_memory_is_named_by_its_place(contents: list[bytes], bad: bytes) -> None:
    samples = [*contents[:6], bad, *contents[6:9]]
    dataset = Dataset.from_samples(samples, np.arange(10) % 3).take(np.array([1, 2, 6, 4]))
    loader = image_loader(dataset, train=False, **OPTIONS)
    with pytest.raises(DataError, match=r"^cannot decode image 'sample 6 of those in memory': .*Replace or leave out"):
        next(iter(loader))
    loader = image_loader(dataset, on_bad_file="replace", max_bad_share=0.5, **OPTIONS)
    assert [batch.replaced for batch in loader] == [(2,)]
    assert list(loader.bad_files) == [2]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ("photo.jpg", "samples must be a list of paths, or of the contents of image files"),
        (b"photo", "samples must be a list of paths"),
        (None, "samples must be a list of paths"),
        ({"a.jpg"}, "samples must be a list of paths"),
        ((f"{i}.jpg" for i in range(3)), "samples must be a list of paths"),
        (np.zeros((2, 2)), "samples must be a list of paths"),
        (["a.jpg", 3], r"samples\[1\] must be a path, or all must be bytes, got 3"),
        (["a.jpg", b"x"], r"samples\[1\] must be a path, or all must be bytes, got b'x'"),
        ([b"x", "a.jpg"], r"samples\[1\] must be bytes, as the first is, got 'a\.jpg'"),
        ([bytearray(b"x")], r"samples\[0\] must be a path, or all must be bytes"),
        (["a.jpg", ""], r"samples\[1\] must be a path, not empty"),
        (["a\0.jpg"], r"samples\[0\] must be a path, not empty and without a NUL character"),
    ],
)
def test_what_is_no_list_of_samples(samples: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dataset.from_samples(samples)


def test_targets_and_classes_that_do_not_fit() -> None:
    paths = ["a.jpg", "b.jpg"]
    for targets, classes, message in (
        ([0], None, "one label for each image, got 1 for 2 images"),
        ([0, 2], [*"ab"], r"labels must be from 0 to 1, .* got 2 for 'b\.jpg'"),
        ([0, -2], None, r"labels must be from 0 to 0, .* got -2 for 'b\.jpg'"),
        ([0, 10**9], None, "the greatest label is 1000000000: those of 2 images must be below 1200, unless classes"),
        ([0, 1], "ab", "classes must be a list of names, got 'ab'"),
        (["cat", "dog"], None, r"labels must be \(n,\) integers"),
    ):
        with pytest.raises(ValueError, match=message):
            Dataset.from_samples(paths, targets, classes)  # type: ignore[arg-type]


def test_an_image_folder_gives_the_batches_of_the_folder(folders: Path) -> None:
    folder, known = ImageFolder(folders), find_dataset(folders)
    assert _same_batches(folder, known)
    assert Dataset.from_torchvision(folder).digest == known.digest
    assert image_loader(folder, **OPTIONS).dataset.classes == ["ape", "bee", "cat"]


def test_subsets_of_an_image_folder(folders: Path) -> None:
    folder, known = ImageFolder(folders), find_dataset(folders)
    first, second = random_split(folder, [30, 7], torch.Generator().manual_seed(0))
    some = torch.tensor([3, 30, -1])
    for part in (first, second, Subset(second, [4, 0]), Subset(folder, some), Subset(folder, [])):  # type: ignore[arg-type]
        expected = [folder.samples[i] for i in _places(part)]
        dataset = Dataset.from_torchvision(part)
        assert list(zip(dataset.reader.files, dataset.class_indices.tolist(), strict=True)) == expected
        assert dataset.classes == known.classes


@pytest.mark.parametrize(
    ("indices", "got"),
    [
        ([3, 37], "37"),
        ([-38], "-38"),
        ([0.5, 2.0], r"\[0.5, 2.0\]"),
        ([True, False], r"\[True, False\]"),
        (["0"], r"\['0'\]"),
    ],
)
def test_indices_that_a_subset_cannot_have(folders: Path, indices: Any, got: str) -> None:
    with pytest.raises(ValueError, match=rf"indices of the Subset must be integers from -37 to 36, got {got}$"):
        image_loader(Subset(ImageFolder(folders), indices), **OPTIONS)


def _places(part: Any) -> list[int]:
    inner = range(37) if isinstance(part.dataset, ImageFolder) else _places(part.dataset)
    return [inner[int(i)] for i in part.indices]


def test_classes_that_are_tuples_of_synonyms_as_imagenets(folders: Path) -> None:
    folder = ImageFolder(folders)
    folder.classes = [("ape", "monkey"), ("bee",), ("cat",)]  # type: ignore[list-item]
    assert Dataset.from_torchvision(folder).classes == ["ape, monkey", "bee", "cat"]


def test_what_would_have_no_effect_is_refused(folders: Path) -> None:
    for options, message in (
        ({"transform": v2.RandomCrop(8)}, "transform must be None, .*set image_size, crop, crop_scale, policy, mean"),
        ({"target_transform": str}, "target_transform must be None, .*give the targets to Dataset.from_samples; got"),
        ({"loader": Image.open}, r"loader must be torchvision's default_loader, .*Dataset\.from_samples, got <"),
    ):
        folder = ImageFolder(folders, **options)  # type: ignore[arg-type]
        for given in (folder, Subset(folder, [0])):
            with pytest.raises(ValueError, match=message):
                image_loader(given, **OPTIONS)
    assert len(Dataset.from_torchvision(DatasetFolder(str(folders), ImageFolder(folders).loader, (".jpg",)))) == 37


def test_other_data_sets_say_how_to_give_them(folders: Path) -> None:
    with pytest.raises(ValueError, match="folder must be an ImageFolder or another DatasetFolder"):
        Dataset.from_torchvision(FakeData())
    with pytest.raises(ValueError, match="root must be a folder, an s3:// address, a Dataset or an ImageFolder, got"):
        image_loader(FakeData(), **OPTIONS)
    with pytest.raises(ValueError, match=r"or an ImageFolder; Dataset\.from_samples makes a Dataset of a list, got"):
        image_loader(["a.jpg"], **OPTIONS)  # type: ignore[arg-type]


def test_images_in_memory_of_every_format(make_photo: Callable[..., Image.Image]) -> None:
    photo, samples = make_photo(24, 24), []
    for kind in ("PNG", "BMP", "TIFF", "WEBP", "GIF"):
        buffer = io.BytesIO()
        photo.save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
        samples.append(buffer.getvalue())
    [batch] = image_loader(Dataset.from_samples(samples), train=False, **(OPTIONS | {"image_size": 24}))
    assert torch.equal(batch.images[:4], batch.images[:1].expand(4, -1, -1, -1))
    assert not torch.equal(batch.images[4], batch.images[0])  # of 256 colours
