"""augmentations.png: what the method does to some training images, as in the KeepAugment paper's figure 1."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dali_salaug import Cutout, saliency_map

if TYPE_CHECKING:
    from train.run import Run

IMAGES = 6
ABREAST = 2  # images side by side in a row of the figure
REGION = "#00e5ff"  # stands out from photographs and from the saliency map's colours


def write_figure(run: "Run", path: Path) -> None:
    """Draw clean | saliency | augmented | network's input, for some training images, two in a row.

    The images, the regions and the policy's draws are the same at each call, and the run's own loader, stage and
    random state are left alone. Where the method has no policy, the third column shows Cutout at a random place;
    where it uses no saliency, the map is shown all the same.

    Args:
        run: supplies model, data and method.
        path: of the PNG.
    """
    from train.run import make_loader

    config, seed = run.config, run.config.seed + 1
    batch_size = min(64, len(run.train_loader.dataset))
    loader = make_loader(config, train=True, batch_size=batch_size, seed=seed)
    batch = next(iter(loader))
    chosen = _of_different_classes(batch.labels, IMAGES)
    images, labels = batch.images[chosen], batch.labels[chosen]
    augmented = None if batch.augmented is None else batch.augmented[chosen]

    stage = run.make_stage(seed)
    stage.set_epoch(stage.warmup_epochs)
    trace = stage.trace(run.model, images, labels, augmented)
    saliency = trace.saliency
    if saliency is None:
        saliency = saliency_map(run.model, images, labels, target=config.target or "label", scale=config.scale or 0.5)
    if augmented is None:
        generator = torch.Generator(images.device).manual_seed(seed)
        cutout = Cutout(config.size)
        augmented = cutout.apply(images, cutout.draw(images, None, generator), None)

    height, width = saliency.shape[-2:]
    columns = {
        "clean": _pictures(images, run),
        f"saliency, {height}×{width}": saliency.cpu().numpy(),
        config.policy or "cutout, random": _pictures(augmented, run),
        "network's input": _pictures(trace.inputs, run),
    }
    boxes = None if trace.boxes is None else trace.boxes.cpu().numpy()
    _draw(columns, [run.classes[label] for label in labels.tolist()], boxes, path)


def _of_different_classes(labels: Tensor, count: int) -> Tensor:
    """Indices of at most `count` samples: first one of each class, then others."""
    first_of_class = np.unique(labels.cpu().numpy(), return_index=True)[1]
    others = np.setdiff1d(np.arange(len(labels)), first_of_class)
    return torch.from_numpy(np.concatenate([np.sort(first_of_class), others])[:count]).to(labels.device)


def _pictures(images: Tensor, run: "Run") -> np.ndarray:
    """Normalised (B, 3, H, W) to (B, H, W, 3) uint8."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (run.train_loader.mean, run.train_loader.std))
    pixels = (images.float().cpu() * std + mean).clamp(0, 1) * 255
    return pixels.round().byte().permute(0, 2, 3, 1).numpy()


def _draw(columns: dict[str, np.ndarray], names: list[str], boxes: np.ndarray | None, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    side = next(iter(columns.values())).shape[1]
    rows, width = math.ceil(len(names) / ABREAST), len(columns)
    figure = Figure(figsize=(1.5 * ABREAST * width + 0.6, 1.5 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, ABREAST * width, squeeze=False)
    ax: Any
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for column, (title, pictures) in enumerate(columns.items()):
        for image, picture in enumerate(pictures):
            row, block = divmod(image, ABREAST)
            ax = axes[row, block * width + column]
            # All in image coordinates, so that the region lies where it should on the coarser map too.
            ax.imshow(picture, cmap="inferno", extent=(0, side, side, 0), interpolation="nearest")
            if row == 0:
                ax.set_title(title, fontsize=10)
            if column == 0:
                ax.set_ylabel(names[image], fontsize=10)
            if boxes is not None and column in (1, width - 1):
                _outline(ax, boxes[image])
    figure.savefig(path, dpi=150, facecolor="white")


def _outline(ax: Any, box: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    top, left, bottom, right = box
    if bottom == top or right == left:  # this image was left as it is
        return
    for colour, line_width in (("black", 3.0), (REGION, 1.6)):
        place = {"xy": (left, top), "width": right - left, "height": bottom - top}
        ax.add_patch(Rectangle(**place, fill=False, edgecolor=colour, linewidth=line_width, clip_on=False))
