"""torchdata's StatefulDataLoader, a DataLoader with a state, over Pillow images."""

from collections.abc import Iterator

from torch import Tensor

from train.benchmarks.loaders.job import Job
from train.benchmarks.loaders.peers.base import Images, Loader, Resumable, options, pillow

TITLE = "StatefulDataLoader"
FORM = "torchdata's `StatefulDataLoader` and `StatefulDistributedSampler`, Pillow and transforms v2"
PIP = ("torchdata>=0.11",)


class Stateful(Resumable):
    def __init__(self, job: Job) -> None:
        import torch
        from torchdata.stateful_dataloader import StatefulDataLoader
        from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

        images = Images(job, pillow)
        several = job.world_size > 1
        self.sampler = StatefulDistributedSampler(images, shuffle=job.train, seed=job.seed) if several else None
        torch.manual_seed(job.seed)  # of the order, which the state has
        self.loader = StatefulDataLoader(
            images, sampler=self.sampler, shuffle=job.train and not several, **options(job)
        )

    def epoch(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        if self.sampler is not None:
            self.sampler.set_epoch(number)
        yield from super().epoch(number)


def open_loader(job: Job) -> Loader:
    return Stateful(job)
