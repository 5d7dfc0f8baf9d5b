"""Explanation: do maps point at the object, are they stable, and do the pixels that they rank first decide?"""

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from dali_salaug import saliency_map
from dali_salaug.saliency.maps import METHODS
from train.analysis.evaluation.drawing import Picture, colour, new_figure, picture
from train.analysis.evaluation.images import Sample, Subject
from train.analysis.evaluation.rows import Row
from train.analysis.trained import spread_evenly
from train.engine.progress import Progress
from train.errors import first_line
from train.tasks.classification.pictures import Column, draw_sheet

PART = "explanation"
STEPS = 16  # of a curve, each of 1/16 of the pixels
CONTROLS = ("random", "centre")  # maps that know nothing of the network: noise, and a Gaussian in the middle
EXAMPLES = 4  # images at most whose maps are drawn
NOISE = 4 / 255  # greatest change of a pixel in the copy with which stability compares
BLUR = 0.1  # standard deviation of the blur from which insertion starts, as a share of the image's side

Forward = Callable[[Tensor], Tensor]  # images (B, 3, H, W), normalised, to logits (B, K)


def object_masks(objects: Tensor, side: int) -> Tensor:
    """Return the pixels whose centre is in the box: (B, side, side), bool.

    Args:
        objects: (B, 4), top, left, bottom, right in pixels, half-open.
        side: of the images.
    """
    centres = torch.arange(side, dtype=torch.float64, device=objects.device) + 0.5
    top, left, bottom, right = (edge[:, None] for edge in objects.double().unbind(1))
    rows, columns = (top <= centres) & (centres < bottom), (left <= centres) & (centres < right)
    return rows[:, :, None] & columns[:, None, :]


def pointing_hits(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share of each map's greatest pixels that are in the object: (B,), float64; 0 or 1 without ties.

    The pointing game (Zhang et al. 2018, arXiv:1608.00507, §4.2), without its margin of 15 pixels around the object.

    Args:
        maps: (B, H, W).
        masks: (B, H, W), bool: the object.
    """
    greatest = (maps == maps.amax((1, 2), keepdim=True)).double()
    return (greatest * masks).sum((1, 2)) / greatest.sum((1, 2))


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share of each map's sum that is in the object: (B,), float64.

    The energy-based pointing game (Wang et al. 2020, arXiv:1910.01279, §4.3). A map of zeros counts as a uniform one.

    Args:
        maps: (B, H, W), not negative.
        masks: (B, H, W), bool: the object.
    """
    maps = maps.double()
    maps = torch.where(maps.amax((1, 2), keepdim=True) > 0, maps, 1.0)
    return (maps * masks).sum((1, 2)) / maps.sum((1, 2))


def concentration(maps: Tensor) -> Tensor:
    """Return the Gini index of each map's values: (B,), float64; 0 for equal ones, near 1 for one pixel with all.

    The sparseness of Chalasani et al. (2020, arXiv:1810.06583, eq. 9).

    Args:
        maps: (B, H, W), not negative.
    """
    values = maps.double().flatten(1).sort(dim=1).values
    count = values.shape[1]
    weights = 2 * torch.arange(1, count + 1, dtype=torch.float64, device=maps.device) - count - 1
    return (values * weights).sum(1) / (count * values.sum(1).clamp(min=1e-300))


def correlation(maps: Tensor, others: Tensor) -> Tensor:
    """Return Pearson's correlation of each map with another: (B,), float64; 0 where one of them is the same everywhere.

    Args:
        maps, others: (B, H, W).
    """
    one, other = (each.double().flatten(1) for each in (maps, others))
    one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    return (one * other).sum(1) / (one.square().sum(1) * other.square().sum(1)).sqrt().clamp(min=1e-300)


def ranks_of(maps: Tensor) -> Tensor:
    """Return the rank of each pixel, 0 for the greatest, equal ones from left to right and down: (B, H, W), int64."""
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1).view(maps.shape)


def curve(forward: Forward, first: Tensor, last: Tensor, ranks: Tensor, labels: Tensor) -> Tensor:
    """Return the probability of the label as pixels of `last` replace those of `first`: (B, STEPS + 1), float64.

    Deletion goes from the image to the mean colour, insertion from the blurred image to the image (Petsiuk et al. 2018,
    arXiv:1806.07421, §4.2). At step k, the pixels whose rank is among the first k/STEPS are replaced.

    Args:
        forward: the network.
        first, last: (B, 3, H, W), normalised.
        ranks: (B, H, W), from `ranks_of`.
        labels: (B,), int64.
    """
    pixels = ranks[0].numel()
    probabilities = []
    for step in range(STEPS + 1):
        replaced = (ranks < round(step * pixels / STEPS))[:, None]
        logits = forward(torch.where(replaced, last, first))
        probabilities.append(logits.double().softmax(1).gather(1, labels[:, None]))
    return torch.cat(probabilities, dim=1)


def area(curves: Tensor) -> Tensor:
    """Return the area under curves (B, STEPS + 1) over the share of the pixels, from 0 to 1, by trapezia: (B,)."""
    return torch.trapezoid(curves, dx=1 / STEPS, dim=1)


def blurred(images: Tensor) -> Tensor:
    """Return images (B, 3, H, W) with a Gaussian blur of `BLUR` of their side."""
    sigma = BLUR * images.shape[-1]
    return gaussian_blur(images, [2 * int(2 * sigma) + 1] * 2, [sigma] * 2)


def measure(subject: Subject, sample: Sample, seed: int) -> dict[str, Any]:
    """Return how well each saliency method, and two controls, explain the predictions.

    The maps are of the label's logit, at full resolution.

    Args:
        seed: of SmoothGrad's noise and the random control.

    Returns:
        "images"; "objects", images whose object is in view; "methods", by name, each with "pointing" and "energy", None
        without objects, "concentration", "stability", the correlation with the map of a copy with noise, "insertion"
        and "deletion", areas under the curves, and "insertion_curve" and "deletion_curve", means over the images; and
        "unsupported", by the name of a method why the model does not support it. All values are from 0 to 1, but for
        the stability, from −1.
    """
    device, side = sample.pixels.device, subject.side
    masks = torch.zeros(len(sample), side, side, dtype=torch.bool)
    if sample.objects is not None:
        masks = object_masks(sample.objects, side)
    has_object = masks.flatten(1).any(1)
    objects = int(has_object.sum())
    masks, has_object = masks.to(device), has_object.to(device)
    sums: dict[str, Tensor] = {}
    unsupported: dict[str, str] = {}
    generator = torch.Generator(device).manual_seed(seed)
    batches = list(sample.batches())
    with Progress(f"{subject.run}: explanation", batches=len(batches), images=len(sample)) as progress:
        for number, part in enumerate(batches, 1):
            images, labels = subject.normalised(sample.pixels[part]), sample.labels[part]
            with torch.no_grad():
                soft, grey = blurred(images), torch.zeros_like(images)
                noise = torch.rand(images.shape, generator=generator, device=device).mul(2).sub(1) * NOISE
                noisy = subject.normalised((sample.pixels[part] / 255 + noise).clamp(0, 1))
            both = (_maps(subject, seen, labels, generator, unsupported) for seen in (images, noisy))
            for (name, maps), (_, others) in zip(*both, strict=True):
                with torch.no_grad():
                    ranks = ranks_of(maps)
                    insertion = curve(subject.model, soft, images, ranks, labels)
                    deletion = curve(subject.model, images, grey, ranks, labels)
                    found = has_object[part]
                    shares = [pointing_hits(maps, masks[part]) * found, energy_inside(maps, masks[part]) * found]
                    shares += [concentration(maps), correlation(maps, others)]
                    values = torch.cat([torch.stack(shares, dim=1), insertion, deletion], dim=1).sum(0)
                sums[name] = sums[name] + values if name in sums else values
            progress.update(len(images), number)
    return {
        "images": len(sample),
        "objects": objects,
        "methods": {name: _means(values, len(sample), objects) for name, values in sums.items()},
        "unsupported": unsupported,
    }


def _means(sums: Tensor, images: int, objects: int) -> dict[str, Any]:
    pointing, energy, spread, stability, *points = sums.tolist()
    insertion, deletion = torch.tensor(points, dtype=torch.float64).view(2, STEPS + 1) / images
    return {
        "pointing": pointing / objects if objects else None,
        "energy": energy / objects if objects else None,
        "concentration": spread / images,
        "stability": stability / images,
        "insertion": area(insertion[None]).item(),
        "deletion": area(deletion[None]).item(),
        "insertion_curve": insertion.tolist(),
        "deletion_curve": deletion.tolist(),
    }


def _maps(
    subject: Subject, images: Tensor, labels: Tensor, generator: torch.Generator, unsupported: dict[str, str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the maps (B, H, W) of each method that the model supports, and of the controls."""
    for name in METHODS:
        if name in unsupported:
            continue
        try:
            yield name, saliency_map(subject.model, images, labels, method=name, scale=1.0, generator=generator)
        except ValueError as error:
            unsupported[name] = first_line(error)
    batch, _, height, width = images.shape
    yield "random", torch.rand(batch, height, width, generator=generator, device=images.device)
    y, x = (torch.arange(n, device=images.device) - (n - 1) / 2 for n in (height, width))
    closeness = (-y.square()[:, None].add(x.square()) / (2 * (width / 4) ** 2)).exp()
    yield "centre", closeness.expand(batch, height, width)


def draw_examples(subject: Subject, sample: Sample, seed: int, title: str) -> Picture:
    """Return some images of a sample, with their objects' boxes, beside their maps."""
    shown = spread_evenly(len(sample), EXAMPLES)
    labels, objects = sample.labels[shown], None if sample.objects is None else sample.objects[shown].round().long()
    images = subject.normalised(sample.pixels[shown])
    generator = torch.Generator(images.device).manual_seed(seed)
    columns = [Column("image", images, sources=objects)]
    for name, maps in _maps(subject, images, labels, generator, {}):
        if name not in CONTROLS:
            columns.append(Column(name, maps, sources=objects))
    names = [subject.trained.classes[label] for label in labels.tolist()]
    mean, std = (values.flatten().tolist() for values in (subject.trained.mean, subject.trained.std))
    file = io.BytesIO()
    draw_sheet(columns, names, [""] * len(names), file, mean=mean, std=std)
    return Picture(f"Maps of {title}, each from its least to its greatest value", file.getvalue())


def rows(result: Mapping[str, Any]) -> list[Row]:
    words = {
        "pointing": "pointing game", "energy": "energy in the object", "concentration": "concentration",
        "stability": "stability", "insertion": "insertion", "deletion": "deletion"
    }  # fmt: skip
    found = result["methods"]
    return [
        Row(PART, f"{text}: {name}", found[name][key] if name in found else None)
        for key, text in words.items()
        for name in (*METHODS, *CONTROLS)
    ]


def pictures(results: Mapping[str, Mapping[str, Any]]) -> list[Picture]:
    """Return the curves of runs, by their titles."""
    drawn = []
    shares = [100 * step / STEPS for step in range(STEPS + 1)]
    for title, result in results.items():
        figure, plots = new_figure(2, width=10, height=3.8)
        for ax, kind, what in zip(plots, ("insertion", "deletion"), ("inserted", "deleted"), strict=True):
            for number, name in enumerate((*METHODS, *CONTROLS)):
                if name in result["methods"]:
                    values = result["methods"][name][f"{kind}_curve"]
                    style = ":" if name in CONTROLS else "-"
                    label = f"{name} {result['methods'][name][kind]:.2f}"
                    ax.plot(shares, values, style, color=colour(number), label=label)
            ax.set(xlabel=f"{what} pixels, %", ylabel="probability of the label", ylim=(0, 1), title=kind)
            ax.grid(alpha=0.3)
            ax.legend(fontsize=7)
        drawn.append(picture(f"Insertion (higher is better) and deletion (lower is better) of {title}", figure))
    return drawn
