"""The picture of an advice: images, where the network looks, the place common to all, and what augmentations do."""

from pathlib import Path

from torch import Tensor

from train.analysis.advice.signs import AUGMENTATIONS, Measured, augment
from train.analysis.evaluation.images import Sample, Subject
from train.analysis.trained import spread_evenly
from train.tasks.classification.pictures import Column, draw_sheet
from train.tasks.classification.stage import live_map

IMAGES = 4


def draw(subject: Subject, sample: Sample, measured: Measured, boxes: Path | None, seed: int, path: Path) -> None:
    """Write the picture of some training images as PNG.

    Args:
        subject: the network with the training images.
        sample: of them.
        measured: the signs of the run.
        boxes: see `augment`; the objects' boxes are outlined.
        seed: of the draws.
        path: of the PNG.
    """
    shown = sample.some(spread_evenly(len(sample), IMAGES))
    made = next(augment(subject, shown, boxes, seed))
    count, config = len(shown), subject.trained.config
    objects = None if made.objects is None else made.objects.round().long()
    columns = [
        Column("image", made.clean, sources=objects),
        Column("its map", live_map(subject.model, made.clean, made.labels, config, seed), sources=objects),
        Column("mean map", _alike(measured.mean_map, count), _alike(measured.common, count)),
        *(Column(name, made.inputs[name], made.boxes[name]) for name in AUGMENTATIONS),
    ]
    names = [subject.trained.classes[label] for label in made.labels.tolist()]
    mean, std = (values.flatten().tolist() for values in (subject.trained.mean, subject.trained.std))
    draw_sheet(columns, names, [""] * count, path, mean=mean, std=std)


def _alike(values: Tensor, count: int) -> Tensor:
    return values.expand(count, *values.shape)
