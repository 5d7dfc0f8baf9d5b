"""A page of retrievals: queries, and the gallery images that the network finds nearest to each."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines import Dataset
from train.config import ResolvedConfig
from train.data.loaders import make_loader
from train.tasks.reid.evaluation import Gallery, nearest

PICTURE = "retrievals.png"  # in the run folder
QUERIES, FOUND = 8, 5  # rows of the page, and images beside each query
RIGHT, WRONG = "#1a9850", "#d73027"


def write_retrievals(config: ResolvedConfig, test: Dataset, images: Gallery, path: Path) -> None:
    """Write a page of retrievals as PNG: at most `QUERIES` queries, evenly out of all, two side by side.

    Those of the query's identity and camera are left out, as in the evaluation.

    Args:
        config: of the run.
        test: the test images.
        images: the same, as they are compared.
        path: of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = min(QUERIES, len(images.queries))
    chosen = images.queries[torch.linspace(0, len(images.queries) - 1, count, device=images.queries.device).long()]
    found, matches = (each.cpu().numpy() for each in nearest(images, chosen, FOUND))
    places = np.concatenate([chosen.cpu().numpy()[:, None], found], axis=1)  # −1 where no image is left
    pictures = _pictures(config, test, places)
    height, width = config.size
    abreast, rows = min(2, count), -(-count // 2)
    cells = abreast * (places.shape[1] + 1) - 1  # an empty one between the two
    across = 1.7 * width / height
    figure = Figure(figsize=(across * cells + 0.3, 1.85 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(rows, cells, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for number in range(count):
        row, block = divmod(number, abreast)
        for rank, place in enumerate(places[number]):
            if place < 0:
                continue
            ax = axes[row, block * (places.shape[1] + 1) + rank]
            ax.imshow(pictures[int(place)], aspect="auto", interpolation="nearest")
            if row == 0:
                ax.set_title("query" if rank == 0 else str(rank), fontsize=9)
            if rank:
                ax.spines[:].set(visible=True, linewidth=3, color=RIGHT if matches[number, rank - 1] else WRONG)
    figure.savefig(path, dpi=110, facecolor="white")


def _pictures(config: ResolvedConfig, test: Dataset, places: np.ndarray) -> dict[int, np.ndarray]:
    """Return the pixels of test images by their places, (H, W, 3) uint8."""
    which = np.unique(places[places >= 0])
    (batch,) = make_loader(config, train=False, dataset=test.take(which), batch_size=len(which), dtype="uint8")
    return dict(zip(which.tolist(), batch.images.permute(0, 2, 3, 1).cpu().numpy(), strict=True))
