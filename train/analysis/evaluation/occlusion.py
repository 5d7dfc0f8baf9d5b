"""Occlusion: the accuracy behind a square of growing size, in the centre, where the network looks, or anywhere."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from train.analysis.boxes import in_view
from train.analysis.evaluation.drawing import Picture, colour, new_figure, picture
from train.analysis.evaluation.images import Sample, Subject
from train.analysis.evaluation.rows import Row
from train.engine.progress import Progress
from train.tasks.classification.stage import live_map

PART = "occlusion"
SIZES = 8  # of the square: 0, 1/8 … 7/8 of the image's side
STYLES = {"centre": "-", "salient": "--", "random": ":", "object": "-."}


def measure(subject: Subject, sample: Sample, seed: int) -> dict[str, Any]:
    """Return the accuracy on images of which a square has the mean colour of the normalisation.

    The square is wholly in the image: near a border it moves inwards.

    Returns:
        "images"; "sides" of the square, in pixels; and by the place of its middle the top-1 accuracy at each side, from
        0 to 1: "centre" of the image; "salient", the peak of the live map, as the run's options have it, of the whole
        image; "random", one place for each image, the same at each side; and "object", the middle of the object's box
        of those images that have one, None without boxes.
    """
    side, device = subject.side, sample.pixels.device
    sides = [round(number * side / SIZES) for number in range(SIZES)]
    uniform = torch.rand(len(sample), 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)
    objects = None if sample.objects is None else sample.objects.to(device)
    places = ["centre", "salient", "random"] + (["object"] if objects is not None else [])
    hits = {place: torch.zeros(SIZES, dtype=torch.float64, device=device) for place in places}
    has_object = torch.zeros(len(sample), dtype=torch.float64, device=device)
    if objects is not None:
        has_object = in_view(objects).double()
    batches = list(sample.batches())
    work = f"{subject.run}: occlusion"
    with torch.no_grad(), Progress(work, batches=len(batches), images=len(sample)) as progress:
        for number, part in enumerate(batches, 1):
            images, labels = subject.normalised(sample.pixels[part]), sample.labels[part]
            middles = {"centre": torch.full((len(images), 2), side / 2, dtype=torch.float64, device=device)}
            middles["salient"] = peaks(live_map(subject.model, images, labels, subject.trained.config, seed), side)
            if objects is not None:
                middles["object"] = (objects[part, :2] + objects[part, 2:]) / 2
            for place in places:
                for which, length in enumerate(sides):
                    if place == "random":
                        corners = (uniform[part] * (side - length + 1)).floor().long()
                    else:
                        corners = corners_around(middles[place], length, side)
                    right = subject.model(occlude(images, corners, length)).argmax(1) == labels
                    counts = right * has_object[part] if place == "object" else right
                    hits[place][which] += counts.sum()
            progress.update(len(images), number)
    with_object = has_object.sum().item()
    result: dict[str, Any] = {"images": len(sample), "sides": sides, "object": None}
    for place in places:
        count = with_object if place == "object" else len(sample)
        result[place] = (hits[place] / count).tolist() if count else None
    return result


def peaks(maps: Tensor, side: int) -> Tensor:
    """Return the middle of each map's greatest cell, the first one of several: (B, 2), float64, y and x in pixels.

    Args:
        maps: (B, h, w).
        side: of the images.
    """
    height, width = maps.shape[1:]
    cell = maps.flatten(1).argmax(1)
    rows = (torch.div(cell, width, rounding_mode="floor") + 0.5) * (side / height)
    return torch.stack((rows, (cell % width + 0.5) * (side / width)), dim=1).double()


def corners_around(middles: Tensor, length: int, side: int) -> Tensor:
    """Return top and left, (B, 2), int64, of squares as near to the middles as they can be within the image.

    Args:
        middles: (B, 2), y and x in pixels.
        length: of the squares, at most `side`.
        side: of the images.
    """
    return (middles - length / 2).round().long().clamp(0, side - length)


def occlude(images: Tensor, corners: Tensor, length: int) -> Tensor:
    """Return images (B, C, H, W) that are 0 in the squares with these corners (B, 2) and sides, in pixels."""
    inside = [
        (at >= first[:, None]) & (at < first[:, None] + length)
        for first, at in zip(
            corners.unbind(1), (torch.arange(n, device=images.device) for n in images.shape[2:]), strict=True
        )
    ]
    return images.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)


def rows(result: Mapping[str, Any]) -> list[Row]:
    """Return the mean accuracy over the sizes of the square from 1/8 of the image's side."""

    def mean(curve: list[float] | None) -> float | None:
        return None if curve is None else sum(curve[1:]) / (SIZES - 1)

    words = {
        "centre": "in the centre",
        "salient": "on the peak of the map",
        "random": "anywhere",
        "object": "on the object",
    }
    return [Row(PART, f"mean behind a square {words[place]}", mean(result[place])) for place in STYLES]


def pictures(results: Mapping[str, Mapping[str, Any]]) -> list[Picture]:
    """Return the curves of runs, by their titles."""
    figure, (ax,) = new_figure(1, width=7, height=4)
    for number, (title, result) in enumerate(results.items()):
        for place, style in STYLES.items():
            if result[place] is not None:
                shares = [100 * number / SIZES for number in range(SIZES)]
                values = [100 * value for value in result[place]]
                ax.plot(
                    shares, values, style, marker="o", markersize=3, color=colour(number), label=f"{title}: {place}"
                )
    ax.set(xlabel="side of the square, % of the image's", ylabel="accuracy, %", ylim=(0, 100))
    ax.grid(alpha=0.3)
    for text in ax.legend(fontsize=7, loc="upper right").get_texts():
        text.set_parse_math(False)
    return [picture("Accuracy behind a square of the mean colour, by the place of its middle", figure)]
