"""Contact sheets: what a method does to some images, step by step, as in the KeepAugment paper's figure 1."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dali_salaug import (
    METHODS,
    BoxDraw,
    Cutout,
    Draw,
    HybridMix,
    MaskDraw,
    Method,
    MoveDraw,
    ResizeMix,
    StageTrace,
    saliency_map,
)
from dali_salaug.methods.base import TWO_IMAGES
from dali_salaug.methods.hybridmix import HybridMixDraw
from dali_salaug.methods.mixing import PairDraw
from train.data.loaders import make_loader

if TYPE_CHECKING:
    from train.engine.log import Record
    from train.engine.run import Run

IMAGES = 6
CELLS = 10  # at most so many side by side: as many images in a row of the sheet as this allows
REGION = "#00e5ff"  # stands out from photographs and from the saliency map's colours, as does
SOURCE = "#76ff03"


class Column(NamedTuple):
    """One step of the method, for all images of a batch."""

    title: str
    pictures: Tensor  # (B, 3, H, W), normalised; or maps (B, h, w)
    boxes: Tensor | None = None  # (B, 4), in pixels of the images: what is written to, outlined
    sources: Tensor | None = None  # (B, 4), likewise: where the pixels come from
    masks: Tensor | None = None  # (B, 1, H, W), bool: where they come from; the rest is dimmed


def contact_sheet(
    method: Method,
    images: Tensor,
    trace: StageTrace,
    augmented: Tensor | None = None,
    augmentation: str | None = None,
) -> list[Column]:
    """The steps from the clean images to the network's inputs, those that the method has.

    Clean images; saliency with the regions that were drawn; images after SalfMix, of HybridMix; partners, and their
    maps where the method looks at them; images after the policy; the network's inputs, always the last.

    Args:
        method: that of the stage.
        images: (B, 3, H, W), what the stage was given.
        trace: what it made of them.
        augmented: like `images`.
        augmentation: what made `augmented` of the images: a policy's name or file.
    """
    drawn = trace.drawn
    own, mixed = (drawn.first, drawn.second) if isinstance(drawn, HybridMixDraw) else (drawn, drawn)
    columns = [Column("clean", images)]
    if trace.saliency is not None:
        columns.append(Column(_of_size("saliency", trace.saliency), trace.saliency, _boxes(own), _own_sources(own)))
    maps = method.partner_maps(images, drawn, trace.saliency)
    if isinstance(method, HybridMix) and isinstance(drawn, HybridMixDraw):
        images = method.first.apply(images, drawn.first, None)
        columns.append(Column("self-mixed", images, drawn.first.boxes, drawn.first.sources))
    if isinstance(mixed, PairDraw):
        # The whole partner is pasted by ResizeMix; nothing in it is outlined.
        sources = (
            None if isinstance(method, ResizeMix) else mixed.sources if isinstance(mixed, MoveDraw) else _boxes(mixed)
        )
        masks = mixed.masks if isinstance(mixed, MaskDraw) else None
        columns.append(Column("partner", images[mixed.partners], sources=sources, masks=masks))
        if maps is not None:
            columns.append(Column(_of_size("its map", maps), maps, sources=sources, masks=masks))
    if augmented is not None:
        columns.append(Column(Path(augmentation or "augmented").name, augmented))
    return [*columns, Column("network's input", trace.inputs, _boxes(mixed), _own_sources(mixed))]


def _boxes(drawn: Draw) -> Tensor | None:
    return drawn.boxes if isinstance(drawn, BoxDraw) else None


def _own_sources(drawn: Draw) -> Tensor | None:
    """Return where the pixels come from, where that is the image itself."""
    return drawn.sources if isinstance(drawn, MoveDraw) and not isinstance(drawn, PairDraw) else None


def _of_size(title: str, maps: Tensor) -> str:
    return f"{title}, {maps.shape[-2]}×{maps.shape[-1]}"


def mixed_labels(targets: Tensor, classes: Sequence[str]) -> list[str]:
    """For each of the targets (B, K), the classes that it holds and their weights; "" where labels are not mixed."""
    if targets.ndim == 1:
        return [""] * len(targets)
    return [
        ", ".join(f"{classes[k]} {row[k]:.2f}" for k in np.argsort(-row, kind="stable") if row[k] >= 0.005)
        for row in targets.cpu().numpy()
    ]


def of_different_classes(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of at most `count` samples: the first of each class, then the second of each, and so on."""
    by_class = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    place = np.empty(len(labels), dtype=np.int64)  # of each sample among those of its class
    place[by_class] = np.arange(len(labels)) - np.repeat(first, counts)
    return np.argsort(place, kind="stable")[:count]


def write_pictures(run: "Run", folder: Path, record: "Record", *, keep: bool) -> None:
    """augmentations.png in the run folder, see `write_figure`, and the same among the events.

    Args:
        keep: leave a copy in pictures/ too, by the epoch.
    """
    path = folder / "augmentations.png"
    write_figure(run, path)
    record.add_pictures(path, run.epoch)
    if keep:
        (folder / "pictures").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "pictures" / f"epoch-{run.epoch:04d}.png")


def write_figure(run: "Run", path: Path) -> None:
    """augmentations.png: the contact sheet of some training images.

    The images, the regions and the policy's draws are the same at each call, and the run's own loader, stage and
    random state are left alone. Where the method uses no saliency, the map is shown all the same; beside a method
    of neither policy nor partners stands Cutout at a random place.

    Args:
        run: supplies model, data and method.
        path: of the PNG.
    """
    config, seed = run.config, run.config.seed + 1
    batch_size = min(64, len(run.train_loader.dataset))
    loader = make_loader(config, train=True, batch_size=batch_size, seed=seed)
    batch = next(iter(loader))
    chosen = torch.from_numpy(of_different_classes(batch.labels.cpu().numpy(), IMAGES)).to(run.device)
    images, labels = batch.images[chosen], batch.labels[chosen]
    augmented = None if batch.augmented is None else batch.augmented[chosen]

    stage = run.make_stage(seed)
    stage.set_epoch(stage.warmup_epochs)
    trace = stage.trace(run.model, images, labels, augmented)
    if trace.saliency is None:
        saliency = saliency_map(run.model, images, labels, target=config.saliency_target, scale=config.saliency_scale)
        trace = trace._replace(saliency=saliency)
    augmentation = config.policy
    if augmented is None and METHODS[config.method].kind != TWO_IMAGES:
        generator = torch.Generator(images.device).manual_seed(seed)
        cutout, augmentation = Cutout(config.region_size), "cutout, random"
        augmented = cutout.apply(images, cutout.draw(images, None, generator), None)
    columns = contact_sheet(stage.method, images, trace, augmented, augmentation)
    names = [run.classes[label] for label in labels.tolist()]
    mean, std = run.train_loader.mean, run.train_loader.std
    draw_sheet(columns, names, mixed_labels(trace.targets, run.classes), path, mean=mean, std=std)


def draw_sheet(
    columns: Sequence[Column],
    names: Sequence[str],
    notes: Sequence[str],
    path: Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Write a contact sheet as PNG.

    Args:
        columns: each of at least as many images as there are names.
        names: written to the left of the images.
        notes: written below the last column.
        path: of the PNG.
        mean, std: by which the pictures are normalised.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count, width, side = len(names), len(columns), columns[0].pictures.shape[-1]
    abreast = min(count, max(1, CELLS // width))
    rows = math.ceil(count / abreast)
    figure = Figure(figsize=(1.5 * abreast * width + 0.6, (1.65 if any(notes) else 1.5) * rows + 0.5))
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, abreast * width, squeeze=False)
    ax: Any
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for place, column in enumerate(columns):
        pictures = _pictures(column.pictures[:count], mean, std)
        for image, picture in enumerate(pictures):
            row, block = divmod(image, abreast)
            ax = axes[row, block * width + place]
            # All in image coordinates, so that the region lies where it should on the coarser map too.
            ax.imshow(picture, cmap="inferno", extent=(0, side, side, 0), interpolation="nearest")
            if column.masks is not None:
                dimmed = 0.7 * ~column.masks[image, 0].cpu().numpy()
                ax.imshow(np.zeros_like(dimmed), cmap="gray", alpha=dimmed, extent=(0, side, side, 0))
            if row == 0:
                ax.set_title(column.title, fontsize=10)
            if place == 0:
                ax.set_ylabel(names[image], fontsize=10)
            if place == width - 1 and notes[image]:
                ax.set_xlabel(notes[image], fontsize=8)
            for boxes, colour in ((column.sources, SOURCE), (column.boxes, REGION)):
                if boxes is not None:
                    _outline(ax, boxes[image].tolist(), colour)
    figure.savefig(path, dpi=150, facecolor="white")


def _pictures(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Normalised (B, 3, H, W) to (B, H, W, 3) uint8; maps as they are."""
    pictures = pictures.detach().float().cpu()
    if pictures.ndim == 3:
        return pictures.numpy()
    pixels = pictures * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    return (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _outline(ax: Any, box: Sequence[int], colour: str) -> None:
    from matplotlib.patches import Rectangle

    top, left, bottom, right = box
    if bottom == top or right == left:  # this image was left as it is
        return
    for edge, line_width in (("black", 3.0), (colour, 1.6)):
        outline = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=edge, linewidth=line_width)
        ax.add_patch(outline).set_clip_on(False)
