"""torchvision's transforms on Pillow images, in torch's DataLoader."""

from train.benchmarks.loaders.job import Job
from train.benchmarks.loaders.peers.base import Images, InDataLoader, Loader, pillow

TITLE = "torchvision, Pillow"
FORM = "`ImageFolder`'s Pillow loader and transforms v2 in a `DataLoader` with persistent workers"
PIP: tuple[str, ...] = ()


def open_loader(job: Job) -> Loader:
    return InDataLoader(job, Images(job, pillow))
