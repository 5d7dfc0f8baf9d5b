"""kornia-rs, decoders in Rust, in torch's DataLoader."""

from typing import Any

import torch

from train.benchmarks.loaders.job import Job
from train.benchmarks.loaders.peers.base import Images, InDataLoader, Loader

TITLE = "kornia-rs"
FORM = "`read_image_jpegturbo` and transforms v2 on uint8 tensors in a `DataLoader` with persistent workers"
PIP = ("kornia-rs>=0.1.9",)


def decode(path: str) -> Any:
    from kornia_rs import io

    # `read_image` takes any format that it knows, by the suffix; JPEG has the faster function.
    jpeg = path.lower().endswith((".jpg", ".jpeg"))
    image = io.read_image_jpegturbo(path) if jpeg else io.read_image(path)
    return torch.from_numpy(image).permute(2, 0, 1)


def open_loader(job: Job) -> Loader:
    return InDataLoader(job, Images(job, decode))
