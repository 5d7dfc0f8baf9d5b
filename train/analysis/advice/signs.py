"""What advice is based on: how a run fits, where it looks, what hangs on a place, and what augmentations destroy."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from train.analysis.advice.rules import Signs
from train.analysis.boxes import in_view, objects_of
from train.analysis.coverage import box_shares
from train.analysis.evaluation import calibration
from train.analysis.evaluation.explanation import NOISE, concentration, correlation, energy_inside, object_masks
from train.analysis.evaluation.images import BATCH, Sample, Subject
from train.analysis.evaluation.occlusion import corners_around, occlude, peaks
from train.analysis.trained import configure, loader_of
from train.tasks.classification.stage import live_map, make_stage

SQUARE = 4  # the covering square's side is the image's divided by this
AUGMENTATIONS = ("cutout", "keep_cutout", "randaugment", "keep_randaugment")


def unit_maps(maps: Tensor, side: int) -> Tensor:
    """Return maps (B, h, w) at a cell for each pixel, (B, side, side), float64, each with the sum 1.

    A map of zeros becomes a uniform one.
    """
    maps = F.interpolate(maps[:, None].double(), (side, side), mode="bilinear", align_corners=False)[:, 0]
    maps = torch.where(maps.amax((1, 2), keepdim=True) > 0, maps, 1.0)
    return maps / maps.sum((1, 2), keepdim=True)


def common_square(mean_map: Tensor, length: int) -> Tensor:
    """Return top and left, (2,), int64, of the square wholly in the image that holds most of a map (H, W)."""
    sums = F.avg_pool2d(mean_map[None, None], length, stride=1)[0, 0]
    place = sums.flatten().argmax()
    return torch.stack((torch.div(place, sums.shape[1], rounding_mode="floor"), place % sums.shape[1]))


class Looks(NamedTuple):
    """The predictions and the live maps of a sample."""

    logits: Tensor  # (N, K), of the images as they are
    maps: Tensor  # (N, side, side), see `unit_maps`
    stability: Tensor  # (N,)
    concentration: Tensor  # (N,)


def look(subject: Subject, sample: Sample, seed: int) -> Looks:
    """Return the predictions and the live maps of a sample."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for part in sample.batches():
        images, labels = subject.normalised(sample.pixels[part]), sample.labels[part]
        noise = (2 * torch.rand(images.shape, generator=generator) - 1).to(images.device) * NOISE
        noisy = subject.normalised((sample.pixels[part] / 255 + noise).clamp(0, 1))
        maps = live_map(subject.model, images, labels, subject.trained.config, seed)
        with torch.no_grad():
            parts.append(
                Looks(
                    subject.model(images).float(),
                    unit_maps(maps, subject.side),
                    correlation(maps, live_map(subject.model, noisy, labels, subject.trained.config, seed)),
                    concentration(maps),
                )
            )
    return Looks(*(torch.cat(values) for values in zip(*parts, strict=True)))


def behind_squares(subject: Subject, sample: Sample, maps: Tensor, common: Tensor, seed: int) -> dict[str, Tensor]:
    """Return by the square's place which predictions are right behind it, each (N,), bool.

    Args:
        maps: (N, side, side), of the sample.
        common: top and left, (2,), of the place that is the same in all images.
        seed: of the random places.
    """
    side, device = subject.side, sample.pixels.device
    length = side // SQUARE
    generator = torch.Generator().manual_seed(seed)
    anywhere = torch.randint(side - length + 1, (len(sample), 2), generator=generator).to(device)
    own = corners_around(peaks(F.avg_pool2d(maps[:, None], 3, stride=1, padding=1)[:, 0], side), length, side)
    places = {"common": common.expand(len(sample), 2), "salient": own, "random": anywhere}
    right: dict[str, list[Tensor]] = {name: [] for name in places}
    with torch.no_grad():
        for part in sample.batches():
            images = subject.normalised(sample.pixels[part])
            for name, corners in places.items():
                seen = occlude(images, corners[part], length)
                right[name].append(subject.model(seen).argmax(1) == sample.labels[part])
    return {name: torch.cat(values) for name, values in right.items()}


class Augmented(NamedTuple):
    """What augmentations make of a batch."""

    clean: Tensor  # (B, 3, H, W), normalised
    inputs: dict[str, Tensor]  # likewise, by method
    boxes: dict[str, Tensor | None]  # (B, 4), the squares that are covered or kept clean; None without
    objects: Tensor | None  # (B, 4), float64, on the CPU, see `objects_of`
    labels: Tensor  # (B,)


def augment(subject: Subject, sample: Sample, boxes: Path | None, seed: int) -> Iterator[Augmented]:
    """Yield what each of AUGMENTATIONS, as it is by default, makes of the images of a sample, with the live maps.

    A batch is valid until the next one.
    """
    part, trained = subject.dataset.take(sample.indices), subject.trained
    configs = {name: configure(trained, {"method": name}, part) for name in AUGMENTATIONS}
    stages = {name: make_stage(config, len(trained.classes), seed, warmup_epochs=0) for name, config in configs.items()}
    loader = loader_of(trained, configs["randaugment"], part, batch_size=BATCH, with_views=True, seed=seed)
    for batch in loader:
        traces = {
            name: stage.trace(subject.model, batch.images, batch.labels, batch.augmented)
            for name, stage in stages.items()
        }
        yield Augmented(
            batch.images,
            {name: trace.inputs for name, trace in traces.items()},
            {name: trace.boxes for name, trace in traces.items()},
            objects_of(part, boxes, batch, subject.side),
            batch.labels,
        )


class Destruction(NamedTuple):
    """What augmentations destroy."""

    survival: dict[str, float | None]  # by method, share of the right predictions that stay right; None: none is right
    covered: dict[str, float | None]  # share of the object's box that Cutout and KeepCutout cover; None without boxes


def destruction(subject: Subject, batches: Iterable[Augmented]) -> Destruction:
    """Return what the augmentations of all batches destroy."""
    stay, right = dict.fromkeys(AUGMENTATIONS, 0), 0
    shares: dict[str, list[Tensor]] = {"cutout": [], "keep_cutout": []}
    with torch.no_grad():
        for batch in batches:
            was_right = subject.model(batch.clean).argmax(1) == batch.labels
            right += int(was_right.sum())
            for name, inputs in batch.inputs.items():
                stay[name] += int((was_right & (subject.model(inputs).argmax(1) == batch.labels)).sum())
            if batch.objects is None:
                continue
            seen = in_view(batch.objects)
            for name, each in shares.items():
                squares = batch.boxes[name]
                if squares is not None:
                    each.append(box_shares(squares.cpu()[seen], batch.objects[seen]))
    all_shares = {name: torch.cat(each) if each else torch.zeros(0) for name, each in shares.items()}
    return Destruction(
        {name: count / right if right else None for name, count in stay.items()},
        {name: each.mean().item() if len(each) else None for name, each in all_shares.items()},
    )


class Measured(NamedTuple):
    """The signs of a run, and what a picture shows of them."""

    signs: Signs
    mean_map: Tensor  # (side, side), float64, of the training images, with the sum 1
    common: Tensor  # (4,), int64: the square at one place in all images


def measure(
    training: Subject, validation: Subject, samples: tuple[Sample, Sample], boxes: Path | None, seed: int
) -> Measured:
    """Return the signs of a run.

    Args:
        training, validation: the same network with the training and the validation images.
        samples: of both.
        boxes: table of the objects' boxes of the validation images, see `objects_of`.
        seed: of all random numbers.
    """
    subjects = training, validation
    looks = [look(subject, sample, seed) for subject, sample in zip(subjects, samples, strict=True)]
    mean_map, length = looks[0].maps.mean(0), training.side // SQUARE
    place = common_square(mean_map, length)
    right, behind = [], []
    for subject, sample, its in zip(subjects, samples, looks, strict=True):
        right.append(_share(its.logits.argmax(1) == sample.labels))
        hits = behind_squares(subject, sample, its.maps, place, seed)
        behind.append({name: _share(values) for name, values in hits.items()})
    objects, energy, area = samples[0].objects, None, None
    if objects is not None:
        masks = object_masks(objects, training.side).to(mean_map.device)
        seen = masks.flatten(1).any(1)
        if seen.any():
            energy = energy_inside(looks[0].maps[seen], masks[seen]).mean().item()
            area = masks[seen].double().mean().item()
    error = None
    if calibration.has_library():
        error = calibration.measure(looks[1].logits, samples[1].labels)["error"]
    destroyed = destruction(validation, augment(validation, samples[1], boxes, seed))
    signs = Signs(
        train_images=len(samples[0]),
        val_images=len(samples[1]),
        train_accuracy=right[0],
        val_accuracy=right[1],
        train_common=behind[0]["common"],
        val_common=behind[1]["common"],
        train_salient=behind[0]["salient"],
        val_salient=behind[1]["salient"],
        train_random=behind[0]["random"],
        val_random=behind[1]["random"],
        confidence=looks[1].logits.softmax(1).amax(1).mean().item(),
        calibration_error=error,
        energy=energy,
        box_area=area,
        concentration=looks[0].concentration.mean().item(),
        stability=looks[0].stability.mean().item(),
        survival=destroyed.survival,
        destroyed=destroyed.covered,
    )
    return Measured(signs, mean_map, torch.cat((place, place + length)))


def _share(values: Tensor) -> float:
    return values.double().mean().item()
