"""This project's loader."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from train.benchmarks.loaders.job import Job
from train.benchmarks.loaders.peers.base import Loader

TITLE = "ours"
FORM = "`image_loader`, files as they are, float32"
PIP: tuple[str, ...] = ()


class Ours(Loader):
    def __init__(self, job: Job) -> None:
        from pipelines import Dataset, image_loader

        paths, labels = zip(*job.samples(), strict=True)
        self.loader = image_loader(
            Dataset.from_samples(list(paths), list(labels)),
            batch_size=job.batch_size,
            image_size=job.size,
            train=job.train,
            crop_pct=None if job.train else 1.0,
            policy="randaugment" if job.augment else None,
            device=job.device,
            num_threads=job.workers,
            rank=job.rank,
            world_size=job.world_size,
            seed=job.seed,
        )

    def epoch(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        self.loader.set_epoch(number)
        for batch in self.loader:
            views = (batch.images,) if batch.augmented is None else (batch.images, batch.augmented)
            yield *views, batch.labels

    def state_dict(self) -> Any:
        return self.loader.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.loader.load_state_dict(state)


def open_loader(job: Job) -> Loader:
    return Ours(job)
