"""What a loader is asked for. Imports nothing that a peer may lack."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Samples = list[tuple[str, int]]  # path and label


@dataclass(frozen=True)
class Job:
    """The images, and what to do with them.

    Attributes:
        listing: JSON file of the samples: pairs of path and label.
        converted: folder with the peer's own form of them, if it has one.
        batch_size: of this process.
        size: side of the returned images, in pixels.
        augment: also return each image after RandAugment (2 operations, magnitude 9), from the same decode and crop.
        train: random order, crop and mirroring; else the listing's order, the shorter side resized to `size`, and the
            central crop.
        workers: threads or processes of the loader.
        device: "cpu" or "cuda": where the batches are to be.
        rank, world_size: this process's share of each epoch.
        seed: of the order and the draws.
    """

    listing: str
    converted: str
    batch_size: int
    size: int = 224
    augment: bool = False
    train: bool = True
    workers: int = 1
    device: str = "cpu"
    rank: int = 0
    world_size: int = 1
    seed: int = 0

    def samples(self) -> Samples:
        return read_samples(self.listing)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_samples(listing: str) -> Samples:
    return [(path, label) for path, label in json.loads(Path(listing).read_text())]
