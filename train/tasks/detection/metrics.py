"""The precision of detections: COCO's mAP by pycocotools, through torchmetrics, and Pascal VOC's AP."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipelines import Objects
from train.distributed import ALONE, World
from train.errors import UserError

INSTALL = "pip install torchmetrics pycocotools"


class Found(NamedTuple):
    """The detections in an image.

    Attributes:
        boxes: (n, 4) float32: left, top, right, bottom in pixels of the whole image.
        classes: (n,) int64.
        scores: (n,) float32.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


def check_installed() -> None:
    """Raise UserError where torchmetrics or pycocotools is missing."""
    try:
        import pycocotools
        import torchmetrics  # noqa: F401
    except ImportError as error:
        raise UserError(f"detect needs torchmetrics and pycocotools, which measure detections: {INSTALL}") from error
    del pycocotools


def in_whole_images(
    detections: Sequence[dict[str, Tensor]], sizes: Sequence[tuple[int, int]], whole: np.ndarray
) -> list[Found]:
    """Return detections in resized images as those in the whole images. Waits for the device.

    Args:
        detections: of `Detector`, one for each image.
        sizes: height and width of the resized images.
        whole: (B, 2): those of the whole images.
    """
    found = []
    for detection, (height, width), (whole_height, whole_width) in zip(detections, sizes, whole.tolist(), strict=True):
        scale = np.array([whole_width / width, whole_height / height] * 2, dtype=np.float32)
        boxes, classes, scores = (detection[name].cpu().numpy() for name in ("boxes", "labels", "scores"))
        found.append(Found(boxes * scale, classes, scores))
    return found


def evaluate(objects: Objects, found: dict[int, Found], world: World = ALONE) -> dict[str, float]:
    """Return how precise the detections of all processes are, in per cent. Together.

    Difficult objects and crowds are ignored, as pycocotools ignores crowds: a detection of which they cover enough
    counts neither as a hit nor as a miss.

    Args:
        objects: of the validation images.
        found: the detections of this process, by the image's place.

    Returns:
        "val_map": the mean over the classes, and over IoU 0.5, 0.55, …, 0.95, of the average precision (COCO);
        "val_map50" and "val_map75": at IoU 0.5 and 0.75; "val_voc50": Pascal VOC's AP, see `voc_precision`. A class
        without objects does not count.
    """
    gathered: dict[int, Found] = {}
    for part in world.gather(found):
        gathered |= part
    values = _evaluated(objects, gathered) if world.is_main else None
    return world.broadcast(values)


def _evaluated(objects: Objects, found: dict[int, Found]) -> dict[str, float]:
    from torchmetrics.detection import MeanAveragePrecision

    # torchmetrics' own thresholds are rounded to float32, so that a recall of exactly 0.06 would not reach "0.06".
    thresholds = {"iou_thresholds": np.linspace(0.5, 0.95, 10), "rec_thresholds": np.linspace(0, 1, 101)}
    lists = {name: values.tolist() for name, values in thresholds.items()}
    metric = MeanAveragePrecision(backend="pycocotools", sync_on_compute=False, **lists)
    places = sorted(found)
    metric.update(*_as_torchmetrics(objects, found, places))
    values = metric.compute()
    voc = voc_precision(objects, found)
    precisions = {f"val_{name}": 100 * max(0.0, float(values[key])) for name, key in _NAMES.items()}
    return precisions | {"val_voc50": 100 * voc}


_NAMES = {"map": "map", "map50": "map_50", "map75": "map_75"}


def _as_torchmetrics(
    objects: Objects, found: dict[int, Found], places: Sequence[int]
) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    predictions, targets = [], []
    for place in places:
        own, mine = slice(objects.starts[place], objects.starts[place + 1]), found[place]
        predictions.append(
            {
                "boxes": torch.from_numpy(mine.boxes),
                "labels": torch.from_numpy(mine.classes),
                "scores": torch.from_numpy(mine.scores),
            }
        )
        targets.append(
            {
                "boxes": torch.from_numpy(objects.boxes[own].astype(np.float32)),
                "labels": torch.from_numpy(objects.classes[own]),
                "iscrowd": torch.from_numpy((objects.kinds[own] != 0).astype(np.int64)),
            }
        )
    return predictions, targets


def voc_precision(objects: Objects, found: dict[int, Found], overlap: float = 0.5) -> float:
    """Return Pascal VOC's mean average precision, as since 2010: the area under precision made monotonic.

    By falling score, a detection is compared with the object of its class that it overlaps most. It is right if the IoU
    is at least `overlap` and no earlier detection had that object; ignored, if that object is difficult or a crowd.

    Args:
        objects: of the images.
        found: the detections, by the image's place.

    Returns:
        The mean over the classes that have objects that count, in [0, 1].
    """
    precisions = []
    counted = {
        place: slice(int(objects.starts[place]), int(objects.starts[place + 1]))
        for place in sorted(found)
    }  # fmt: skip
    rows = np.concatenate([np.arange(own.start, own.stop) for own in counted.values()]).astype(np.int64)
    for label in np.unique(objects.classes[rows][objects.kinds[rows] == 0]):
        hits, scores, total = [], [], 0
        for place, own in counted.items():
            chosen = objects.classes[own] == label
            boxes, ignored = objects.boxes[own][chosen], objects.kinds[own][chosen] != 0
            total += int((~ignored).sum())
            mine = found[place].classes == label
            its_hits, its_scores = _hits(found[place].boxes[mine], found[place].scores[mine], boxes, ignored, overlap)
            hits.append(its_hits)
            scores.append(its_scores)
        order = np.argsort(-np.concatenate(scores), kind="stable")
        precisions.append(_area(np.concatenate(hits)[order], total))
    return float(np.mean(precisions)) if precisions else 0.0


def _hits(
    boxes: np.ndarray, scores: np.ndarray, objects: np.ndarray, ignored: np.ndarray, overlap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return which detections in an image are right (bool), and their scores, without those that are ignored."""
    order = np.argsort(-scores, kind="stable")
    boxes, scores = boxes[order].astype(np.float64), scores[order]
    if not len(objects):
        return np.zeros(len(boxes), dtype=bool), scores
    ious = _ious(boxes, objects)
    hits, kept, taken = [], [], set()
    for row, nearest in enumerate(ious.argmax(axis=1).tolist()):
        over = ious[row, nearest] >= overlap
        if over and ignored[nearest]:
            continue
        hits.append(over and nearest not in taken)
        kept.append(row)
        taken |= {nearest} if over else set()
    return np.array(hits, dtype=bool), scores[kept]


def _ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU of each of (n, 4) boxes with each of (m, 4) others: (n, m)."""
    upper = np.maximum(boxes[:, None, :2], others[None, :, :2])
    lower = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.clip(lower - upper, 0, None).prod(axis=2)
    areas, other_areas = ((each[:, 2:] - each[:, :2]).prod(axis=1) for each in (boxes, others))
    return common / np.maximum(areas[:, None] + other_areas[None] - common, 1e-12)


def _area(hits: np.ndarray, total: int) -> float:
    """Return the area under precision over recall, precision made monotonic from the right."""
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    monotonic = np.maximum.accumulate(precision[::-1])[::-1]
    return float(monotonic[hits].sum() / total)
