"""Scores, thresholds and draws of regions, against float64 loops over all candidates."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from dali_salaug.regions import candidate_axis, default_length, draw_boxes, draw_candidates, region_scores

# image (H, W), map (h, w), region (height, width)
GEOMETRIES = [
    ((12, 12), (12, 12), (4, 4)),
    ((12, 12), (6, 6), (4, 4)),
    ((10, 17), (10, 17), (3, 5)),
    ((11, 18), (5, 9), (5, 4)),  # sides that the scale does not divide
    ((13, 9), (4, 3), (13, 9)),  # the region is the whole image
    ((9, 8), (9, 8), (1, 1)),
]


def oracle_axis(cells, pixels, size, border):
    """[(map start, map stop, image start, image stop)] of each candidate, from the definitions."""
    map_size = min(max(round(size * cells / pixels), 1), cells)
    candidates = []
    if border == "inside":
        for start in range(cells - map_size + 1):
            image_start = min(start * pixels // cells, pixels - size)
            candidates.append((start, start + map_size, image_start, image_start + size))
    else:
        for centre in range(cells):
            image_centre = centre * pixels // cells
            start, image_start = centre - map_size // 2, image_centre - size // 2
            candidates.append(
                (max(start, 0), min(start + map_size, cells), max(image_start, 0), min(image_start + size, pixels))
            )
    return candidates


def oracle(saliency, image_size, size, border):
    """Boxes and scores of one image: for every candidate the mean of the map, pixel by pixel in float64."""
    boxes, scores = [], []
    for top, bottom, image_top, image_bottom in oracle_axis(saliency.shape[0], image_size[0], size[0], border):
        for left, right, image_left, image_right in oracle_axis(saliency.shape[1], image_size[1], size[1], border):
            score = 0.0
            for i in range(top, bottom):
                for j in range(left, right):
                    score += float(saliency[i, j]) if np.isfinite(saliency[i, j]) else 0.0
            boxes.append((image_top, image_left, image_bottom, image_right))
            scores.append(score / ((bottom - top) * (right - left)))
    return boxes, np.array(scores, dtype=np.float64)


def qualifying(scores, tau, keep):
    """Indices of the candidates on the kept side of NumPy's own quantile, ties (to rounding) included."""
    slack = 1e-9 * (1 + np.abs(scores).max())
    threshold = np.quantile(scores, tau)
    return set(np.flatnonzero(scores <= threshold + slack if keep == "low" else scores >= threshold - slack))


def every_draw(saliency, image_size, size, border, tau, keep, count):
    """The boxes for draws in the middle of each of ``count`` equal parts of [0, 1)."""
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    maps = torch.as_tensor(saliency)[None].expand(count, -1, -1)
    return draw_boxes(
        image_size, torch.tensor([size]), uniforms, border=border, saliency=maps, tau=tau, keep=keep
    ).tolist()


@pytest.mark.parametrize("border", ["inside", "clip"])
@pytest.mark.parametrize(("image_size", "map_size", "size"), GEOMETRIES)
def test_scores_are_the_means_of_a_loop_over_all_candidates(image_size, map_size, size, border):
    maps = np.random.default_rng(0).random((3, *map_size))
    rows = candidate_axis(map_size[0], image_size[0], torch.tensor([size[0]]), border)
    columns = candidate_axis(map_size[1], image_size[1], torch.tensor([size[1]]), border)
    valid = (rows.valid[:, :, None] & columns.valid[:, None, :]).flatten()
    scores = region_scores(torch.tensor(maps), rows, columns).flatten(1)[:, valid].double()
    for image in range(3):
        _, expected = oracle(maps[image], image_size, size, border)
        assert len(expected) == scores.shape[1]
        ratio = scores[image].numpy() / expected  # scores are up to a factor for each image
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-11)


@pytest.mark.parametrize("keep", ["low", "high"])
@pytest.mark.parametrize("tau", [0.0, 0.31, 0.6, 1.0])
@pytest.mark.parametrize("border", ["inside", "clip"])
@pytest.mark.parametrize(("image_size", "map_size", "size"), GEOMETRIES)
def test_the_draw_runs_through_exactly_the_qualifying_candidates(image_size, map_size, size, border, tau, keep):
    saliency = np.random.default_rng(1).random(map_size)
    boxes, scores = oracle(saliency, image_size, size, border)
    expected = sorted(boxes[i] for i in qualifying(scores, tau, keep))
    drawn = every_draw(saliency, image_size, size, border, tau, keep, len(expected))
    assert sorted(map(tuple, drawn)) == expected  # each once: the draw is uniform over the set


@pytest.mark.parametrize("border", ["inside", "clip"])
@pytest.mark.parametrize("keep", ["low", "high"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e-30, 3e38])
def test_a_flat_map_is_a_draw_over_all_candidates(value, keep, border):
    saliency = np.full((7, 9), value, dtype=np.float32)
    boxes, _ = oracle(saliency, (14, 18), (6, 4), border)
    drawn = every_draw(saliency, (14, 18), (6, 4), border, 0.6, keep, len(boxes))
    assert sorted(map(tuple, drawn)) == sorted(boxes)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_on_a_flat_map_keep_cutout_cuts_what_cutout_cuts(scale):
    """At 32×32 and size 16: the same squares equally often, so also the same area on average."""
    cells = round(32 * scale)
    plain = [tuple(oracle_axis(cells, 32, 16, "clip")[i][2:]) for i in range(cells)]
    areas = [(bottom - top) * (right - left) for top, bottom in plain for left, right in plain]
    drawn = torch.tensor(every_draw(np.full((cells, cells), 0.3, np.float32), (32, 32), (16, 16), "clip", 0.6, "low",
                                    cells**2))  # fmt: skip
    got = ((drawn[:, 2] - drawn[:, 0]) * (drawn[:, 3] - drawn[:, 1])).double()
    assert got.mean().item() == pytest.approx(np.mean(areas), rel=1e-12)
    covers_the_middle = (drawn[:, :2] <= 16).all(1) & (drawn[:, 2:] > 16).all(1)
    assert covers_the_middle.any()


@pytest.mark.parametrize("border", ["inside", "clip"])
@pytest.mark.parametrize("keep", ["low", "high"])
def test_maps_of_whole_numbers_tie_exactly(keep, border):
    """Against fractions: with values of 0 to 3 many candidates tie, at the threshold too."""
    for seed in range(30):
        generator = np.random.default_rng(seed)
        saliency = generator.integers(0, 4, (9, 7)).astype(np.float32)
        tau = float(generator.choice([0.0, 0.25, 0.5, 0.6, 0.9, 1.0]))
        axes = [oracle_axis(cells, 2 * cells, size, border) for cells, size in zip((9, 7), (8, 6), strict=True)]
        boxes, scores = [], []
        for top, bottom, image_top, image_bottom in axes[0]:
            for left, right, image_left, image_right in axes[1]:
                part = saliency[top:bottom, left:right].astype(int)
                boxes.append((image_top, image_left, image_bottom, image_right))
                scores.append(Fraction(int(part.sum()), part.size))
        position = Fraction(str(tau)) * (len(scores) - 1)
        rank = math.floor(position) if keep == "low" else math.ceil(position)
        threshold = sorted(scores)[rank]
        fits = [s <= threshold if keep == "low" else s >= threshold for s in scores]
        expected = sorted(box for box, fit in zip(boxes, fits, strict=True) if fit)
        drawn = every_draw(saliency, (18, 14), (8, 6), border, tau, keep, len(expected))
        assert sorted(map(tuple, drawn)) == expected


def test_a_single_qualifying_candidate_is_always_drawn():
    saliency = np.ones((8, 8), dtype=np.float32)
    saliency[2, 5] = 0.5
    drawn = every_draw(saliency, (8, 8), (1, 1), "inside", 0.0, "low", 50)
    assert {tuple(box) for box in drawn} == {(2, 5, 3, 6)}
    drawn = every_draw(2 - saliency, (8, 8), (1, 1), "inside", 1.0, "high", 50)
    assert {tuple(box) for box in drawn} == {(2, 5, 3, 6)}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_count_as_zero(bad):
    saliency = np.random.default_rng(2).random((6, 6)).astype(np.float32)
    saliency[1, 2] = saliency[4, 4] = bad
    boxes, scores = oracle(saliency, (12, 12), (4, 4), "clip")
    for keep in ("low", "high"):
        expected = sorted(boxes[i] for i in qualifying(scores, 0.6, keep))
        drawn = every_draw(saliency, (12, 12), (4, 4), "clip", 0.6, keep, len(expected))
        assert sorted(map(tuple, drawn)) == expected
    boxes, _ = oracle(np.full((6, 6), bad), (12, 12), (4, 4), "clip")
    drawn = every_draw(np.full((6, 6), bad, dtype=np.float32), (12, 12), (4, 4), "clip", 0.6, "low", len(boxes))
    assert sorted(map(tuple, drawn)) == sorted(boxes)


@pytest.mark.parametrize("keep", ["low", "high"])
def test_draws_from_a_generator_are_uniform_by_chi_square(keep):
    saliency = np.random.default_rng(3).random((6, 6))
    boxes, scores = oracle(saliency, (12, 12), (5, 5), "clip")
    expected = {boxes[i] for i in qualifying(scores, 0.6, keep)}
    draws = 20_000
    uniforms = torch.rand(draws, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    maps = torch.tensor(saliency)[None].expand(draws, -1, -1)
    drawn = draw_boxes((12, 12), torch.tensor([[5, 5]]), uniforms, border="clip", saliency=maps, tau=0.6, keep=keep)
    kinds, counts = np.unique(drawn.numpy(), axis=0, return_counts=True)
    assert {tuple(kind) for kind in kinds.tolist()} == expected
    assert stats.chisquare(counts).pvalue > 0.001


def test_without_saliency_every_centre_is_equally_likely():
    count = 9 * 7
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = draw_boxes((9, 7), torch.tensor([[4, 3]]), uniforms, border="clip")
    boxes, _ = oracle(np.zeros((9, 7)), (9, 7), (4, 3), "clip")
    assert sorted(map(tuple, drawn.tolist())) == sorted(boxes)


@pytest.mark.parametrize("keep", ["low", "high"])
@pytest.mark.parametrize("tau", [0.0, 0.31, 0.6, 1.0])
@pytest.mark.parametrize("border", ["inside", "clip"])
@pytest.mark.parametrize("map_size", [(11, 14), (5, 7)])
def test_a_size_for_each_image_is_as_if_each_were_alone(map_size, border, tau, keep):
    """Sizes from a pixel to the whole image in one batch; each image's draws run through its own candidates."""
    sizes = [(1, 1), (11, 14), (4, 9), (10, 2), (5, 5)]
    maps = np.random.default_rng(5).random((len(sizes), *map_size))
    maps[1] = 0.5  # a flat map among others
    found = [oracle(m, (11, 14), size, border) for m, size in zip(maps, sizes, strict=True)]
    expected = [[boxes[i] for i in qualifying(scores, tau, keep)] for boxes, scores in found]
    drawn = [[] for _ in sizes]
    most = max(map(len, expected))
    for step in range(most):
        # the middles of as many equal parts as the image has candidates; those with fewer begin again
        uniforms = torch.tensor([(step % len(e) + 0.5) / len(e) for e in expected], dtype=torch.float64)
        boxes = draw_boxes(
            (11, 14), torch.tensor(sizes), uniforms, border=border, saliency=torch.tensor(maps), tau=tau, keep=keep
        )
        for image, box in enumerate(boxes.tolist()):
            if step < len(expected[image]):
                drawn[image].append(tuple(box))
    for image in range(len(sizes)):
        assert sorted(drawn[image]) == sorted(expected[image])


def test_without_saliency_a_size_for_each_image_is_uniform_too():
    sizes = torch.tensor([[3, 2], [7, 7], [1, 5]])
    for image, (height, width) in enumerate(sizes.tolist()):
        boxes, _ = oracle(np.zeros((9, 8)), (9, 8), (height, width), "inside")
        drawn = []
        for step in range(len(boxes)):
            uniforms = torch.full((3,), (step + 0.5) / len(boxes), dtype=torch.float64)
            drawn.append(tuple(draw_boxes((9, 8), sizes, uniforms, border="inside")[image].tolist()))
        assert sorted(drawn) == sorted(boxes)


def test_images_of_a_batch_do_not_touch_each_other():
    maps = torch.rand(5, 8, 8, generator=torch.Generator().manual_seed(0))
    maps[2] *= 1e6  # thresholds and scales are per image
    uniforms = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    options = {"border": "inside", "tau": 0.6, "keep": "high"}
    together = draw_boxes((16, 16), torch.tensor([[6, 6]]), uniforms, saliency=maps, **options)
    for i in range(5):
        alone = draw_boxes((16, 16), torch.tensor([[6, 6]]), uniforms[i : i + 1], saliency=maps[i : i + 1], **options)
        assert torch.equal(together[i : i + 1], alone)


def test_the_largest_draw_stays_in_range():
    scores = torch.arange(10.0, dtype=torch.float64)[None]
    almost_one = torch.tensor([np.nextafter(1.0, 0.0)], dtype=torch.float64)
    valid = torch.ones(1, 10, dtype=torch.bool)
    assert draw_candidates(scores, valid, almost_one, tau=1.0, keep="low").tolist() == [9]
    box = draw_boxes((7, 7), torch.tensor([[2, 2]]), almost_one, border="inside")
    assert box.tolist() == [[5, 5, 7, 7]]


@pytest.mark.parametrize(
    ("image_size", "length"), [((32, 32), 16), ((224, 224), 40), ((64, 64), 20), ((64, 32), 16), ((8, 8), 8)]
)
def test_default_length(image_size, length):
    assert default_length(image_size) == length


@pytest.mark.parametrize("border", ["inside", "clip"])
@pytest.mark.parametrize(("image_size", "map_size", "size"), GEOMETRIES)
def test_a_size_in_numbers_draws_as_one_in_a_tensor(image_size, map_size, size, border):
    generator = torch.Generator().manual_seed(0)
    uniforms = torch.rand(64, dtype=torch.float64, generator=generator)
    maps = torch.rand(64, *map_size, generator=generator)
    maps[32:] = maps[32:].round()  # with ties
    options = [{}] + [{"saliency": maps, "tau": tau, "keep": keep} for tau in (0, 0.6, 1) for keep in ("low", "high")]
    for given in options:
        boxes = [
            draw_boxes(image_size, form, uniforms, border=border, **given) for form in (size, torch.tensor([size]))
        ]
        assert torch.equal(*boxes)
