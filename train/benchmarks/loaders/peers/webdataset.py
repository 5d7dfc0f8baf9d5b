"""WebDataset's shards, read in order through a shuffle buffer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from train.benchmarks.loaders.job import Job, Samples
from train.benchmarks.loaders.peers.base import Loader, Transform

TITLE = "webdataset"
FORM = "16 tar shards, `shardshuffle`, a buffer of 1,000, `decode('pilrgb')`, transforms v2, batched in `WebLoader`"
PIP = ("webdataset>=1.0",)
SHARDS, BUFFER = 16, 1000


def convert(samples: Samples, out: Path) -> None:
    import webdataset

    shards = min(SHARDS, len(samples))
    for shard in range(shards):
        with webdataset.TarWriter(str(out / f"{shard:06d}.tar")) as writer:
            for place in range(shard * len(samples) // shards, (shard + 1) * len(samples) // shards):
                path, label = samples[place]
                suffix = Path(path).suffix[1:].lower()
                name = Path(path).stem.replace(".", "_")  # a key ends at its first dot
                writer.write({"__key__": f"{place:08d}_{name}", suffix: Path(path).read_bytes(), "cls": label})


class Shards(Loader):
    def __init__(self, job: Job) -> None:
        import webdataset

        urls = sorted(str(path) for path in Path(job.converted).glob("*.tar"))
        transform = Transform(job)
        data = webdataset.WebDataset(
            urls,
            shardshuffle=len(urls) if job.train else False,
            nodesplitter=webdataset.split_by_node,
            seed=job.seed,
            empty_check=False,
        )
        if job.train:
            data = data.shuffle(BUFFER)
        data = data.decode("pilrgb").to_tuple("jpg;jpeg;png;gif", "cls")
        data = data.map(lambda pair: transform(*pair)).batched(job.batch_size)
        workers = min(job.workers, max(1, len(urls) // job.world_size))
        self.loader = webdataset.WebLoader(
            data,
            batch_size=None,
            num_workers=workers,
            persistent_workers=True,
            pin_memory=job.device == "cuda",
        )

    def epoch(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        import torch

        for batch in self.loader:
            *views, labels = batch
            yield *views, torch.as_tensor(labels)


def open_loader(job: Job) -> Any:
    return Shards(job)
