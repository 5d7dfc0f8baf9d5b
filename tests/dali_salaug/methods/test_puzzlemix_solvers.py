"""PuzzleMix's mask against brute force and an exact minimal cut, its transport against the best assignment."""

import itertools
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from dali_salaug import PuzzleMix, saliency_map
from dali_salaug.methods.puzzlemix_solvers import MaskEnergy, solve_mask, solve_transport


def random_energy(count, n, coupling, seed=0):
    generator = torch.Generator().manual_seed(seed)
    own, other = torch.rand(2, count, n, n, generator=generator, dtype=torch.float64).pow(3) * 4
    lam = torch.rand(count, 1, 1, generator=generator, dtype=torch.float64).clamp(1e-3, 1 - 1e-3)
    priors = [-2 * (1 - lam).log(), -(2 * lam * (1 - lam)).log(), -2 * lam.log()]
    unary = torch.stack([(1 - m) * own + m * other + 0.2 * p for m, p in zip((0, 0.5, 1), priors, strict=True)], 1)
    below, right = coupling * torch.rand(2, count, n, n, generator=generator, dtype=torch.float64)
    below[:, -1], right[:, :, -1] = 0, 0
    return MaskEnergy(unary, below, right)


def one(energy, i):
    return MaskEnergy(*(part[i : i + 1] for part in energy))


def plain_energy(energy, mask):
    """Of one mask, by loops."""
    n, total = mask.shape[-1], 0.0
    for i, j in itertools.product(range(n), range(n)):
        total += energy.unary[0, round(2 * mask[i, j].item()), i, j].item()
        if i + 1 < n:
            total += energy.below[0, i, j].item() * (mask[i, j] - mask[i + 1, j]).item() ** 2
        if j + 1 < n:
            total += energy.right[0, i, j].item() * (mask[i, j] - mask[i, j + 1]).item() ** 2
    return total


def least_cut(energy):
    """The best mask of one image, exactly: two nodes for a block, true where m > 0 and where m = 1 (Ishikawa 2003)."""
    n = energy.unary.shape[-1]
    count, unit = n * n, 1e6
    source, sink = 2 * count, 2 * count + 1
    edges = {}

    def edge(start, end, cost):
        edges[start, end] = edges.get((start, end), 0) + round(cost * unit)

    def pair(p, q, weight):
        for level in (0, count):
            edge(level + p, level + q, weight / 4)
            edge(level + q, level + p, weight / 4)
        edge(count + p, q, weight / 2)
        edge(count + q, p, weight / 2)

    for p in range(count):
        i, j = divmod(p, n)
        none, half, full = (energy.unary[0, :, i, j] - energy.unary[0, :, i, j].min()).tolist()
        edge(source, p, none)
        edge(p, count + p, half)
        edge(count + p, p, 1e3)
        edge(count + p, sink, full)
        if i + 1 < n:
            pair(p, p + n, energy.below[0, i, j].item())
        if j + 1 < n:
            pair(p, p + 1, energy.right[0, i, j].item())
    start, end = np.array(list(edges)).T
    graph = csr_array((np.array(list(edges.values()), dtype=np.int32), (start, end)), shape=(sink + 1, sink + 1))
    left = (graph - maximum_flow(graph, source, sink).flow).tocsr()
    left.data[left.data < 0] = 0
    left.eliminate_zeros()
    true = np.zeros(sink + 1, dtype=bool)
    true[breadth_first_order(left, source, return_predecessors=False)] = True
    return torch.from_numpy(true[:count].astype(float) + true[count : 2 * count]).view(n, n) / 2


@pytest.mark.parametrize("n", [2, 3])
def test_masks_of_few_blocks_are_the_best_of_all(n):
    energy = random_energy(8, n, 0.6)
    masks = torch.tensor(list(itertools.product((0, 0.5, 1), repeat=n * n)), dtype=torch.float64).view(-1, n, n)
    found = solve_mask(energy)
    for i in range(8):
        every = MaskEnergy(*(part.expand(len(masks), *part.shape[1:]) for part in one(energy, i))).of(masks)
        assert every[123 % len(masks)].item() == pytest.approx(plain_energy(one(energy, i), masks[123 % len(masks)]))
        assert plain_energy(one(energy, i), found[i]) == pytest.approx(every.min().item(), rel=1e-4)
        assert plain_energy(one(energy, i), least_cut(one(energy, i))) == pytest.approx(every.min().item(), rel=1e-5)


def gaps(energy):
    """How much more than the least the masks found cost, of the least."""
    energy = MaskEnergy(*(part.double() for part in energy))
    alone = [one(energy, i) for i in range(len(energy.unary))]
    least = torch.cat([single.of(least_cut(single)[None]) for single in alone])
    found = energy.of(solve_mask(MaskEnergy(*(part.float() for part in energy))).double())
    return (found - least) / least


@pytest.mark.parametrize(("n", "coupling"), [(4, 0.6), (8, 1.0), (16, 2.0)])
def test_masks_are_near_the_least_cut(n, coupling):
    gap = gaps(random_energy(8, n, coupling))
    assert gap.min() > -1e-5
    assert gap.mean() < 1e-4
    assert gap.max() < 1e-3


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_masks_of_real_images_and_gradients_are_near_the_least_cut(real_data, small_net, n):
    with (real_data("cifar-10-batches-py") / "test_batch").open("rb") as file:
        batch = pickle.load(file, encoding="bytes")
    images = torch.from_numpy(batch[b"data"][:12]).view(-1, 3, 32, 32) / 255 / 0.25 - 2
    saliency = saliency_map(small_net, images, torch.tensor(batch[b"labels"][:12]) % 5, scale=1.0)
    shares = F.adaptive_avg_pool2d(saliency[:, None], n).squeeze(1)
    shares = shares / shares.sum((1, 2), keepdim=True)
    lam = torch.linspace(0.05, 0.95, 12)
    energy = PuzzleMix(10, deviation=0.25).mask_energy(images, images.roll(1, 0), shares, shares.roll(1, 0), lam)
    gap = gaps(energy)
    assert gap.mean() < 2e-4
    assert gap.max() < 2e-3


def test_a_smaller_grid_is_solved_in_a_larger_one():
    energy = random_energy(6, 4, 0.8)
    padded = MaskEnergy(*(F.pad(part, (0, 4, 0, 4)) for part in energy))
    torch.testing.assert_close(padded.of(solve_mask(padded)), energy.of(solve_mask(energy)), rtol=1e-4, atol=0)


def transport_costs(saliency, shown, penalty):
    """(B, P, P): of each block at each place, by loops."""
    batch, n, _ = saliency.shape
    costs = np.zeros((batch, n * n, n * n))
    saliency, shown = saliency.numpy(), shown.numpy()
    for b, block, place in itertools.product(range(batch), range(n * n), range(n * n)):
        (i, j), (k, col) = divmod(block, n), divmod(place, n)
        apart = ((i - k) ** 2 + (j - col) ** 2) / (n - 1) ** 2
        costs[b, block, place] = penalty * apart - saliency[b, i, j] * shown[b, k, col]
    return costs


@pytest.mark.parametrize(("n", "penalty", "least"), [(4, 0.8, 0.95), (4, 0.1, 0.9), (8, 0.2, 0.9), (8, 0.02, 0.8)])
def test_transport_gains_nearly_what_the_best_assignment_does(n, penalty, least):
    generator = torch.Generator().manual_seed(0)
    saliency = torch.rand(12, n, n, generator=generator, dtype=torch.float64).pow(8)
    saliency = saliency / saliency.sum((1, 2), keepdim=True)
    shown = torch.rand(12, n, n, generator=generator) < 0.5
    sources = solve_transport(saliency, shown, penalty)
    assert torch.equal(sources.sort(1).values, torch.arange(n * n).expand(12, -1))
    gained, possible = 0.0, 0.0
    for costs, source in zip(transport_costs(saliency, shown, penalty), sources.numpy(), strict=True):
        staying, found = np.trace(costs), costs[source, np.arange(n * n)].sum()
        assert found <= staying + 1e-12
        gained += staying - found
        possible += staying - costs[linear_sum_assignment(costs)].sum()
    assert possible > 0.01
    assert gained >= least * possible


def test_nothing_moves_without_reason():
    saliency = torch.full((2, 4, 4), 1 / 16)
    shown = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    assert torch.equal(solve_transport(saliency, shown, 0.8), torch.arange(16).expand(2, -1))
    everywhere = solve_transport(torch.rand(2, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool), 0.01)
    assert torch.equal(everywhere, torch.arange(16).expand(2, -1))
