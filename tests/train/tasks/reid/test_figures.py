"""The embedded figures: the same bytes by the same seed, disjoint identities, and clothes that all cameras see."""

from pathlib import Path

import numpy as np
from PIL import Image

from train.tasks.reid.data import find_reid
from train.tasks.reid.figures import SIZE, make_camera, make_person, render, write_figures


def _files(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*.jpg"))}


def test_layout_and_bytes(tmp_path: Path) -> None:
    write_figures(tmp_path / "a", train=3, test=2, distractors=4, cameras=3)
    write_figures(tmp_path / "b", train=3, test=2, distractors=6, cameras=3)
    write_figures(tmp_path / "c", train=3, test=2, distractors=4, cameras=3, seed=1)
    first, more, other = (_files(tmp_path / name) for name in "abc")
    assert first.items() <= more.items(), "an image does not depend on how many there are"
    assert len(more) == len(first) + 2
    assert first.keys() == other.keys()
    assert not set(first.values()) & set(other.values())
    assert len(set(first.values())) == len(first)
    data = find_reid(tmp_path / "a")
    assert (len(data.train), len(data.train.classes)) == (18, 3)
    assert (len(data.queries), len(data.gallery)) == (4, 8 + 4)
    assert data.shared == []
    for query in data.queries:
        same = data.identities[data.gallery] == data.identities[query]
        assert (same & (data.cameras[data.gallery] != data.cameras[query])).sum() >= 2, "each query has matches"
    with Image.open(tmp_path / "a" / next(iter(first))) as image:
        assert image.size == SIZE[::-1]


def test_an_identity_is_seen_by_all_cameras() -> None:
    """Its mean image is nearer to those of itself by other cameras than to others', once light is taken out."""
    people = [make_person(np.random.default_rng([7, number])) for number in range(6)]
    cameras = [make_camera(np.random.default_rng([8, number])) for number in range(4)]
    means = np.empty((4, 6, *SIZE, 3))
    for c, camera in enumerate(cameras):
        for p, person in enumerate(people):
            images = [np.asarray(render(person, camera, np.random.default_rng([9, c, p, i])), float) for i in range(8)]
            means[c, p] = np.mean(images, axis=0)
    means -= means.mean(axis=1, keepdims=True)  # the camera's place and light
    flat = means.reshape(4, 6, -1)
    flat /= np.linalg.norm(flat, axis=2, keepdims=True)
    hits = sum(
        int(np.argmax([one @ other for other in flat[d]]) == p)
        for c in range(4)
        for d in range(4)
        if c != d
        for p, one in enumerate(flat[c])
    )
    assert hits > 0.8 * 4 * 3 * 6
