"""simplejpeg, libjpeg-turbo without Pillow, in torch's DataLoader."""

from pathlib import Path
from typing import Any

import torch

from train.benchmarks.loaders.job import Job
from train.benchmarks.loaders.peers.base import Images, InDataLoader, Loader

TITLE = "simplejpeg"
FORM = "`decode_jpeg` and transforms v2 on uint8 tensors in a `DataLoader` with persistent workers"
PIP = ("simplejpeg>=1.7",)


def decode(path: str) -> Any:
    from simplejpeg import decode_jpeg

    return torch.from_numpy(decode_jpeg(Path(path).read_bytes())).permute(2, 0, 1)


def open_loader(job: Job) -> Loader:
    return InDataLoader(job, Images(job, decode))
