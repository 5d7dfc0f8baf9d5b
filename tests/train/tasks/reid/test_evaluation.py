"""Market-1501's protocol against plain loops, and against scikit-learn and torchmetrics where nothing is left out."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torchmetrics.retrieval import RetrievalMAP

from train.tasks.reid import evaluation
from train.tasks.reid.evaluation import Gallery, comparable, nearest, ranking, sums_of, values_of


def _gallery(seed: int = 0, *, queries: int = 12, gallery: int = 40, identities: int = 6, cameras: int = 3) -> Gallery:
    rng, count = np.random.default_rng(seed), queries + gallery
    who = rng.integers(identities, size=count)
    who[:2] = identities  # of which the gallery has none
    centres = rng.normal(size=(identities + 1, 4))
    features = torch.tensor(centres[who] + rng.normal(size=(count, 4)), dtype=torch.float32)
    labels = torch.tensor(who), torch.tensor(rng.integers(cameras, size=count))
    return Gallery(features, *labels, torch.arange(queries), torch.arange(queries, count))


def _away(images: Gallery, query: int, other: int, distance: str) -> float:
    one, two = (images.features[place].double().tolist() for place in (query, other))
    if distance == "euclidean":
        return math.dist(one, two)
    return 1 - sum(a * b for a, b in zip(one, two, strict=True)) / math.hypot(*one) / math.hypot(*two)


def _protocol(images: Gallery, distance: str) -> tuple[dict[str, float], list[list[int]]]:
    """In plain words: rank, leave out, and count."""
    precisions, ranks, ranked = [], [], []
    for query in images.queries.tolist():
        who, camera = int(images.identities[query]), int(images.cameras[query])
        left = [
            other
            for other in images.gallery.tolist()
            if not (images.identities[other] == who and images.cameras[other] == camera)
        ]
        left.sort(key=lambda other: _away(images, query, other, distance))
        ranked.append(left)
        hits = [rank for rank, other in enumerate(left, 1) if images.identities[other] == who]
        if not hits:
            continue
        precisions.append(sum(number / rank for number, rank in enumerate(hits, 1)) / len(hits))
        ranks.append(hits[0])
    assert 0 < len(ranks) < len(images.queries)
    shares = {f"val_rank{k}": 100 * sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)}
    return {"val_map": 100 * sum(precisions) / len(precisions)} | shares, ranked


def _values(images: Gallery, queries: torch.Tensor | None = None) -> dict[str, float]:
    return values_of(sums_of(*ranking(images, images.queries if queries is None else queries)))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chunk", [2**23, 100, 1])
def test_the_protocol(distance: str, seed: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "CHUNK", chunk)
    images = _gallery(seed)
    expected, ranked = _protocol(images, distance)
    images = images._replace(features=comparable(images.features, distance))
    assert _values(images) == pytest.approx(expected, rel=1e-9)
    found, matches = nearest(images, images.queries, 5)
    assert found.tolist() == [row[:5] for row in ranked]
    assert torch.equal(matches, images.identities[found] == images.identities[images.queries][:, None])
    # Processes share the queries; their sums add up.
    halves = [sums_of(*ranking(images, images.queries[rank::2])) for rank in range(2)]
    assert values_of(halves[0] + halves[1]) == pytest.approx(expected, rel=1e-9)


def test_each_test_image_may_be_in_both_roles() -> None:
    images = _gallery(5)
    every = torch.arange(len(images.features))
    who = torch.cat([torch.tensor([90, 91]), images.identities[2:]])  # two of them without a match
    images = images._replace(identities=who, cameras=every, queries=every, gallery=every)
    expected, ranked = _protocol(images, "euclidean")
    assert all(query not in row for query, row in enumerate(ranked)), "an image is not among its own matches"
    assert _values(images) == pytest.approx(expected, rel=1e-9)


def test_without_cameras_it_is_average_precision_as_others_have_it() -> None:
    images = _gallery(1, cameras=1)
    images = images._replace(cameras=torch.arange(len(images.features)))
    precisions, _ = ranking(images, images.queries)
    metric, ours = RetrievalMAP(empty_target_action="skip"), []
    for row, query in enumerate(images.queries.tolist()):
        scores = -torch.cdist(images.features[query : query + 1].double(), images.features[images.gallery].double())[0]
        matches = images.identities[images.gallery] == images.identities[query]
        metric.update(1 / (1 - scores), matches, indexes=torch.full((len(scores),), row))
        if matches.any():
            assert precisions[row].item() == pytest.approx(average_precision_score(matches, scores))
            ours.append(precisions[row].item())
    assert metric.compute().item() == pytest.approx(sum(ours) / len(ours), rel=1e-5)


def test_perfect_and_worst() -> None:
    features = torch.tensor([[0.0], [0.1], [0.2], [5.0]])
    images = Gallery(
        features, torch.tensor([1, 1, 1, 2]), torch.tensor([0, 1, 2, 1]), torch.tensor([0]), torch.arange(1, 4)
    )
    assert _values(images) == {"val_map": 100, "val_rank1": 100, "val_rank5": 100, "val_rank10": 100}
    worst = images._replace(features=torch.tensor([[0.0], [9.0], [9.1], [5.0]]))
    assert _values(worst) == pytest.approx(
        {"val_map": 100 * (1 / 2 + 2 / 3) / 2, "val_rank1": 0} | {"val_rank5": 100, "val_rank10": 100}
    )


def test_junk_of_the_same_camera_moves_no_rank() -> None:
    """An image of the query's camera, however near, is as if it were not there."""
    images = _gallery(2)
    twins = Gallery(
        torch.cat([images.features, images.features[images.queries]]),
        *(torch.cat([values, values[images.queries]]) for values in (images.identities, images.cameras)),
        images.queries,
        torch.cat([images.gallery, torch.arange(len(images.features), len(images.features) + 1)]),
    )
    assert len(twins.gallery) == len(images.gallery) + 1
    alone = torch.tensor([0])
    for one, other in zip(ranking(images, alone), ranking(twins, alone), strict=True):
        assert torch.equal(one, other)


def test_too_few_are_left() -> None:
    images = Gallery(torch.zeros(3, 2), *torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0]), torch.tensor([1, 2]))
    found, matches = nearest(images, images.queries, 5)
    assert found.tolist() == [[-1, -1]]
    assert not matches.any()


def test_market_size_fits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No array is as large as queries × gallery: 3,368 × 19,732 distances and their order would take 1 GB and more."""
    sizes: list[int] = []
    real = evaluation.squared_distances

    def noted(queries: torch.Tensor, gallery: torch.Tensor) -> Any:
        found = real(queries, gallery)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(evaluation, "squared_distances", noted)
    monkeypatch.setattr(evaluation, "CHUNK", 2**14)
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(3000, 8, generator=rng)
    images = Gallery(
        features, torch.arange(3000) % 50, torch.arange(3000) % 6, torch.arange(400), torch.arange(400, 3000)
    )
    values = _values(images)
    assert max(sizes) <= 2**14
    assert sum(sizes) == 400 * 2600
    assert 0 < values["val_map"] < 10
