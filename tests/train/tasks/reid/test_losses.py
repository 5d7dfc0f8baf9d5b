"""The losses on features against plain float64 loops, and the steps of the centres against torch's own descent."""

import math

import pytest
import torch
from torch import Tensor, nn

from train.tasks.reid.losses import Centres, distances, triplet_loss


def _features(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def _loop(features: list[list[float]], labels: list[int], margin: float) -> float:
    total = 0.0
    for anchor, label in zip(features, labels, strict=True):
        same = [math.dist(anchor, other) for other, its in zip(features, labels, strict=True) if its == label]
        others = [math.dist(anchor, other) for other, its in zip(features, labels, strict=True) if its != label]
        if others:
            total += max(0.0, margin + max(same) - min(others))
    return total / len(features)


LABELS = {
    "4 × 3": [0, 0, 0, 5, 5, 5, 2, 2, 2, 9, 9, 9],
    "unlike": [0, 1, 1, 2, 2, 2, 7],
    "one alone": [3, 3, 3],
    "one image": [1],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("margin", [0.0, 0.3, 2.0])
def test_the_triplet_loss(labels: list[int], margin: float) -> None:
    features = _features(len(labels), 6).requires_grad_()
    loss = triplet_loss(features, torch.tensor(labels), margin=margin)
    assert loss.item() == pytest.approx(_loop(features.double().tolist(), labels, margin), rel=1e-5, abs=1e-6)
    loss.backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_its_gradient_is_that_of_float64_differences() -> None:
    features, labels = _features(8, 5), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    ours = features.clone().requires_grad_()
    triplet_loss(ours, labels, margin=0.3).backward()
    theirs = features.double().requires_grad_()
    apart = torch.cdist(theirs, theirs, compute_mode="donot_use_mm_for_euclid_dist")
    total = torch.zeros((), dtype=torch.float64)
    for row, label in enumerate(labels):
        positives = [apart[row, column] for column in range(8) if labels[column] == label and column != row]
        negatives = [apart[row, column] for column in range(8) if labels[column] != label]
        total = total + (0.3 + max(positives) - min(negatives)).clamp(min=0)
    (total / 8).backward()
    torch.testing.assert_close(ours.grad, theirs.grad.float(), rtol=1e-4, atol=1e-6)


def test_equal_images_have_a_finite_gradient() -> None:
    features = torch.ones(6, 4).requires_grad_()
    loss = triplet_loss(features, torch.tensor([0, 0, 0, 1, 1, 1]), margin=0.3)
    loss.backward()
    assert loss.item() == pytest.approx(0.3)
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_distances_have_all_digits_under_autocast() -> None:
    features = _features(6, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = distances(features.bfloat16())
    assert found.dtype == torch.float32
    expected = torch.cdist(features.bfloat16().double(), features.bfloat16().double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=2e-3)


def test_the_loss_of_centres() -> None:
    torch.manual_seed(0)
    centres = Centres(4, 3, lr=0.5, device=torch.device("cpu"))
    features, labels = _features(5, 3).requires_grad_(), torch.tensor([0, 2, 2, 3, 0])
    total = 0.0
    for row, label in zip(features.double().tolist(), labels.tolist(), strict=True):
        total += math.dist(row, centres.values[label].double().tolist()) ** 2
    loss = centres.loss(features, labels)
    assert loss.item() == pytest.approx(total / 5, rel=1e-6)
    loss.backward()
    expected = 2 * (features.detach() - centres.values[labels]) / 5
    torch.testing.assert_close(features.grad, expected)


def test_a_step_of_the_centres_is_torchs_descent() -> None:
    """As the authors: the optimizer of the centres has the gradient of the loss without its weight."""
    torch.manual_seed(0)
    centres = Centres(4, 3, lr=0.5, device=torch.device("cpu"))
    parameter = nn.Parameter(centres.values.double().clone())
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    for seed in range(3):
        features, labels = _features(6, 3, seed), torch.tensor([0, 2, 2, 3, 0, 2])
        optimizer.zero_grad()
        (5e-4 * (features.double() - parameter[labels]).square().sum(1).mean()).backward()
        assert parameter.grad is not None
        parameter.grad *= 1 / 5e-4
        optimizer.step()
        centres.values += centres.step(features, labels)
        torch.testing.assert_close(centres.values, parameter.detach().float())
    assert not centres.values[1].equal(torch.zeros(3))


def test_no_loss_waits(no_waiting: object) -> None:
    centres = Centres(4, 3, lr=0.5, device=torch.device("cpu"))
    features, labels = _features(6, 3).requires_grad_(), torch.tensor([0, 2, 2, 3, 0, 2])
    with no_waiting():  # type: ignore[operator]
        (triplet_loss(features, labels, margin=0.3) + centres.loss(features, labels)).backward()
        centres.step(features, labels)
