"""FGSM and PGD against Captum's and torchattacks', and against a linear network whose worst case is known."""

import numpy as np
import pytest
import torch
from captum.robust import FGSM, PGD
from torch import Tensor, nn

from train.analysis.evaluation import attacks
from train.analysis.evaluation.attacks import fgsm, pgd
from train.analysis.evaluation.images import Sample

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1).double(), torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1).double()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)
    return nn.Sequential(*layers).double().requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


LABELS = torch.tensor([0, 1, 2, 3, 0])


class Normalised(nn.Module):
    """The network with its normalisation in front."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - MEAN) / STD)


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize("epsilon", [1 / 255, 8 / 255])
def test_against_captum(network: nn.Module, images: Tensor, epsilon: float) -> None:
    forward = Normalised(network)
    loss = nn.CrossEntropyLoss(reduction="none")
    bounds = {"lower_bound": 0.0, "upper_bound": 1.0}
    expected = FGSM(forward, loss, **bounds).perturb(images.clone(), epsilon, LABELS)
    torch.testing.assert_close(fgsm(forward, images, LABELS, epsilon), expected)
    theirs = PGD(forward, loss, **bounds).perturb(images, epsilon, epsilon / 4, 10, LABELS)
    ours = pgd(forward, images, LABELS, epsilon, start=torch.zeros_like(images))
    torch.testing.assert_close(ours, theirs)
    assert (ours - images).abs().max() <= epsilon + 1e-12
    start = torch.rand_like(images) * 2 - 1
    begun = pgd(forward, images, LABELS, epsilon, start=start, steps=0)
    torch.testing.assert_close(begun, (images + epsilon * start).clamp(0, 1))
    assert not images.requires_grad


@pytest.mark.parametrize("epsilon", [2 / 255, 8 / 255])
def test_against_torchattacks(network: nn.Module, images: Tensor, epsilon: float) -> None:
    why = "not installed: it pins requests 2.25, which datasets excludes (pip install --no-deps torchattacks)"
    torchattacks = pytest.importorskip("torchattacks", reason=why)
    network = nn.Sequential(Normalised(network), nn.Identity()).eval()
    network.register_parameter("where", nn.Parameter(torch.zeros(1)))  # by whose device it goes
    expected = torchattacks.FGSM(network, eps=epsilon)(images, LABELS)
    torch.testing.assert_close(fgsm(network, images, LABELS, epsilon), expected)
    theirs = torchattacks.PGD(network, eps=epsilon, alpha=epsilon / 4, steps=10, random_start=False)(images, LABELS)
    torch.testing.assert_close(pgd(network, images, LABELS, epsilon, start=torch.zeros_like(images)), theirs)


def test_a_linear_network_is_led_to_its_worst_case() -> None:
    """Of two classes, the worst image within ε has each pixel moved by ε against the difference of their weights."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).double()
    images, labels = torch.rand(6, 3, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 0, 1])
    weights = network[1].weight.detach()
    away = (weights[1 - labels] - weights[labels]).sign().view_as(images)
    for epsilon in (0.01, 0.3):
        worst = (images + epsilon * away).clamp(0, 1)
        torch.testing.assert_close(fgsm(network, images, labels, epsilon), worst)
        start = torch.rand_like(images) * 2 - 1
        torch.testing.assert_close(pgd(network, images, labels, epsilon, start=start), worst)


class Run:
    run = "runs/x"

    def __init__(self, network: nn.Module) -> None:
        self.model = network

    def normalised(self, images: Tensor) -> Tensor:
        return (images - MEAN) / STD


def test_the_accuracy_counts_images(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randint(0, 256, (7, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    clean = network((pixels / 255 - MEAN) / STD).argmax(1)
    labels = torch.where(torch.arange(7) < 6, clean, (clean + 1) % 4)  # the last one is wrong as it is
    sample = Sample(pixels, labels, np.arange(7), None)
    result = attacks.measure(Run(network), sample, 0)  # type: ignore[arg-type]
    assert result["clean"] == pytest.approx(6 / 7)
    forward = Normalised(network)
    for epsilon, share in zip((1, 2, 4, 8), result["fgsm"], strict=True):
        right = 0
        for pixel, label in zip(pixels, labels, strict=True):
            seen = fgsm(forward, pixel[None] / 255, label[None], epsilon / 255)
            right += int(forward(seen).argmax() == label)
        assert share == pytest.approx(right / 7)
    assert result["pgd"] == sorted(result["pgd"], reverse=True)
    assert all(p <= f for p, f in zip(result["pgd"], result["fgsm"], strict=True))
    assert result["fgsm"][-1] < result["clean"]
    assert attacks.measure(Run(network), sample, 0) == result  # type: ignore[arg-type]
