"""The embedded data: reproducible, with correct boxes, and not to be classified by colour."""

import hashlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from train.data import shapes as module
from train.data.shapes import SHAPES, SIDE, embedded_data, render, write_shapes


def files_of(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def boxes_of(root: Path) -> dict[str, tuple[int, ...]]:
    lines = (root / "boxes.tsv").read_text().splitlines()
    assert lines[0] == "path\tx0\ty0\tx1\ty1"
    return {line.split("\t")[0]: tuple(map(int, line.split("\t")[1:])) for line in lines[1:]}


def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_shapes(tmp_path / name, train_per_class=2, val_per_class=1, seed=seed)
    first, again, other = (files_of(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[path] != other[path] for path in first)


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    write_shapes(tmp_path / "few", train_per_class=1, val_per_class=1)
    write_shapes(tmp_path / "more", train_per_class=2, val_per_class=1)
    few, more = files_of(tmp_path / "few"), files_of(tmp_path / "more")
    del few["boxes.tsv"]
    assert few.items() <= more.items()


def test_layout(shapes: Path) -> None:
    images = [p for p in files_of(shapes) if p.endswith(".jpg")]
    assert len(images) == len(SHAPES) * (6 + 2)
    assert set(images) == set(boxes_of(shapes))
    for split, count in (("train", 6), ("val", 2)):
        assert sorted(p.name for p in (shapes / split).iterdir()) == sorted(SHAPES)
        assert sorted(p.name for p in (shapes / split / "star").iterdir()) == [f"{i:04d}.jpg" for i in range(count)]
    with Image.open(shapes / images[0]) as image:
        assert (image.size, image.mode, image.format) == ((SIDE, SIDE), "RGB", "JPEG")


def test_training_and_validation_images_differ(shapes: Path) -> None:
    hashes = [h for path, h in files_of(shapes).items() if path.endswith(".jpg")]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("name", SHAPES)
def test_the_box_is_what_the_object_changes(name: str) -> None:
    """Oracle: the same picture without its object differs inside the box only, and along each of its sides."""
    for seed in range(20):
        image, (x0, y0, x1, y1) = render(name, np.random.default_rng(seed))
        empty = module.background(np.random.default_rng(seed))[0].clip(0, 255).astype(np.uint8)
        rows, columns = np.nonzero((np.asarray(image) != empty).any(axis=2))
        assert x0 <= columns.min() <= x0 + 1  # a faintly touched pixel may round to its old value
        assert y0 <= rows.min() <= y0 + 1
        assert x1 - 1 <= columns.max() <= x1
        assert y1 - 1 <= rows.max() <= y1
        assert min(x0, y0) > 0
        assert max(x1, y1) < SIDE - 1


def test_colour_histograms_classify_near_chance() -> None:
    """Logistic regression and the nearest class mean on joint 4×4×4 colour histograms stay near chance (12.5 %)."""

    def histograms(offset: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, labels = [], []
        for number, name in enumerate(SHAPES):
            for i in range(count):
                image, _ = render(name, np.random.default_rng([offset, number, i]))
                bins = np.asarray(image).reshape(-1, 3) // 64 @ (16, 4, 1)
                rows.append(np.bincount(bins, minlength=64) / SIDE**2)
                labels.append(number)
        return torch.tensor(np.array(rows), dtype=torch.float32).sqrt(), torch.tensor(labels)

    x, y = histograms(0, 100)
    test_x, test_y = histograms(1, 50)
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x, test_x = (x - mean) / deviation, (test_x - mean) / deviation
    centres = torch.stack([x[y == k].mean(0) for k in range(len(SHAPES))])
    nearest = torch.cdist(test_x, centres).argmin(1)

    weight = torch.zeros(64, len(SHAPES), requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        (F.cross_entropy(x @ weight, y) + 1e-2 * weight.square().sum()).backward()
        optimizer.step()
    linear = (test_x @ weight).argmax(1)
    for prediction in (nearest, linear):
        assert (prediction == test_y).float().mean() < 0.25


def _generate(folder: str) -> str:
    os.environ["DALI_SALAUG_CACHE"] = folder
    module.TRAIN_PER_CLASS = module.VAL_PER_CLASS = 2
    module.write_shapes.__kwdefaults__.update(train_per_class=2, val_per_class=2)
    return str(embedded_data())


def test_two_processes_that_generate_at_once_share_one_result(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        first, second = pool.map(_generate, [str(tmp_path)] * 2)
    assert first == second
    assert [p.name for p in tmp_path.iterdir()] == [Path(first).name]  # nothing unfinished is left
    assert len(boxes_of(Path(first))) == 4 * len(SHAPES)


def test_an_interrupted_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALI_SALAUG_CACHE", str(tmp_path / "cache"))

    def fails(root: Path) -> None:
        (root / "train").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_shapes", fails)
    with pytest.raises(KeyboardInterrupt):
        embedded_data()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_larger_side_shows_the_same_objects_in_more_detail() -> None:
    for number, name in enumerate(SHAPES):
        small, box = render(name, np.random.default_rng(number))
        large, larger_box = render(name, np.random.default_rng(number), side=2 * SIDE)
        assert large.size == (2 * SIDE, 2 * SIDE)
        assert np.abs(np.asarray(large.reduce(2)).astype(float) - np.asarray(small)).mean() < 4
        assert np.array(larger_box) / 2 == pytest.approx(np.array(box), abs=1)
