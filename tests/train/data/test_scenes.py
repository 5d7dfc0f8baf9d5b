"""The embedded data for detection: the same each time, with boxes around the objects, found again by their pixels."""

from pathlib import Path

import numpy as np
import pytest

import train.data.scenes
from pipelines import find_detection
from train.data.scenes import LEAST_SIDE, SIDE, render_scene, write_scenes
from train.data.shapes import SHAPES


def test_the_same_scenes_each_time_whatever_their_number(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 2)):
        write_scenes(tmp_path / name, train=count, val=1)
    files = sorted(path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*.*") if path.suffix != ".txt")
    assert len(files) == 6
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    train, val = (find_detection(tmp_path / "a", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (3, 1)
    assert not train.shares_files(val)


def test_boxes_are_around_the_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[np.ndarray] = []
    real = train.data.scenes.draw_object

    def drawing(image: np.ndarray, *args: object, **options: object) -> tuple[int, int, int, int]:
        before = image.copy()
        box = real(image, *args, **options)  # type: ignore[arg-type]
        calls.append((before != image).any(axis=2))
        return box

    monkeypatch.setattr(train.data.scenes, "draw_object", drawing)
    names, counts = set(), set()
    for seed in range(12):
        calls.clear()
        scene = render_scene(np.random.default_rng(seed))
        width, height = scene.image.size
        assert LEAST_SIDE <= width <= SIDE
        assert LEAST_SIDE <= height <= SIDE
        assert len(scene.boxes) == len(calls)
        for changed, (x0, y0, x1, y1) in zip(calls, scene.boxes, strict=True):
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            assert (x0, y0, x1, y1) == (columns[0], rows[0], columns[-1], rows[-1])
            assert 0 <= x0 < x1 < width
            assert 0 <= y0 < y1 < height
        assert sum(map(np.ndarray.astype, calls, [int] * len(calls))).max() == 1  # no two objects touch
        names.update(scene.names)
        counts.add(len(scene.names))
    assert names <= set(SHAPES)
    assert len(names) > 5
    assert len(counts) > 2
