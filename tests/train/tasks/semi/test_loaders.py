"""Which images of a semi-supervised run have labels, in which order they come, and which have none."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipelines import DataError
from train.data.endless import Endless
from train.errors import UserError
from train.tasks.semi.config import SemiConfig
from train.tasks.semi.loaders import draw_balanced, labelled_images, unlabelled_images


@pytest.mark.parametrize(("count", "expected"), [(3, [1, 1, 1]), (12, [4, 4, 4]), (14, [4, 5, 5])])
def test_the_draw_is_balanced_and_by_seed(count: int, expected: list[int]) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [5, 20, 9]))
    drawn = [draw_balanced(labels, 3, count, seed) for seed in (0, 0, *range(1, 9))]
    for places in drawn:
        assert sorted(Counter(labels[places].tolist()).values()) == expected
        assert len(set(places.tolist())) == count
        assert list(places) == sorted(places)
    assert np.array_equal(drawn[0], drawn[1])
    assert len({tuple(places) for places in drawn}) > 5, "other seeds draw other images"


def test_every_image_is_drawn_as_often_as_any() -> None:
    labels = np.repeat([0, 1], 6)
    drawn = Counter(np.concatenate([draw_balanced(labels, 2, 5, seed) for seed in range(1200)]).tolist())
    assert sum(drawn.values()) == 6000
    assert all(abs(count - 500) < 5 * 17.1 for count in drawn.values())  # 5 binomial standard deviations


@pytest.mark.parametrize(("count", "length"), [(7, 3), (3, 7), (5, 5), (4, 8)])
def test_the_endless_order(count: int, length: int) -> None:
    """One epoch after the other is one pass after the other, each with all images."""
    order = Endless(count, length, seed=3)
    stream = np.concatenate([order(epoch) for epoch in range(count * 4)])
    assert len(stream) == 4 * count * length
    passes = stream.reshape(-1, count)
    assert (np.sort(passes, axis=1) == np.arange(count)).all()
    assert len({tuple(one) for one in passes.tolist()}) > 1
    assert np.array_equal(Endless(count, length, seed=3)(2), order(2))


def test_how_many_labels_there_can_be(shapes: Path) -> None:
    for count in (7, 49):
        with pytest.raises(UserError, match=rf"--labels must be from 8, one of each class, to 48, .*got {count}"):
            labelled_images(SemiConfig(data=str(shapes), labels=count))
    assert len(labelled_images(SemiConfig(data=str(shapes), labels=48))) == 48
    assert len(labelled_images(SemiConfig(data=str(shapes), train_images=16, labels=8))) == 8
    with pytest.raises(UserError, match=r"to 16, as the smallest of the 8 classes .* has 2 training images; got 24"):
        labelled_images(SemiConfig(data=str(shapes), train_images=16, labels=24))


def test_the_labels_of_unlabelled_images(shapes: Path, tmp_path: Path) -> None:
    """They are known where their classes are some of the labelled ones."""
    classes = sorted(path.name for path in (shapes / "train").iterdir())
    for name in classes[2:4]:
        shutil.copytree(shapes / "train" / name, tmp_path / "known" / name)
    dataset, known = unlabelled_images(SemiConfig(data=str(shapes), unlabelled=str(tmp_path / "known")), classes)
    assert known
    assert dataset.classes == classes
    assert Counter(dataset.class_indices.tolist()) == {2: 6, 3: 6}

    shutil.copytree(tmp_path / "known", tmp_path / "other")
    (tmp_path / "other" / classes[2]).rename(tmp_path / "other" / "something else")
    dataset, known = unlabelled_images(SemiConfig(data=str(shapes), unlabelled=str(tmp_path / "other")), classes)
    assert not known
    assert (dataset.classes, len(dataset)) == (classes, 12)

    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        unlabelled_images(SemiConfig(data=str(shapes), unlabelled=str(tmp_path / "empty")), classes)
