"""Compare the cheaper maps of a run with its full one: the regions that they admit, and the object inside them.

On training images, whole and not mirrored, with the network after the last epoch: the live map at full resolution, at
the run's scale, of its early head, and the one that is remembered. Each row states the share of the regions admitted by
a map that the full map admits too. Where a table of the objects' boxes exists, it also states the share of the box that
KeepCutout removes and that KeepPaste keeps. Both are means over all admitted regions, without a draw.

Checkpoints that `--keep-every` kept give the rows of earlier epochs, and those of maps that were remembered some epochs
before: their age.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from dali_salaug import SaliencyMemory, saliency_map
from dali_salaug.regions import admitted, candidate_axis, region_scores
from dali_salaug.saliency.maps import reduced_size
from pipelines import Batch, Dataset, find_dataset
from train.analysis.coverage import read_boxes
from train.analysis.precision import RULES, Rule
from train.analysis.report import add_measuring_options, report
from train.analysis.trained import spread_evenly
from train.config import ResolvedConfig
from train.data.loaders import data_folder, make_loader
from train.engine import checkpoint
from train.engine.network import Network
from train.errors import UserError

BATCH = 64
SHARES = {"KeepCutout": "cut", "KeepPaste": "paste"}  # of the names of RULES: the keys of the results


class Regions(NamedTuple):
    """All candidates of one square on a map of (h, w) cells, h·w = M in all."""

    valid: Tensor  # (1, M), bool
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
    valid = (rows.valid[:, :, None] & columns.valid[:, None, :]).flatten(1)
    scores = region_scores(maps, rows, columns).flatten(1)
    over = torch.meshgrid(torch.arange(maps.shape[1]), torch.arange(maps.shape[2]), indexing="ij")
    row, column = (places.flatten().to(maps.device) for places in over)

    def place(axis: Any, cell: Tensor, cells: int) -> Tensor:
        return axis.image_start[0, cell] if rule.border == "inside" else cell * side // cells

    return Regions(
        valid,
        admitted(scores, valid, tau=tau, keep=rule.keep),
        rows.image_start[0, row],
        columns.image_start[0, column],
        rows.image_stop[0, row],
        columns.image_stop[0, column],
        place(rows, row, maps.shape[1]) * side + place(columns, column, maps.shape[2]),
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


def objects_of(dataset: Dataset, boxes: Path | None, batch: Batch, side: int) -> Tensor | None:
    """Return the boxes of a batch's objects in its pixels, (B, 4), float64; None where there is no table of them.

    An image without a box, or without any of it in view, has a box of no area.

    Args:
        dataset: that the batch's indices are of.
        boxes: see `read_boxes`; None: boxes.tsv in the data folder, where there is one.
        batch: with views.
    """
    default = Path(dataset.root) / "boxes.tsv"
    if dataset.reader.kind != "files" or (boxes is None and not default.is_file()):
        return None
    if any("://" in path for path in dataset.reader.files):
        raise UserError(f"{dataset.root}: the sizes of images with boxes are read on this machine only; pass --data")
    table, prefix, objects = read_boxes(boxes or default), f"{dataset.root}/", []
    for index, view in zip(batch.indices.tolist(), batch.views.double().cpu(), strict=True):  # type: ignore[union-attr]
        path = dataset.reader.files[index]
        box = table.get(path.removeprefix(prefix))
        if box is None:
            objects.append(torch.zeros(4, dtype=torch.float64))
            continue
        with Image.open(path) as image:
            size = torch.tensor(image.size, dtype=torch.float64)
        corners = torch.tensor(box, dtype=torch.float64).view(2, 2).flip(1) / size  # (x, y), from 0 to 1
        corners = (side * (corners * view.diagonal() + view[:, 2])).clamp(0, side)
        objects.append(corners.flip(1).flatten())
    return torch.stack(objects)


class Snapshot(NamedTuple):
    """The state of a run after an epoch."""

    epoch: int
    network: Network
    memory: SaliencyMemory | None


def snapshots(run: Path) -> Iterator[tuple[ResolvedConfig, dict[str, Any]]]:
    """Yield configuration and state of each checkpoint that was kept, and of the last one, by epoch.

    Raises:
        UserError: there is none, or a file is not one.
    """
    last, config = checkpoint.load_run(run / checkpoint.LAST)
    for path in sorted((run / checkpoint.KEPT).glob("epoch-*.pt")):
        state, kept = checkpoint.load_run(path)
        if state["progress"]["epoch"] < last["progress"]["epoch"]:
            yield kept, state
    yield config, last


def restored(config: ResolvedConfig, state: dict[str, Any], device: torch.device, path: Path) -> Snapshot:
    """Return the network and the memory of a state; the memory is on the device too."""
    with checkpoint.reading(path):
        network = Network(dataclasses.replace(config, compile=False), len(state["classes"]), device)
        network.load_state_dict(state)
        kept = state["objective"].get("memory")
        memory = None
        if kept is not None:
            options: dict[str, Any] = {"grid": config.memory_grid, "share": config.memory_share, "device": device}
            memory = SaliencyMemory(len(kept["maps"]), **options)
            memory.load_state_dict(kept)
        return Snapshot(state["progress"]["epoch"], network, memory)


def measure(run: Path, data: Path | None, boxes: Path | None, limit: int) -> dict[str, Any]:
    """Compare the maps of a run, see the top of this file.

    Returns:
        "run", "images", "boxes" (images whose object is in view), "size" (pixels), "tau"; and "rows", each with "map"
        ("flat", of uniform draws, "full", "scaled", "early head", "remembered"), "epoch" of the network, "age" of the
        map in epochs, and the shares "cut" and "paste" of regions that the full map admits too, "cut_box" and
        "paste_box" of the object's box, None without boxes.

    Raises:
        UserError, DataError: the run or the images cannot be used.
    """
    run = run if run.is_dir() else run.parent
    states = list(snapshots(run))
    config, last = states[-1]
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    path = run / checkpoint.LAST
    history = [restored(*state, device, path) for state in states]
    dataset = find_dataset(data or data_folder(config))
    if config.train_images is not None:
        dataset = dataset.first(config.train_images)
    chosen = torch.from_numpy(spread_evenly(len(dataset), limit))
    side = config.image_size
    options: dict[str, Any] = {"mean": tuple(last["mean"]), "std": tuple(last["std"]), "device": device}
    loader = make_loader(
        config, train=False, dataset=dataset.take(chosen.numpy()), with_views=True, batch_size=BATCH, **options
    )
    sums: dict[tuple[str, int, int], Tensor] = {}
    counts = torch.zeros(4, dtype=torch.float64)
    for batch in loader:
        places = chosen[batch.indices.cpu()].to(device)
        objects = objects_of(dataset, boxes, batch._replace(indices=places), side)
        seen = None if objects is None else ((objects[:, 2:] - objects[:, :2]).prod(1) > 0)
        counts += torch.tensor([len(places)] * 2 + [0 if seen is None else int(seen.sum())] * 2)
        for now in history:
            full = saliency_map(now.network.model, batch.images, batch.labels, scale=1.0)
            admits = {
                name: regions_of(full, side, config.region_size, config.tau, rule) for name, rule in RULES.items()
            }
            for name, age, maps in maps_of(now, history, config, batch, places, full):
                values = torch.zeros(4, dtype=torch.float64)
                for number, (rule_name, rule) in enumerate(RULES.items()):
                    regions = regions_of(maps, side, config.region_size, config.tau, rule)
                    values[number] = admitted_too(regions, admits[rule_name]).sum().cpu()
                    if objects is not None and seen is not None and seen.any():
                        kept = Regions(*(part[seen] if part is regions.admitted else part for part in regions))
                        values[2 + number] = box_shares(kept, objects[seen].to(device)).sum().cpu()
                key = (name, now.epoch, age)
                sums[key] = sums.get(key, torch.zeros_like(values)) + values
    rows = []
    for (name, epoch, age), values in sums.items():
        shares = [value.item() if count else None for value, count in zip(values / counts, counts, strict=True)]
        keys = [*SHARES.values(), *(f"{what}_box" for what in SHARES.values())]
        rows.append({"map": name, "epoch": epoch, "age": age, **dict(zip(keys, shares, strict=True))})
    return {
        "run": str(run),
        "images": int(counts[0]),
        "boxes": int(counts[2]),
        "size": config.region_size,
        "tau": config.tau,
        "rows": rows,
    }


def maps_of(
    now: Snapshot, history: list[Snapshot], config: ResolvedConfig, batch: Batch, places: Tensor, full: Tensor
) -> Iterator[tuple[str, int, Tensor]]:
    """Yield the name, the age in epochs and the maps (B, h, w) of each kind that a run can use after an epoch."""
    size = reduced_size(batch.images, config.saliency_scale)
    yield "flat", 0, torch.ones_like(full)
    yield "full", 0, full
    if config.saliency_scale < 1:
        yield "scaled", 0, saliency_map(now.network.model, batch.images, batch.labels, scale=config.saliency_scale)
    if now.network.early is not None:
        how: dict[str, Any] = {"head": now.network.early, "scale": config.saliency_scale}
        yield "early head", 0, saliency_map(now.network.model, batch.images, batch.labels, **how)
    for then in history:
        if then.memory is not None and then.epoch <= now.epoch and batch.views is not None:
            yield "remembered", now.epoch - then.epoch, then.memory.read(places, batch.views, size)


def _print(result: dict[str, Any]) -> None:
    print(
        f"{result['images']} training images, {result['boxes']} with a box; squares of {result['size']} pixels, tau"
        f" {result['tau']:g}; per cent"
    )
    print(f"{'map':<12} {'epoch':>5} {'age':>4}   the full map admits: cut, paste   of the box: removed, kept clean")
    for row in result["rows"]:
        values = "".join(
            "" if row[k] is None else f"{100 * row[k]:15.1f}" for k in ("cut", "paste", "cut_box", "paste_box")
        )
        print(f"{row['map']:<12} {row['epoch']:>5} {row['age']:>4}   {values}")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_measuring_options(parser)
    parser.add_argument(
        "--boxes",
        type=Path,
        metavar="FILE",
        help="table of the objects' boxes (default: boxes.tsv in the data folder, if there)",
    )


def run(options: argparse.Namespace) -> int:
    """Measure as the command line states. Returns the exit status, 0.

    Raises:
        UserError, DataError: the run or the images cannot be used.
    """
    return report(options, lambda: measure(options.run, options.data, options.boxes, options.images), _print)
