"""The signs, against plain loops: maps, the common square, predictions behind squares, survival and destroyed boxes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipelines import find_dataset
from train.analysis.advice import signs as module
from train.analysis.advice.signs import augment, behind_squares, common_square, destruction, look, unit_maps
from train.analysis.evaluation.images import Sample, Subject
from train.analysis.trained import Trained
from train.config import Config
from train.data.loaders import resolve_for_data

SIDE = 16


class Corner(nn.Module):
    """Of eight classes, 1 where the upper left pixels are bright, else 0; the gradient is there alone."""

    def forward(self, images: Tensor) -> Tensor:
        corner = images[:, :, :4, :4].mean((1, 2, 3)) - 0.5
        return nn.functional.pad(torch.stack((-corner, corner), dim=1), (0, 6), value=-9.0)


@pytest.fixture(scope="module")
def subject(shapes: Path) -> Subject:
    """A network that reads the corner of pixels from 0 to 1, and small images of eight classes."""
    config = resolve_for_data(Config(data=str(shapes), image_size=SIDE, region_size=6, device="cpu", method="none"))
    config.saliency_scale = 1.0  # or the network would read a corner twice as wide
    dataset = find_dataset(shapes, train=False)
    trained = Trained(config, dataset.classes, Corner(), torch.zeros(3, 1, 1), torch.ones(3, 1, 1), torch.device("cpu"))
    return Subject(Path("run"), trained, dataset)


def sample_of(pixels: Tensor, labels: list[int]) -> Sample:
    return Sample(pixels, torch.tensor(labels), np.arange(len(labels)), None)


def two_images() -> Tensor:
    """Return one image with a bright corner, and one without."""
    pixels = torch.full((2, 3, SIDE, SIDE), 60, dtype=torch.uint8)
    pixels[0, :, :4, :4] = 250
    return pixels


def test_maps_sum_to_one_and_an_empty_one_is_uniform() -> None:
    maps = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    maps[1] = 0
    found = unit_maps(maps, SIDE)
    assert found.sum((1, 2)).tolist() == pytest.approx([1, 1, 1])
    assert found[1].unique().tolist() == pytest.approx([1 / SIDE**2])
    assert torch.equal(found[0].argmax(), unit_maps(7 * maps, SIDE)[0].argmax())


def test_the_common_square_holds_most_of_the_map() -> None:
    mean_map = torch.rand(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sums = {(y, x): mean_map[y : y + 5, x : x + 5].sum().item() for y in range(8) for x in range(8)}
    assert tuple(common_square(mean_map, 5).tolist()) == max(sums, key=lambda place: sums[place])


def test_what_is_right_behind_squares(subject: Subject) -> None:
    sample = sample_of(two_images(), [1, 0])
    looks = look(subject, sample, 0)
    assert looks.logits.argmax(1).tolist() == [1, 0]
    assert looks.maps[:, :4, :4].sum((1, 2)).min() > 0.99
    place = common_square(looks.maps.mean(0), SIDE // 4)
    assert place.tolist() == [0, 0]
    right = behind_squares(subject, sample, looks.maps, place, seed=0)
    # Behind the square, the corner is black, and both images are of class 0.
    assert {name: values.tolist() for name, values in right.items() if name != "random"} == {
        "common": [False, True],
        "salient": [False, True],
    }
    repeated = sample_of(two_images()[:1].expand(400, -1, -1, -1), [1] * 400)
    maps = looks.maps[:1].expand(400, -1, -1)
    kept = behind_squares(subject, repeated, maps, place, seed=0)["random"].double().mean().item()
    # A square of 4 covers a × b pixels of the corner; class 0 from half of its brightness on.
    overlaps = [max(0, 4 - y) * max(0, 4 - x) for y in range(13) for x in range(13)]
    expected = np.mean([250 / 255 * (16 - covered) / 16 > 0.5 for covered in overlaps])
    assert kept == pytest.approx(expected, abs=0.04)


def test_survival_and_destroyed_boxes_by_loops(subject: Subject) -> None:
    """Of predictions that are right, by hand; of boxes, by counting pixels."""
    labels = torch.from_numpy(subject.dataset.class_indices)
    sample = Sample(torch.zeros(len(labels), 3, SIDE, SIDE, dtype=torch.uint8), labels, np.arange(len(labels)), None)
    (made,) = augment(subject, sample, None, seed=0)
    assert torch.equal(made.labels, labels)
    assert list(made.inputs) == list(made.boxes) == list(module.AUGMENTATIONS)
    assert made.boxes["randaugment"] is None
    shares = destruction(subject, [made, made]).covered
    objects = made.objects
    assert objects is not None
    for name, share in shares.items():
        boxes = made.boxes[name]
        assert boxes is not None
        each = []
        for image, clean, box, thing in zip(
            made.inputs[name], made.clean, boxes.tolist(), objects.tolist(), strict=True
        ):
            expected = clean.clone()
            expected[:, box[0] : box[2], box[1] : box[3]] = 0
            assert torch.equal(image, expected)
            high = max(0.0, min(box[2], thing[2]) - max(box[0], thing[0]))
            wide = max(0.0, min(box[3], thing[3]) - max(box[1], thing[1]))
            each.append(high * wide / ((thing[2] - thing[0]) * (thing[3] - thing[1])))
        assert share == pytest.approx(np.mean(each))

    labels = Corner()(made.clean).argmax(1)
    labels[::3] = 7  # wrong
    made = made._replace(labels=labels)
    right = [label != 7 for label in labels.tolist()]
    for name, share in destruction(subject, [made, made]).survival.items():
        predicted = Corner()(made.inputs[name]).argmax(1).tolist()
        stays = [p == label for p, label, was in zip(predicted, labels.tolist(), right, strict=True) if was]
        assert share == pytest.approx(np.mean(stays))
    nothing = made._replace(labels=torch.full_like(labels, 7), objects=torch.zeros_like(objects))
    found = destruction(subject, [nothing])
    assert set(found.survival.values()) == set(found.covered.values()) == {None}
    assert set(destruction(subject, [made._replace(objects=None)]).covered.values()) == {None}
