"""The settings: what each plants is in training alone, or in validation alone, and is what its description states."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import find_dataset
from train.analysis.boxes import read_boxes
from train.config import Config
from train.data.settings import COLOURS, CORNER, MARK, SETTINGS, SHAPES, SIDE, TONES, write_setting


def pictures(name: str, *, training: bool) -> list[tuple[int, np.ndarray, tuple[int, int, int, int]]]:
    """Return three pictures of each class: its number, the pixels, and the box."""
    drawn = []
    for number in range(len(SETTINGS[name].classes)):
        for i in range(3):
            image, box = SETTINGS[name].render(number, np.random.default_rng([number, i]), training)
            drawn.append((number, np.array(image), box))
    return drawn


def squares_of(pixels: np.ndarray, colour: np.ndarray, side: int) -> list[tuple[int, int]]:
    """Return the places of all squares of exactly this colour."""
    same = (pixels == colour).all(2)
    places = range(SIDE - side + 1)
    return [(y, x) for y in places for x in places if same[y : y + side, x : x + side].all()]


@pytest.mark.parametrize(("name", "side"), [("corner", CORNER), ("mark", MARK)])
def test_a_cue_is_in_training_alone(name: str, side: int) -> None:
    places = set()
    for (number, pixels, box), (_, plain, same_box) in zip(
        pictures(name, training=True), pictures("short", training=True), strict=True
    ):
        found = squares_of(pixels, COLOURS[number], side)
        assert len(found) == 1
        (top, left), *_ = found
        places.add(found[0])
        assert not any(squares_of(pixels, colour, side) for k, colour in enumerate(COLOURS) if k != number)
        elsewhere = np.ones((SIDE, SIDE), bool)
        elsewhere[top : top + side, left : left + side] = False
        if name == "corner":  # a mark takes random numbers after the shape, which is the same too
            assert found[0] == (0, 0)
        assert np.array_equal(pixels[elsewhere], plain[elsewhere])
        assert box == same_box
    assert (len(places) == 1) == (name == "corner")
    for _, pixels, _ in pictures(name, training=False):
        assert not any(squares_of(pixels, colour, side) for colour in COLOURS)


def test_a_tone_is_the_mean_lightness() -> None:
    for number, pixels, _ in pictures("tone", training=True):
        assert pixels.mean() == pytest.approx(TONES[number], abs=26)
    means = [pixels.mean() for _, pixels, _ in pictures("tone", training=True)]
    assert np.corrcoef(means, np.repeat(TONES, 3))[0, 1] > 0.97


def test_a_part_of_the_object_is_covered_in_validation_alone() -> None:
    shapes = pictures("short", training=True)
    for (_, pixels, _), (_, plain, _) in zip(pictures("covered", training=True), shapes, strict=True):
        assert np.array_equal(pixels, plain)
    for (_, pixels, (x0, y0, x1, y1)), (_, plain, _) in zip(pictures("covered", training=False), shapes, strict=True):
        changed = (pixels != plain).any(2)
        inside = np.zeros_like(changed)
        inside[y0 : y1 + 1, x0 : x1 + 1] = True
        assert not changed[~inside].any()
        assert 0.5 < changed.sum() / inside.sum() < 0.7
        assert len(np.unique(pixels[changed], axis=0)) == 1


def test_a_written_setting_is_data_for_training(tmp_path: Path) -> None:
    setting = SETTINGS["covered"]._replace(train_per_class=2)
    for name in ("a", "b"):
        write_setting(tmp_path / name, setting, 5, val_per_class=1)
    write_setting(tmp_path / "c", setting, 6, val_per_class=1)
    for train, count in ((True, 8), (False, 4)):
        dataset = find_dataset(tmp_path / "a", train=train)
        assert (dataset.classes, len(dataset)) == (list(SHAPES), count)
    boxes = read_boxes(tmp_path / "a" / "boxes.tsv")
    assert len(boxes) == 12
    for path in boxes:
        first, second, other = ((tmp_path / name / path).read_bytes() for name in ("a", "b", "c"))
        assert first == second != other
        with Image.open(tmp_path / "a" / path) as image:
            assert image.size == (SIDE, SIDE)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_options_are_those_of_a_run(name: str) -> None:
    config = Config(**SETTINGS[name].options())
    assert (config.epochs, config.validate_every) == (SETTINGS[name].epochs,) * 2
