"""Contact sheets: what a method does to some images, step by step, as in the KeepAugment paper's figure 1."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

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
    SaliencyMemory,
    StageTrace,
)
from dali_salaug.methods.base import TWO_IMAGES
from dali_salaug.methods.hybridmix import HybridMixDraw
from dali_salaug.methods.mixing import PairDraw
from pipelines import ImageLoader
from pipelines.names import printable
from train.config import ResolvedConfig
from train.data.loaders import make_loader
from train.engine.network import Network
from train.tasks.classification.stage import live_map, training_stage

IMAGES = 6
LONGEST = 26  # characters of a file name, in the width of a picture
CELLS = 10  # largest number of pictures side by side, which decides how many images a row of the sheet holds
REGION = "#00e5ff"  # of regions written to; stands out from photographs and from the saliency map's colours
SOURCE = "#76ff03"  # of regions that pixels come from; likewise


class Column(NamedTuple):
    """One step of a method, for all images of a batch."""

    title: str
    pictures: Tensor  # (B, 3, H, W), normalised; or maps (B, h, w)
    boxes: Tensor | None = None  # (B, 4), in pixels of the images: regions written to, outlined
    sources: Tensor | None = None  # (B, 4), likewise: regions that the pixels come from
    masks: Tensor | None = None  # (B, 1, H, W), bool: pixels that are used; the others are dimmed


def contact_sheet(
    method: Method,
    images: Tensor,
    trace: StageTrace,
    augmented: Tensor | None = None,
    augmentation: str | None = None,
) -> list[Column]:
    """Return the steps from the clean images to the network's inputs, as far as the method has them.

    They are the clean images; the saliency with the drawn regions; the images after HybridMix's SalfMix; the partners,
    with their maps where the method looks at them; the images after the policy; and the network's inputs, always the
    last.

    Args:
        method: of the stage.
        images: (B, 3, H, W), that the stage received.
        trace: of the stage, for these images.
        augmented: like `images`; None without a policy.
        augmentation: the policy's name or file.
    """
    drawn = trace.drawn
    own, mixed = (drawn.first, drawn.second) if isinstance(drawn, HybridMixDraw) else (drawn, drawn)
    columns = [Column("clean", images)]
    if trace.saliency is not None:
        columns.append(Column(_sized("saliency", trace.saliency), trace.saliency, _boxes(own), _own_sources(own)))
    partner_maps = method.partner_maps(images, drawn, trace.saliency)
    if isinstance(method, HybridMix) and isinstance(drawn, HybridMixDraw):
        images = method.first.apply(images, drawn.first, None)
        columns.append(Column("self-mixed", images, drawn.first.boxes, drawn.first.sources))
    if isinstance(mixed, PairDraw):
        # ResizeMix pastes the whole partner, so that it has nothing to outline.
        sources = None if isinstance(method, ResizeMix) else _sources(mixed)
        masks = mixed.masks if isinstance(mixed, MaskDraw) else None
        columns.append(Column("partner", images[mixed.partners], sources=sources, masks=masks))
        if partner_maps is not None:
            columns.append(Column(_sized("its map", partner_maps), partner_maps, sources=sources, masks=masks))
    if augmented is not None:
        columns.append(Column(Path(augmentation or "augmented").name, augmented))
    return [*columns, Column("network's input", trace.inputs, _boxes(mixed), _own_sources(mixed))]


def _boxes(drawn: Draw) -> Tensor | None:
    return drawn.boxes if isinstance(drawn, BoxDraw) else None


def _sources(drawn: Draw) -> Tensor | None:
    """Return where the pixels of the boxes come from: by default from the same place."""
    return drawn.sources if isinstance(drawn, MoveDraw) else _boxes(drawn)


def _own_sources(drawn: Draw) -> Tensor | None:
    """Return where the pixels come from, where that is the image itself."""
    return drawn.sources if isinstance(drawn, MoveDraw) and not isinstance(drawn, PairDraw) else None


def _sized(title: str, maps: Tensor) -> str:
    return f"{title}, {maps.shape[-2]}×{maps.shape[-1]}"


def mixed_labels(targets: Tensor, classes: Sequence[str]) -> list[str]:
    """Return the classes and weights of each of the targets (B, K); "" for targets (B,), which mix no labels."""
    if targets.ndim == 1:
        return [""] * len(targets)
    return [
        ", ".join(f"{classes[k]} {row[k]:.2f}" for k in np.argsort(-row, kind="stable") if row[k] >= 0.005)
        for row in targets.cpu().numpy()
    ]


def of_different_classes(labels: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of at most `count` samples: the first of each class, then the second of each, and so on."""
    by_class = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    place = np.empty(len(labels), dtype=np.int64)  # of each sample within its class
    place[by_class] = np.arange(len(labels)) - np.repeat(first, counts)
    return np.argsort(place, kind="stable")[:count]


def write_figure(
    loader: ImageLoader,
    config: ResolvedConfig,
    network: Network,
    memory: SaliencyMemory | None,
    path: Path,
    *,
    labels_known: bool = True,
) -> None:
    """Write the contact sheet of some training images as PNG.

    Images, regions and the policy's draws are the same at each call. The run's own loader, stage and random state do
    not change. Where the method uses no saliency, the sheet still shows the map. A method with neither policy nor
    partners is shown beside Cutout at a random place.

    Args:
        loader: of the training images.
        config: of the run.
        network: whose maps are shown.
        memory: whose maps are shown beside those of the network; None: there is none.
        path: of the PNG.
        labels_known: whether to name the classes of the images.
    """
    seed, dataset, model = config.seed + 1, loader.dataset, network.model
    changes: dict[str, Any] = {"batch_size": min(64, len(dataset)), "seed": seed, "images": None}
    batch = next(iter(make_loader(config, train=True, dataset=dataset, **changes)))
    chosen = torch.from_numpy(of_different_classes(batch.labels.cpu().numpy(), IMAGES)).to(loader.device)
    images, labels = batch.images[chosen], batch.labels[chosen]
    augmented = None if batch.augmented is None else batch.augmented[chosen]

    stage = training_stage(config, network, len(dataset.classes), seed)
    stage.set_epoch(stage.warmup_epochs)
    trace = stage.trace(model, images, labels, augmented)
    if trace.saliency is None:
        trace = trace._replace(saliency=live_map(model, images, labels, config, seed))
    augmentation = config.policy
    if augmented is None and METHODS[config.method].kind != TWO_IMAGES:
        generator = torch.Generator(images.device).manual_seed(seed)
        cutout, augmentation = Cutout(config.region_size), "cutout, random"
        augmented = cutout.apply(images, cutout.draw(images, None, generator), None)
    columns = contact_sheet(stage.method, images, trace, augmented, augmentation)
    if memory is not None and batch.views is not None:
        columns.insert(2, Column("remembered", memory.read(batch.indices[chosen], batch.views[chosen], memory.grid)))
    names = [dataset.classes[label] if labels_known else "" for label in labels.tolist()]
    draw_sheet(columns, names, mixed_labels(trace.targets, dataset.classes), path, mean=loader.mean, std=loader.std)


def draw_sheet(
    columns: Sequence[Column],
    names: Sequence[str],
    notes: Sequence[str],
    path: Path | IO[bytes],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    files: Sequence[str] = (),
) -> None:
    """Write a contact sheet as PNG.

    Args:
        columns: each with at least as many images as there are names.
        names: text to the left of the images.
        notes: text below the last column.
        path: of the PNG, or a file open for writing.
        mean, std: of the pictures' normalisation.
        files: text below the first column; none where there are none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count, width, (high, wide) = len(names), len(columns), columns[0].pictures.shape[-2:]
    abreast = min(count, max(1, CELLS // width))
    rows = math.ceil(count / abreast)
    across, down = (1.5, 1.5 * high / wide) if high <= wide else (max(0.9, 1.8 * wide / high), 1.8)  # inches
    noted = 0.15 if any(notes) or files else 0.0
    figure = Figure(figsize=(across * abreast * width + 0.6, (down + noted) * rows + 0.5))
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
            # The coarser maps have the images' coordinates too, so that the regions are in the right place.
            ax.imshow(picture, cmap="inferno", extent=(0, wide, high, 0), interpolation="nearest")
            if column.masks is not None:
                dimmed = 0.7 * ~column.masks[image, 0].cpu().numpy()
                ax.imshow(np.zeros_like(dimmed), cmap="gray", alpha=dimmed, extent=(0, wide, high, 0))
            if row == 0:
                ax.set_title(column.title, fontsize=10 if high <= wide else 7)
            if place == 0:
                ax.set_ylabel(names[image], fontsize=10, parse_math=False)
                if files:
                    ax.set_xlabel(_shortened(files[image]), fontsize=7, parse_math=False)
            if place == width - 1 and notes[image]:
                ax.set_xlabel(notes[image], fontsize=8, parse_math=False)
            for boxes, colour in ((column.sources, SOURCE), (column.boxes, REGION)):
                if boxes is not None:
                    _outline(ax, boxes[image].tolist(), colour)
    figure.savefig(path, dpi=150, facecolor="white")


def _shortened(name: str) -> str:
    """Return a file name, without its middle where it is wider than a picture."""
    name = printable(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 :]}"


def _pictures(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return normalised (B, 3, H, W) as (B, H, W, 3), uint8; maps (B, h, w) unchanged, float32."""
    pictures = pictures.detach().float().cpu()
    if pictures.ndim == 3:
        return pictures.numpy()
    pixels = pictures * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    return (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def _outline(ax: Any, box: Sequence[int], colour: str) -> None:
    from matplotlib.patches import Rectangle

    top, left, bottom, right = box
    if bottom == top or right == left:  # this image has no region
        return
    for edge, line_width in (("black", 3.0), (colour, 1.6)):
        outline = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=edge, linewidth=line_width)
        ax.add_patch(outline).set_clip_on(False)
