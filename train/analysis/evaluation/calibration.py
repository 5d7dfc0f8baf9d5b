"""Calibration on all validation images: is a prediction with 80 % confidence right in 80 % of cases?"""

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from train.analysis.evaluation.drawing import Picture, colour, new_figure, picture
from train.analysis.evaluation.rows import Row
from train.errors import UserError

PART = "calibration"
BINS = 15


def has_library() -> bool:
    """Return whether the library that measures calibration is installed."""
    return importlib.util.find_spec("torchmetrics") is not None


def check_library(user: str) -> None:
    """Raise UserError where it is not; `user` is the option or the command that needs it."""
    if not has_library():
        raise UserError(f"{user} needs torchmetrics: pip install 'dali-salaug[evaluation]'")


def measure(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the calibration of predictions.

    The calibration errors are those of torchmetrics (Guo et al. 2017, arXiv:1706.04599, eq. 3 and 5): between the
    confidence of the prediction and its accuracy, in `BINS` bins of equal width, the mean weighted by the number of
    images, and the greatest.

    Args:
        logits: (N, K).
        labels: (N,), int64.

    Returns:
        "error", "greatest_error"; "nll", the negative log-likelihood in nats; "brier", the squared distance from the
        one-hot label, from 0 to 2; "confidence", the mean; and "bins", each with "low", "high", "images", and their
        mean "confidence" and "accuracy", None without images.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits = logits.double()
    shares = logits.softmax(1)
    # torchmetrics rounds confidences to float32, and has a bin of its own for those that are then exactly 1.
    shares = shares.clamp(max=1 - torch.finfo(torch.float32).eps)
    confidences, predicted = shares.max(1)
    right = (predicted == labels).double()

    def error(norm: Any) -> float:
        return multiclass_calibration_error(shares, labels, logits.shape[1], n_bins=BINS, norm=norm).item()

    edges = torch.linspace(0, 1, BINS + 1, device=logits.device)
    place = torch.bucketize(confidences.float(), edges, right=True) - 1  # as torchmetrics
    zeros = torch.zeros(BINS, dtype=torch.float64, device=logits.device)
    counts, sums, hits = (
        zeros.index_add(0, place, values).tolist() for values in (torch.ones_like(right), confidences, right)
    )
    bins = [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "images": round(count),
            "confidence": total / count if count else None,
            "accuracy": hit / count if count else None,
        }
        for number, (count, total, hit) in enumerate(zip(counts, sums, hits, strict=True))
    ]
    return {
        "error": error("l1"),
        "greatest_error": error("max"),
        "nll": F.cross_entropy(logits, labels).item(),
        "brier": (shares - F.one_hot(labels, logits.shape[1])).square().sum(1).mean().item(),
        "confidence": confidences.mean().item(),
        "bins": bins,
    }


def rows(result: Mapping[str, Any]) -> list[Row]:
    return [
        Row(PART, "calibration error", result["error"]),
        Row(PART, "greatest error of a bin", result["greatest_error"]),
        Row(PART, "negative log-likelihood, nats", result["nll"], percent=False),
        Row(PART, "Brier score", result["brier"], percent=False),
    ]


def pictures(results: Mapping[str, Mapping[str, Any]]) -> list[Picture]:
    """Return the reliability diagrams of runs, by their titles: a bar for each bin, and where the images are."""
    figure, plots = new_figure(len(results), width=3.6 * len(results) + 0.6, height=3.8)
    for number, (ax, (title, result)) in enumerate(zip(plots, results.items(), strict=True)):
        total = sum(each["images"] for each in result["bins"])
        for each in result["bins"]:
            if each["images"]:
                low, width = each["low"], each["high"] - each["low"]
                ax.bar(low, each["images"] / total, width, align="edge", color="#dddddd", edgecolor="white")
        filled = [each for each in result["bins"] if each["images"]]
        ax.plot((0, 1), (0, 1), color="#999999", linestyle=":")
        ax.plot(
            [each["confidence"] for each in filled],
            [each["accuracy"] for each in filled],
            marker="o", markersize=4, color=colour(number),
        )  # fmt: skip
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy", aspect="equal")
        ax.set_title(title, fontsize=9, parse_math=False)
    caption = f"Reliability in {BINS} bins of confidence; grey bars: the share of the images in each bin"
    return [picture(caption, figure)]
