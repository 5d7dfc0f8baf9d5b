"""Accuracy on all validation images: top-1, top-5, of each class, and what is taken for what."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from train.analysis.evaluation.drawing import Picture, colour, new_figure, picture
from train.analysis.evaluation.images import Subject, whole_set
from train.analysis.evaluation.rows import Row
from train.engine.progress import Progress

PART = "accuracy"
NAMED = 30  # classes at most whose names and numbers a picture shows


def predict(subject: Subject) -> tuple[Tensor, Tensor]:
    """Return the logits (N, K) of all validation images, float32, and their labels (N,), int64, on the device."""
    logits, labels = [], []
    images = len(subject.dataset)
    with torch.no_grad(), Progress(f"{subject.run}: predictions", batches=-(-images // 64), images=images) as progress:
        for number, (batch, classes) in enumerate(whole_set(subject), 1):
            logits.append(subject.model(batch).float())
            labels.append(classes.clone())  # on the CPU, the loader's memory
            progress.update(len(classes), number)
    return torch.cat(logits), torch.cat(labels)


def measure(logits: Tensor, labels: Tensor, classes: list[str]) -> dict[str, Any]:
    """Return the accuracy of predictions.

    Args:
        logits: (N, K).
        labels: (N,), int64.
        classes: K names.

    Returns:
        "images"; "top1" and, over 5 classes, "top5", else None; "classes", each with "name", "images" and "top1", None
        without images; and "confusion", K rows of K numbers: images of the row's class by predicted class. Shares are
        from 0 to 1.
    """
    count = len(classes)
    predicted = logits.argmax(1)
    confusion = torch.bincount(labels * count + predicted, minlength=count**2).view(count, count).cpu()
    top5 = (logits.topk(5, dim=1).indices == labels[:, None]).any(1).double().mean().item() if count > 5 else None
    each = []
    for name, row, right in zip(classes, confusion, confusion.diagonal().tolist(), strict=True):
        images = int(row.sum())
        each.append({"name": name, "images": images, "top1": right / images if images else None})
    return {
        "images": len(labels),
        "top1": int(confusion.diagonal().sum()) / len(labels),
        "top5": top5,
        "classes": each,
        "confusion": confusion.tolist(),
    }


def rows(result: Mapping[str, Any]) -> list[Row]:
    worst = min(each["top1"] for each in result["classes"] if each["top1"] is not None)
    return [
        Row(PART, "top-1", result["top1"]),
        Row(PART, "top-5", result["top5"]),
        Row(PART, "of the worst class", worst),
    ]


def pictures(results: Mapping[str, Mapping[str, Any]]) -> list[Picture]:
    """Return the confusion matrices of runs, by their titles."""
    drawn = []
    for title, result in results.items():
        names = [each["name"] for each in result["classes"]]
        confusion = torch.tensor(result["confusion"], dtype=torch.float64)
        shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
        few = len(names) <= NAMED
        side = 1.6 + (0.45 * len(names) if few else 5)
        figure, (ax,) = new_figure(1, width=side + 1, height=side)
        ax.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        ax.set(xlabel="predicted", ylabel="true class")
        if few:
            places = range(len(names))
            ax.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
            ax.set_yticks(places, names, parse_math=False)
            for row in places:
                for column in places:
                    if confusion[row, column]:
                        ink = "white" if shares[row, column] > 0.5 else colour(0)
                        text = f"{100 * shares[row, column]:.0f}"
                        ax.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
        drawn.append(picture(f"Confusion matrix of {title}: per cent of the images of each class", figure))
    return drawn
