"""The interface of a peer's loader, and the transforms of those that have none of their own."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from train.benchmarks.loaders.job import MEAN, STD, Job, Samples


class NotOffered(Exception):
    """The library does not offer this; the message is a word of why."""


class Loader:
    """Batches of one process.

    A batch is (images, labels) or, with `Job.augment`, (clean, augmented, labels): images (B, 3, size, size) float32,
    normalised by ImageNet's mean and standard deviation; labels (B,) int64.
    """

    def epoch(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batches of an epoch; after `load_state_dict`, the rest of the one in which the state was taken."""
        raise NotImplementedError

    def state_dict(self) -> Any:
        """Return where the user is, for pickle.

        Raises:
            NotOffered: there is no such state.
        """
        raise NotOffered("no state of a loader")

    def load_state_dict(self, state: Any) -> None:
        """Continue from a state, in a new process."""
        raise NotOffered("no state of a loader")


class Resumable(Loader):
    """A loader by another, `loader`, that has a state of its own."""

    loader: Any

    def epoch(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        yield from map(tuple, self.loader)

    def state_dict(self) -> Any:
        return self.loader.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.loader.load_state_dict(state)


class Transform:
    """torchvision.transforms.v2 on a Pillow image or a uint8 tensor (3, H, W): one or two tensors, and the label."""

    def __init__(self, job: Job) -> None:
        from torchvision.transforms import v2

        if job.train:
            crop = [v2.RandomResizedCrop(job.size, antialias=True), v2.RandomHorizontalFlip()]
        else:
            crop = [v2.Resize(job.size, antialias=True), v2.CenterCrop(job.size)]
        self.crop = v2.Compose(crop)
        self.policy = v2.RandAugment(2, 9, fill=128) if job.augment else None
        self.normalise = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def __call__(self, image: Any, label: int) -> tuple[Any, ...]:
        clean = self.crop(image)
        views = [clean] if self.policy is None else [clean, self.policy(clean)]
        # A plain tensor: the subclass that v2 returns takes longer to collate.
        return *(self.normalise(view).as_subclass(Tensor) for view in views), label


class Images(torch.utils.data.Dataset):
    """The samples of a job as a data set, decoded by `decode`, which takes a path."""

    def __init__(self, job: Job, decode: Callable[[str], Any]) -> None:
        self.samples, self.decode, self.transform = job.samples(), decode, Transform(job)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        path, label = self.samples[index]
        return self.transform(self.decode(path), label)


def pillow(path: str) -> Any:
    """Return an image as `ImageFolder` of torchvision opens it."""
    from PIL import Image

    with open(path, "rb") as file:
        return Image.open(file).convert("RGB")


class InDataLoader(Loader):
    """A data set in torch's DataLoader: worker processes that last, and a DistributedSampler for several ranks."""

    def __init__(self, job: Job, images: torch.utils.data.Dataset) -> None:
        from torch.utils.data import DataLoader
        from torch.utils.data.distributed import DistributedSampler

        several = job.world_size > 1
        self.sampler: Any = DistributedSampler(images, shuffle=job.train, seed=job.seed) if several else None
        generator = torch.Generator().manual_seed(job.seed)
        self.loader = DataLoader(
            images, sampler=self.sampler, shuffle=job.train and not several, generator=generator, **options(job)
        )

    def epoch(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        if self.sampler is not None:
            self.sampler.set_epoch(number)
        for batch in self.loader:
            yield tuple(batch)


def options(job: Job) -> dict[str, Any]:
    """Return the arguments of a DataLoader, as torch's tuning guide has them."""
    return {
        "batch_size": job.batch_size,
        "num_workers": job.workers,
        "persistent_workers": True,
        "pin_memory": job.device == "cuda",
    }


def chunk_bytes(samples: Samples) -> int:
    """Return the size of chunks: 64 MB, as is usual, or a 32nd of all samples, so that there are chunks to shuffle."""
    total = sum(os.path.getsize(path) + 64 for path, _ in samples)
    return max(4096, min(64 * 2**20, total // 32))
