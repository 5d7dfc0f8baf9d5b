"""Batches of P identities with K images: their form, distribution, and how a loader shards and resumes them."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines import Dataset, image_loader
from train.tasks.reid.sampler import IdentityBatches


def _labels(counts: list[int], seed: int = 0) -> np.ndarray:
    """That many samples of each identity, in no order."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def _most_batches(counts: list[int], p: int, k: int) -> int:
    """Counted up: so many batches that the groups of all identities, each at most once in a batch, fill them."""
    groups, batches = [max(1, count // k) for count in counts], 0
    while sum(min(group, batches + 1) for group in groups) >= (batches + 1) * p:
        batches += 1
    return batches


COUNTS = {
    "alike": [8] * 10,
    "unlike": [1, 2, 3, 4, 5, 9, 13, 20, 4, 4, 7],
    "one has most": [3, 100, 4, 5, 2, 6],
    "just enough": [1, 1, 50, 2],
}


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize(("p", "k"), [(4, 4), (2, 3), (3, 1)])
def test_every_batch_has_p_identities_with_k_images(counts: list[int], p: int, k: int) -> None:
    labels = _labels(counts)
    sampler = IdentityBatches(labels, p, k, seed=3)
    assert sampler.batches == _most_batches(counts, p, k) > 0
    for epoch in range(4):
        order = sampler(epoch)
        assert order.dtype == np.int64
        assert len(order) == len(sampler) == sampler.batches * p * k
        for batch in order.reshape(-1, p, k):
            owners = labels[batch]
            assert (owners == owners[:, :1]).all(), "K images of an identity, one after the other"
            assert len(set(owners[:, 0])) == p, "different identities"
        seen = Counter(order.tolist())
        for identity, count in enumerate(counts):
            times = [seen[index] for index in np.flatnonzero(labels == identity)]
            if count >= k:
                assert max(times) <= 1, "no image twice in an epoch"
            elif sum(times):
                assert max(times) - min(times) <= 1, "repeated, each as often or once more"


def test_epochs_and_seeds_differ_and_are_repeatable() -> None:
    labels = _labels([8] * 10)
    sampler = IdentityBatches(labels, 4, 4, seed=3)
    first, second = sampler(0), sampler(1)
    assert not np.array_equal(first, second)
    assert np.array_equal(sampler(0), first), "a function of the epoch alone"
    assert np.array_equal(IdentityBatches(labels, 4, 4, seed=3)(1), second)
    assert not np.array_equal(IdentityBatches(labels, 4, 4, seed=4)(0), first)


def test_images_and_pairs_of_identities_are_drawn_evenly() -> None:
    counts, p, k = [5, 8, 8, 11, 4, 9], 3, 4  # 1 2 2 2 1 2 groups in 3 batches of 3: one of ten is left out
    labels, epochs = _labels(counts), 3000
    sampler = IdentityBatches(labels, p, k, seed=0)
    images, pairs = np.zeros(len(labels)), np.zeros((6, 6))
    for epoch in range(epochs):
        for batch in sampler(epoch).reshape(-1, p, k):
            images[batch] += 1
            owners = labels[batch[:, 0]]
            pairs[np.ix_(owners, owners)] += 1
    assert sampler.batches == 3
    for identity, count in enumerate(counts):
        own = images[labels == identity] / epochs
        expected = 0.9 * (count // k) * k / count
        assert own == pytest.approx(expected, abs=0.04), "each image of an identity as often"
    # Identities with two groups meet more often than with those of one; of the same kind all alike.
    both = [pairs[a, b] for a in (1, 2, 3, 5) for b in (1, 2, 3, 5) if a < b]
    assert max(both) / min(both) < 1.1
    assert min(pairs[a, b] for a in range(6) for b in range(6)) > 0


@pytest.fixture
def dataset(tmp_path: Any) -> Dataset:
    labels = _labels([6, 5, 4, 3, 2])
    for number in range(len(labels)):
        Image.new("RGB", (4, 8), (number * 10, 0, 0)).save(tmp_path / f"{number:02d}.png")
    return Dataset.from_samples(sorted(tmp_path.glob("*.png")), labels)


def _loader(dataset: Dataset, **changes: Any) -> Any:
    sampler = IdentityBatches(dataset.class_indices, 4, 2, seed=1)
    options = {"image_size": (8, 4), "device": "cpu", "num_threads": 1, "crop": "pad", "seed": 1, "batch_size": 8}
    return image_loader(dataset, **(options | {"sampler": sampler} | changes))


def test_a_loader_shards_and_resumes_them(dataset: Dataset) -> None:
    whole = [[batch.indices.tolist() for batch in epoch] for loader in [_loader(dataset)] for epoch in (loader, loader)]
    ranks = [_loader(dataset, batch_size=4, world_size=2, rank=rank) for rank in range(2)]
    for epoch in whole:
        parts = [[batch.indices.tolist() for batch in loader] for loader in ranks]
        assert [a + b for a, b in zip(*parts, strict=True)] == epoch
        for batch in parts[0] + parts[1]:
            owners = dataset.class_indices[batch]
            assert (owners[::2] == owners[1::2]).all(), "a rank has all images of its identities"
    loader = _loader(dataset)
    loader.set_epoch(1)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    resumed = _loader(dataset)
    resumed.load_state_dict(state)
    assert [batch.indices.tolist() for batch in resumed] == whole[1][1:]
    with pytest.raises(ValueError, match="the state is of another sampler"):
        _loader(dataset, sampler=IdentityBatches(dataset.class_indices, 4, 2, seed=2)).load_state_dict(state)
