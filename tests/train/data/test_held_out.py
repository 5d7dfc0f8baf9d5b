"""--held-out: training images in place of the validation images, which nothing is trained on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import DataError, Dataset
from train.__main__ import main as program
from train.config import Config
from train.data.loaders import resolve_for_data, training_images, validation_images
from train.engine.run import Run
from train.errors import UserError


def names(dataset: Dataset) -> list[str]:
    return [dataset.name(index) for index in range(len(dataset))]


def test_the_parts(shapes: Path, run_of: Callable[..., Run], capsys: pytest.CaptureFixture) -> None:
    """Of each class of six images the first one or two; the others are trained on."""
    run = run_of(held_out=12, train_images=32, method="none", device="cpu")
    train, held = (loader.dataset for loader in (run.train_loader, run.val_loader))
    folders = sorted((shapes / "train").iterdir())
    first = [str(path) for folder in folders for path in sorted(folder.iterdir())[:1]]
    more = [str(path) for folder in folders[:4] for path in sorted(folder.iterdir())[1:2]]
    assert names(held) == sorted(first + more)
    rest = [str(path) for path in sorted((shapes / "train").rglob("*.jpg")) if str(path) not in first + more]
    assert set(names(train)) < set(rest)
    assert np.bincount(train.class_indices).tolist() == [4] * 8
    config = Config(data=str(shapes), held_out=12)
    assert names(training_images(config)) == rest
    assert names(validation_images(config)) == names(held)
    assert len(validation_images(config, data=shapes)) == 16  # that of another folder, as ever
    assert resolve_for_data(Config(data=str(shapes), held_out=12, batch_size=128)).lr == pytest.approx(0.2 * 36 / 256)
    assert "accuracies are on the training images" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 7}, "--held-out must be from 8, one of each class, to 40, as .* has 48 training images; got 7"),
        ({"held_out": 41}, "to 40, as"),
        (
            {"held_out": 20, "train_images": 29},
            "--train-images must be from 8, .*, to 28, those that --held-out leaves",
        ),
    ],
)
def test_impossible_numbers(options: dict[str, Any], message: str, shapes: Path) -> None:
    with pytest.raises(UserError, match=message):
        resolve_for_data(Config(data=str(shapes), **options))


def test_it_excludes_val_data(shapes: Path, capsys: pytest.CaptureFixture) -> None:
    assert program(["--data", str(shapes), "--held-out", "8", "--val-data", "elsewhere"]) == 2
    assert "--held-out takes the place of --val-data; got 8 and" in capsys.readouterr().err


def test_a_class_whose_images_are_all_held_out() -> None:
    dataset = Dataset.from_samples([f"{number}.jpg" for number in range(5)], [0, 0, 1, 0, 0], classes=["a", "b"])
    assert [dataset.without_first(2).labels.tolist() for dataset in [dataset.take([0, 1, 2, 2])]] == [[0, 1]]
    with pytest.raises(DataError, match="the first 2 images have all those of 'b'"):
        dataset.without_first(2)
