"""torchvision's transforms on tensors that torchcodec decodes, in torch's DataLoader."""

from typing import Any

from train.benchmarks.loaders.job import Job
from train.benchmarks.loaders.peers.base import Images, InDataLoader, Loader

TITLE = "torchvision, torchcodec"
FORM = "`decode_image` and transforms v2 on uint8 tensors in a `DataLoader` with persistent workers"
PIP = ("torchcodec>=0.17",)  # earlier ones decode no images


def decode(path: str) -> Any:
    from torchcodec.decoders import decode_image

    image = decode_image(path)
    return image if image.ndim == 3 else image[0]  # the first of an animation


def open_loader(job: Job) -> Loader:
    return InDataLoader(job, Images(job, decode))
