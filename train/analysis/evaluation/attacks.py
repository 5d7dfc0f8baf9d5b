"""Robustness to adversarial changes of at most ε in each pixel: FGSM and PGD, with all knowledge of the network."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from train.analysis.evaluation.drawing import Picture, colour, new_figure, picture
from train.analysis.evaluation.images import Sample, Subject
from train.analysis.evaluation.rows import Row
from train.engine.progress import Progress

PART = "attacks"
EPSILONS = (1, 2, 4, 8)  # in 255ths of the pixels' range
STEPS = 10  # of PGD, each of ε / 4

Forward = Callable[[Tensor], Tensor]  # images (B, 3, H, W), from 0 to 1, to logits (B, K)


def _ascent(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
    """Return the signs of the cross-entropy's gradient by the images."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(forward(images), labels, reduction="sum")  # a mean would divide towards underflow
    (gradient,) = torch.autograd.grad(loss, images)
    return gradient.sign()


def fgsm(forward: Forward, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Return images after the fast gradient sign method: one step of ε (Goodfellow et al. 2015, arXiv:1412.6572).

    Args:
        forward: with the normalisation in it.
        images: (B, 3, H, W), from 0 to 1.
        labels: (B,), int64.
        epsilon: in the same units as the images.

    Returns:
        Like `images`, from 0 to 1, detached.
    """
    return (images + epsilon * _ascent(forward, images, labels)).clamp(0, 1)


def pgd(
    forward: Forward, images: Tensor, labels: Tensor, epsilon: float, *, start: Tensor, steps: int = STEPS
) -> Tensor:
    """Return images after projected gradient descent from a random start (Madry et al. 2018, arXiv:1706.06083).

    Each of the steps has length ε / 4, and ends in the nearest image within ε of the original and from 0 to 1. At
    ε = 8/255 that is the paper's 2/255.

    Args:
        forward, images, labels, epsilon: as `fgsm`.
        start: like `images`, from −1 to 1, in units of ε.
        steps: their number.
    """
    moved = (images + epsilon * start).clamp(0, 1)
    for _ in range(steps):
        moved = moved + epsilon / 4 * _ascent(forward, moved, labels)
        moved = (images + (moved - images).clamp(-epsilon, epsilon)).clamp(0, 1)
    return moved


def measure(subject: Subject, sample: Sample, seed: int) -> dict[str, Any]:
    """Return the accuracy under attack.

    Args:
        seed: of the random starts of PGD.

    Returns:
        "images"; "epsilons" in 255ths; "clean", the accuracy without an attack; "fgsm" and "pgd", one for each ε.
    """
    device = sample.pixels.device
    hits = torch.zeros(1 + 2 * len(EPSILONS), dtype=torch.int64, device=device)
    generator = torch.Generator().manual_seed(seed)

    def forward(images: Tensor) -> Tensor:
        return subject.model(subject.normalised(images))

    batches = list(sample.batches())
    with torch.no_grad(), Progress(f"{subject.run}: attacks", batches=len(batches), images=len(sample)) as progress:
        for number, part in enumerate(batches, 1):
            images, labels = sample.pixels[part] / 255, sample.labels[part]
            start = 2 * torch.rand(images.shape, generator=generator).to(device, non_blocking=True) - 1
            seen = [images]
            seen += [fgsm(forward, images, labels, epsilon / 255) for epsilon in EPSILONS]
            seen += [pgd(forward, images, labels, epsilon / 255, start=start) for epsilon in EPSILONS]
            hits += torch.stack([(forward(changed).argmax(1) == labels).sum() for changed in seen])
            progress.update(len(images), number)
    clean, *shares = (hits.double() / len(sample)).tolist()
    return {
        "images": len(sample),
        "epsilons": list(EPSILONS),
        "clean": clean,
        "fgsm": shares[: len(EPSILONS)],
        "pgd": shares[len(EPSILONS) :],
    }


def rows(result: Mapping[str, Any]) -> list[Row]:
    return [
        Row(PART, "the same images, not attacked", result["clean"]),
        *(
            Row(PART, f"{name.upper()}, ε = {epsilon}/255", value)
            for name in ("fgsm", "pgd")
            for epsilon, value in zip(result["epsilons"], result[name], strict=True)
        ),
    ]


def pictures(results: Mapping[str, Mapping[str, Any]]) -> list[Picture]:
    """Return the accuracy of runs, by their titles, against ε."""
    figure, (ax,) = new_figure(1, width=7, height=4)
    for number, (title, result) in enumerate(results.items()):
        for name, style in (("fgsm", "--"), ("pgd", "-")):
            values = [100 * value for value in (result["clean"], *result[name])]
            label = f"{title}: {name.upper()}"
            ax.plot([0, *result["epsilons"]], values, style, marker="o", color=colour(number), label=label)
    ax.set(xlabel="ε, in 255ths of the pixels' range", ylabel="accuracy, %", ylim=(0, 100))
    ax.grid(alpha=0.3)
    for text in ax.legend(fontsize=8).get_texts():
        text.set_parse_math(False)
    return [picture(f"Accuracy under attack; PGD has {STEPS} steps of ε/4 from a random start", figure)]
