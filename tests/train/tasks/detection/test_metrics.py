"""The precision of detections: two evaluators agree, and Pascal VOC's by a loop as its authors wrote it."""

import builtins
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import Objects
from pipelines.labels.objects import CROWD, DIFFICULT
from train.errors import UserError
from train.tasks.detection.metrics import Found, check_installed, evaluate, in_whole_images, voc_precision

IMAGES, CLASSES = 25, 4


def _case(seed: int, *, ignored: bool) -> tuple[Objects, dict[int, Found]]:
    """Objects, and detections near some of them and elsewhere. The last class has no objects."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 6, IMAGES)
    corners = generator.uniform(0, 150, (counts.sum(), 2))
    boxes = np.round(np.concatenate([corners, corners + generator.uniform(8, 120, (counts.sum(), 2))], axis=1), 2)
    classes = generator.integers(0, CLASSES - 1, counts.sum())
    kinds = np.zeros(counts.sum(), dtype=np.uint8)
    if ignored:
        kinds = generator.choice([0, DIFFICULT, CROWD], counts.sum(), p=[0.7, 0.2, 0.1]).astype(np.uint8)
    starts = np.array([0, *np.cumsum(counts)])
    objects = Objects(boxes, classes, kinds, starts, np.full((IMAGES, 2), 300))
    found = {}
    for place in range(IMAGES):
        own = slice(starts[place], starts[place + 1])
        near = np.concatenate([boxes[own] + generator.normal(0, scale, (counts[place], 4)) for scale in (2, 5, 12)])
        labels = np.tile(classes[own], 3)
        labels = np.where(generator.random(len(labels)) < 0.2, generator.integers(0, CLASSES, len(labels)), labels)
        far = generator.uniform(0, 100, (3, 4)) + np.array([0, 0, 110, 110])
        both = np.concatenate([near, far]).astype(np.float32)
        labels = np.concatenate([labels, generator.integers(0, CLASSES, 3)])
        found[place] = Found(both, labels, generator.random(len(both)).astype(np.float32))
    return objects, found


def _faster(objects: Objects, found: dict[int, Found]) -> dict[str, float]:
    """The values of faster-coco-eval, from COCO's files as one writes them by hand."""
    from faster_coco_eval import COCO, COCOeval_faster

    annotations, detections = [], []
    for place, mine in found.items():
        for k in range(objects.starts[place], objects.starts[place + 1]):
            left, top, right, bottom = objects.boxes[k].tolist()
            annotations.append(
                {
                    "id": k + 1,
                    "image_id": place,
                    "category_id": int(objects.classes[k]),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": int(objects.kinds[k] != 0),
                }
            )
        for (left, top, right, bottom), label, score in zip(
            mine.boxes.tolist(), mine.classes.tolist(), mine.scores.tolist(), strict=True
        ):
            box = [left, top, right - left, bottom - top]
            detections.append({"image_id": place, "category_id": label, "bbox": box, "score": score})
    truth = COCO(
        {
            "images": [{"id": place, "height": 300, "width": 300} for place in found],
            "categories": [{"id": label, "name": str(label)} for label in range(CLASSES)],
            "annotations": annotations,
        }
    )
    evaluation = COCOeval_faster(truth, truth.loadRes(detections), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(("val_map", "val_map50", "val_map75"), (100 * evaluation.stats[:3]).tolist(), strict=True))


@pytest.mark.parametrize("ignored", [False, True])
def test_two_evaluators_agree(ignored: bool) -> None:
    for seed in range(2):
        objects, found = _case(seed, ignored=ignored)
        mine, theirs = evaluate(objects, found), _faster(objects, found)
        assert {name: mine[name] for name in theirs} == pytest.approx(theirs, abs=1e-4)
        assert 5 < mine["val_map"] < mine["val_map50"] < 95


def _devkit(objects: Objects, found: dict[int, Found], label: int) -> float:
    """One class by VOCdevkit's loops (VOCevaldet.m, VOCap.m), without its 1 of inclusive pixels."""
    detections = [
        (float(score), place, box)
        for place, mine in found.items()
        for box, its, score in zip(mine.boxes.astype(float), mine.classes, mine.scores, strict=True)
        if its == label
    ]
    detections.sort(key=lambda each: -each[0])
    taken, right, wrong = set(), [], []
    for _, place, box in detections:
        best, best_k = -1.0, -1
        for k in range(objects.starts[place], objects.starts[place + 1]):
            if objects.classes[k] != label:
                continue
            other = objects.boxes[k]
            width = min(box[2], other[2]) - max(box[0], other[0])
            height = min(box[3], other[3]) - max(box[1], other[1])
            if width <= 0 or height <= 0:
                continue
            area = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1])
            overlap = width * height / (area - width * height)
            if overlap > best:
                best, best_k = overlap, k
        if best >= 0.5:
            if objects.kinds[best_k] == 0:
                right.append(best_k not in taken)
                wrong.append(best_k in taken)
                taken.add(best_k)
            else:
                right.append(False)
                wrong.append(False)
        else:
            right.append(False)
            wrong.append(True)
    total = sum(objects.classes[k] == label and objects.kinds[k] == 0 for k in range(len(objects.classes)))
    hits, misses = np.cumsum(right), np.cumsum(wrong)
    recall = [0.0, *(hits / total), 1.0]
    precision = [0.0, *(hits / np.maximum(hits + misses, 1e-9)), 0.0]
    for place in range(len(precision) - 2, -1, -1):
        precision[place] = max(precision[place], precision[place + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


@pytest.mark.parametrize("ignored", [False, True])
def test_vocs_precision_is_its_devkits(ignored: bool) -> None:
    objects, found = _case(5, ignored=ignored)
    expected = np.mean([_devkit(objects, found, label) for label in range(CLASSES - 1)])
    assert voc_precision(objects, found) == pytest.approx(expected, abs=1e-9)
    assert evaluate(objects, found)["val_voc50"] == pytest.approx(100 * expected)


def test_all_objects_found_and_nothing_found() -> None:
    objects, _ = _case(1, ignored=False)
    places = range(IMAGES)
    own = [slice(objects.starts[place], objects.starts[place + 1]) for place in places]
    right = {
        place: Found(objects.boxes[s].astype(np.float32), objects.classes[s], np.ones(s.stop - s.start, np.float32))
        for place, s in zip(places, own, strict=True)
    }
    names = ("val_map", "val_map50", "val_map75", "val_voc50")
    assert evaluate(objects, right) == pytest.approx(dict.fromkeys(names, 100.0))
    nothing = Found(np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, np.float32))
    assert evaluate(objects, dict.fromkeys(places, nothing)) == dict.fromkeys(names, 0.0)


def test_detections_are_scaled_to_the_whole_images() -> None:
    boxes = torch.tensor([[1.0, 2, 3, 4], [10, 10, 20, 40]])
    detection: dict[str, Any] = {"boxes": boxes, "labels": torch.tensor([0, 2]), "scores": torch.tensor([0.5, 0.25])}
    (found,) = in_whole_images([detection], [(40, 20)], np.array([[80, 60]]))
    assert found.boxes.tolist() == [[3, 4, 9, 8], [30, 20, 60, 80]]
    assert (found.classes.tolist(), found.scores.tolist()) == ([0, 2], [0.5, 0.25])


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    real = builtins.__import__

    def importing(name: str, *args: Any, **options: Any) -> Any:
        if name == "pycocotools":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(
        UserError, match=r"detect needs torchmetrics and pycocotools, .*: pip install torchmetrics pyco"
    ):
        check_installed()
