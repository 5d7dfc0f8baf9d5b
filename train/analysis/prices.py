"""Compare the cheaper maps of a run with its full one: the regions that they admit, and the object inside them.

On training images, whole and not mirrored, with the network after the last epoch: the live map at full resolution, at
the run's scale, of its early head, and the one that is remembered. Each row states the share of the regions admitted by
a map that the full map admits too. Where a table of the objects' boxes exists, it also states the share of the box that
KeepCutout removes and that KeepPaste keeps. Both are means over all admitted regions, without a draw.

Checkpoints that `--keep-every` kept give the rows of earlier epochs, and those of maps that were remembered some epochs
before: their age.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dali_salaug import saliency_map
from dali_salaug.regions import admitted, are_candidates, candidate_axis, in_image, region_scores
from dali_salaug.saliency.maps import reduced_size
from pipelines import Batch
from train.analysis.boxes import in_view, no_objects, objects_of
from train.analysis.history import History, Snapshot, load_history, whole_images
from train.analysis.precision import RULES, Rule
from train.analysis.report import add_measuring_options, report
from train.analysis.trained import spread_evenly
from train.cli.parser import add_boxes, check_writable
from train.tasks.classification.pictures import Column, draw_sheet

SHARES = ("cut", "paste", "cut_box", "paste_box")  # the keys of a row; the first two in the order of RULES

DRAWN = 4  # images in a picture


class Regions(NamedTuple):
    """All candidates of one square on a map of (h, w) cells, h·w = M in all."""

    admitted: Tensor  # (B, M), bool
    top: Tensor  # (M,), int64, in pixels of the image, half-open, like the next three
    left: Tensor
    bottom: Tensor
    right: Tensor
    place: Tensor  # (M,), int64: the same candidate on a map with a cell for each pixel


def regions_of(maps: Tensor, side: int, length: int, tau: float, rule: Rule) -> Regions:
    """Return the candidates of maps (B, h, w), for squares of `length` in images of `side` pixels."""
    size = torch.full((1,), length, device=maps.device)
    rows, columns = (candidate_axis(cells, side, size, rule.border) for cells in maps.shape[1:])
    valid = are_candidates(rows, columns)
    scores = region_scores(maps, rows, columns).flatten(1)
    over = torch.meshgrid(torch.arange(maps.shape[1]), torch.arange(maps.shape[2]), indexing="ij")
    row, column = (places.flatten().to(maps.device) for places in over)

    def place(cell: Tensor, cells: int, start: Tensor) -> Tensor:
        return start if rule.border == "inside" else cell * side // cells

    (top, bottom), (left, right) = (
        in_image(cell, cells, side, length, rule.border)
        for cell, cells in zip((row, column), maps.shape[1:], strict=True)
    )
    return Regions(
        admitted(scores, valid, tau=tau, keep=rule.keep),
        top,
        left,
        bottom,
        right,
        place(row, maps.shape[1], top) * side + place(column, maps.shape[2], left),
    )


def admitted_too(regions: Regions, full: Regions) -> Tensor:
    """Return the share of the admitted regions that the full map, of a cell for each pixel, admits too: (B,)."""
    both = regions.admitted & full.admitted[:, regions.place]
    return both.sum(1).double() / regions.admitted.sum(1)


def box_shares(regions: Regions, objects: Tensor) -> Tensor:
    """Return the share of each object's box in a region, the mean over those that are admitted: (B,), float64.

    Args:
        objects: (B, 4), top, left, bottom, right in pixels, of positive area.
    """
    top, left, bottom, right = (edge[:, None] for edge in objects.double().unbind(1))
    heights = (torch.minimum(regions.bottom, bottom) - torch.maximum(regions.top, top)).clamp(min=0)
    widths = (torch.minimum(regions.right, right) - torch.maximum(regions.left, left)).clamp(min=0)
    shares = heights * widths / ((bottom - top) * (right - left))
    return (shares * regions.admitted).sum(1) / regions.admitted.sum(1)


def measure(history: History, boxes: Path | None, limit: int) -> dict[str, Any]:
    """Compare the maps of a run, see the top of this file.

    Args:
        boxes: see `objects_of`.
        limit: images at most.

    Returns:
        "images", "boxes" (images whose object is in view), "size" (pixels), "tau"; and "rows", each with "map" ("flat",
        of uniform draws, "full", "scaled", "early head", "remembered"), "epoch" of the network, "age" of the map in
        epochs, and the shares "cut" and "paste" of regions that the full map admits too, "cut_box" and "paste_box" of
        the object's box, None without boxes.

    Raises:
        UserError: the table of the boxes cannot be used, or one is stated and no object is in view.
    """
    config, side = history.config, history.config.image_size
    sums: dict[tuple[str, int, int], Tensor] = {}
    counts = torch.zeros(4, dtype=torch.float64)  # of the images behind each of the shares
    for batch, places in whole_images(history, limit):
        objects = objects_of(history.dataset, boxes, batch._replace(indices=places), side)
        seen = torch.zeros(len(places), dtype=torch.bool)
        if objects is not None:
            seen = in_view(objects)
        counts += torch.tensor([len(places)] * 2 + [int(seen.sum())] * 2)
        for now in history.snapshots:
            maps = list(maps_of(now, history, batch, places))
            values = {(name, age): torch.zeros(4, dtype=torch.float64) for name, age, _ in maps}
            for number, rule in enumerate(RULES.values()):
                full = regions_of(maps[0][2], side, config.region_size, config.tau, rule)
                for name, age, map_ in maps:
                    regions = regions_of(map_, side, config.region_size, config.tau, rule)
                    values[name, age][number] = admitted_too(regions, full).sum().cpu()
                    if objects is not None and seen.any():
                        of_seen = regions._replace(admitted=regions.admitted[seen])
                        shares = box_shares(of_seen, objects[seen].to(history.device))
                        values[name, age][2 + number] = shares.sum().cpu()
            for (name, age), found in values.items():
                key = (name, now.epoch, age)
                sums[key] = sums.get(key, torch.zeros_like(found)) + found
    if boxes is not None and not counts[2]:
        raise no_objects(boxes)
    rows = []
    for (name, epoch, age), found in sums.items():
        means = [value.item() if count else None for value, count in zip(found / counts, counts, strict=True)]
        rows.append({"map": name, "epoch": epoch, "age": age, **dict(zip(SHARES, means, strict=True))})
    images, _, with_object, _ = map(int, counts)
    return {"images": images, "boxes": with_object, "size": config.region_size, "tau": config.tau, "rows": rows}


def maps_of(now: Snapshot, history: History, batch: Batch, places: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """Yield the name, the age in epochs and the maps (B, h, w) of each kind after an epoch; the full ones first."""
    config, scale = history.config, history.config.saliency_scale
    how: dict[str, Any] = {"method": config.live_saliency, "target": config.saliency_target}

    def live(**options: Any) -> Tensor:
        noise = torch.Generator(history.device).manual_seed(config.seed)  # SmoothGrad's, the same for all maps
        return saliency_map(now.network.model, batch.images, batch.labels, **how, generator=noise, **options)

    full = live(scale=1.0)
    yield "full", 0, full
    yield "flat", 0, torch.ones_like(full)
    if scale < 1:
        yield "scaled", 0, live(scale=scale)
    if now.network.early is not None:
        yield "early head", 0, live(head=now.network.early, scale=scale)
    for then in reversed(history.snapshots):
        if then.memory is not None and then.epoch <= now.epoch and batch.views is not None:
            maps = then.memory.read(places, batch.views, reduced_size(batch.images, scale))
            yield "remembered", now.epoch - then.epoch, maps


def draw(history: History, boxes: Path | None, count: int, path: Path) -> None:
    """Write a picture of the maps beside the images, with the objects' boxes where they are known.

    The columns are the images, the live maps after the last epoch, and what was remembered after the first epoch that
    was kept, one in the middle, and the last.

    Args:
        count: images at most.
        path: of the PNG.
    """
    batch, places = next(whole_images(history, count))
    objects = objects_of(history.dataset, boxes, batch._replace(indices=places), history.config.image_size)
    outlines = None if objects is None else objects.round().long()
    last = history.snapshots[-1]
    live = {"full": "full map", "scaled": f"scale {history.config.saliency_scale:g}", "early head": "early head"}
    columns = [Column("image", batch.images, sources=outlines)]
    for name, _, maps in maps_of(last, history._replace(snapshots=[]), batch, places):
        if name in live:
            columns.append(Column(live[name], maps, sources=outlines))
    for place in spread_evenly(len(history.snapshots), 3):
        epoch, _, memory = history.snapshots[place]
        if memory is not None and batch.views is not None:
            maps = memory.read(places, batch.views, memory.grid)
            columns.append(Column(f"memory, epoch {epoch}", maps, sources=outlines))
    names = [history.dataset.classes[label] for label in batch.labels.tolist()]
    draw_sheet(columns, names, [""] * len(names), path, mean=history.mean, std=history.std)


def _print(result: dict[str, Any]) -> None:
    print(
        f"{result['images']} training images, {result['boxes']} with a box; squares of {result['size']} pixels, tau"
        f" {result['tau']:g}; per cent"
    )
    print(f"{'map':<12} {'epoch':>5} {'age':>4}   the full map admits: cut, paste   of the box: removed, kept clean")
    for row in result["rows"]:
        values = "".join("" if row[key] is None else f"{100 * row[key]:15.1f}" for key in SHARES)
        print(f"{row['map']:<12} {row['epoch']:>5} {row['age']:>4}   {values}")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_measuring_options(parser)
    add_boxes(parser)
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="also draw the maps of some images into this PNG (default: none)"
    )


def run(options: argparse.Namespace) -> int:
    """Measure as the command line states. Returns the exit status, 0.

    Raises:
        UserError, DataError: the run or the images cannot be used.
    """
    check_writable(options.picture)

    def measured() -> dict[str, Any]:
        history = load_history(options.run, options.data)
        if options.picture:
            draw(history, options.boxes, DRAWN, options.picture)
        return {"run": str(options.run), **measure(history, options.boxes, options.images)}

    return report(options, measured, _print)
