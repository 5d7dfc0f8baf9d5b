"""Pictures of a detection run: a training batch with its boxes, and what is found in validation images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines import Batch, Dataset, Objects
from pipelines.decoding import decode
from train.tasks.detection.metrics import Found

IMAGES = 8
TRUE, FOUND = "#76ff03", "#ff4081"  # of boxes; both stand out from photographs
LEAST_SCORE = 0.3  # of the detections that are drawn
MOST = 30  # detections that are drawn in an image
_ABREAST = 4
_LONGEST = 640  # pixels, of an image in a picture


def write_batch(
    batch: Batch, classes: Sequence[str], path: Path, *, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Write the images of a batch with their boxes as PNG.

    Args:
        batch: of `detection_loader`.
        classes: names.
        path: of the PNG.
        mean, std: of the images' normalisation.
    """
    images = batch.images.detach().float().cpu() * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    figure, axes = _figure(len(pixels))
    for ax, image, size, boxes, labels in zip(axes, pixels, batch.sizes, *batch.labels, strict=False):
        ax.imshow(image[: size[0], : size[1]])
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            _outline(ax, box, classes[label], TRUE)
    figure.savefig(path, dpi=110, facecolor="white")


def write_detections(dataset: Dataset, found: Mapping[int, Found], classes: Sequence[str], path: Path) -> None:
    """Write images of a data set with the true boxes and the found ones, with their scores, as PNG.

    Args:
        dataset: of `find_detection`.
        found: by the image's place.
        classes: names.
        path: of the PNG.
    """
    objects = dataset.labels
    assert isinstance(objects, Objects)
    figure, axes = _figure(len(found))
    for ax, (place, mine) in zip(axes, found.items(), strict=False):
        image = Image.fromarray(decode(dataset.encoded(place)))
        height, width = objects.sizes[place].tolist()
        image.thumbnail((_LONGEST, _LONGEST), Image.Resampling.BILINEAR)
        ax.imshow(np.asarray(image), extent=(0, width, height, 0))
        own = slice(int(objects.starts[place]), int(objects.starts[place + 1]))
        for box in objects.boxes[own].tolist():
            _outline(ax, box, "", TRUE, width=2.4)
        shown = [k for k in np.argsort(-mine.scores, kind="stable")[:MOST] if mine.scores[k] >= LEAST_SCORE]
        for k in shown:
            _outline(ax, mine.boxes[k].tolist(), f"{classes[mine.classes[k]]} {mine.scores[k]:.2f}", FOUND)
    figure.suptitle(f"true boxes: green; found, with a score of at least {LEAST_SCORE}: pink", fontsize=10)
    figure.savefig(path, dpi=110, facecolor="white")


def _figure(count: int) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-count // _ABREAST)
    figure = Figure(figsize=(2.4 * min(count, _ABREAST), 2.2 * rows + 0.3))
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, min(count, _ABREAST), squeeze=False).flat)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure, axes


def _outline(ax: Any, box: Sequence[float], text: str, colour: str, width: float = 1.2) -> None:
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box
    for edge, line in (("black", width + 1), (colour, width)):
        ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=edge, linewidth=line))
    if text:
        style = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "pad": 0.6}
        ax.text(left, top, text, fontsize=5, color="white", va="bottom", parse_math=False, bbox=style)
