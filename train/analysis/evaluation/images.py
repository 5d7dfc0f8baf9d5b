"""The network of a run and its validation images, as whole numbers and as the network's input."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipelines import Dataset
from train.analysis.boxes import in_view, no_objects, objects_of
from train.analysis.trained import Trained, check_classes, load_best, loader_of
from train.data.loaders import validation_images
from train.tasks.classification.pictures import of_different_classes

BATCH = 64


class Subject(NamedTuple):
    """A finished run."""

    run: Path
    trained: Trained  # its model in eval mode, in float32, without gradients of weights
    dataset: Dataset  # the validation images

    @property
    def model(self) -> nn.Module:
        return self.trained.model

    @property
    def side(self) -> int:
        """Of the network's input, in pixels."""
        return self.trained.config.image_size

    def normalised(self, images: Tensor) -> Tensor:
        """Return images (B, 3, H, W), uint8, or floating point from 0 to 1, as the network takes them."""
        values = images / 255 if images.dtype == torch.uint8 else images
        return ((values - self.trained.mean) / self.trained.std).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Sample:
    """Some validation images."""

    pixels: Tensor  # (N, 3, H, W), uint8, on the model's device, as are the labels
    labels: Tensor  # (N,), int64
    indices: np.ndarray  # (N,), int64: places in the data set
    objects: Tensor | None  # (N, 4), float64, on the CPU: boxes, see `objects_of`; None without a table of them

    def __len__(self) -> int:
        return len(self.labels)

    def has_objects(self) -> bool:
        """Return whether any image has its object in view."""
        return self.objects is not None and bool(in_view(self.objects).any())

    def batches(self) -> Iterator[slice]:
        """Yield the parts that go through the network at once."""
        for first in range(0, len(self), BATCH):
            yield slice(first, min(first + BATCH, len(self)))

    def some(self, places: np.ndarray) -> "Sample":
        """Return a part of the sample, by the images' places in it."""
        chosen = torch.from_numpy(places)
        objects = None if self.objects is None else self.objects[chosen]
        return Sample(self.pixels[chosen], self.labels[chosen], self.indices[places], objects)


def load_subject(run: Path, data: Path | None) -> Subject:
    """Return the best network of a run.

    Args:
        run: its folder, or its best.pt.
        data: the validation images, in any layout of `--data`; None: those of the run.

    Raises:
        UserError, DataError: the run or the images cannot be used.
    """
    trained = load_best(run)
    dataset = validation_images(trained.config, trained.classes, data)
    check_classes(trained, dataset, run)
    trained.model.eval().requires_grad_(False)
    return Subject(run, trained, dataset)


def require_objects(boxes: Path | None, samples: Iterable[Sample]) -> None:
    """Raise UserError where a table of boxes is stated, and no sample has an object in view."""
    if boxes is not None and not any(sample.has_objects() for sample in samples):
        raise no_objects(boxes)


def whole_set(subject: Subject) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all validation images, normalised, and their labels, in batches."""
    for batch in loader_of(subject.trained, subject.trained.config, subject.dataset, policy=None, batch_size=BATCH):
        yield batch.images, batch.labels


def draw_sample(subject: Subject, count: int, boxes: Path | None) -> Sample:
    """Return at most `count` validation images: the first of each class, then the second of each, and so on.

    Args:
        boxes: table of the objects' boxes; None: boxes.tsv in the data folder, where there is one.

    Raises:
        UserError: the table cannot be used.
    """
    chosen = np.sort(of_different_classes(subject.dataset.class_indices, count))
    part = subject.dataset.take(chosen)
    loader = loader_of(
        subject.trained, subject.trained.config, part, policy=None, batch_size=BATCH, dtype="uint8", with_views=True
    )
    pixels, labels, indices, objects = [], [], [], []
    for batch in loader:
        pixels.append(batch.images.clone())  # on the CPU, the loader's memory
        labels.append(batch.labels.clone())
        indices.append(chosen[batch.indices.cpu().numpy()])
        objects.append(objects_of(part, boxes, batch, subject.side))
    known = [table for table in objects if table is not None]
    return Sample(torch.cat(pixels), torch.cat(labels), np.concatenate(indices), torch.cat(known) if known else None)
