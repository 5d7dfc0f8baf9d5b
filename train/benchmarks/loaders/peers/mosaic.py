"""Mosaic's StreamingDataset over MDS shards."""

import io
import shutil
from pathlib import Path
from typing import Any

from train.benchmarks.loaders.job import Job, Samples
from train.benchmarks.loaders.peers.base import Loader, Resumable, Transform, chunk_bytes, options

TITLE = "Mosaic Streaming"
FORM = "MDS, at least 32 shards of at most 64 MB; `StreamingDataset`, `StreamingDataLoader`, Pillow, transforms v2"
PIP = ("mosaicml-streaming>=0.11",)


def convert(samples: Samples, out: Path) -> None:
    from streaming import MDSWriter

    shutil.rmtree(out)  # it makes the folder itself
    with MDSWriter(out=str(out), columns={"image": "bytes", "label": "int"}, size_limit=chunk_bytes(samples)) as writer:
        for path, label in samples:
            writer.write({"image": Path(path).read_bytes(), "label": label})


class Streamed(Resumable):
    def __init__(self, job: Job) -> None:
        from PIL import Image
        from streaming import StreamingDataLoader, StreamingDataset

        transform = Transform(job)

        class Data(StreamingDataset):
            def __getitem__(self, at: Any) -> Any:
                sample = super().__getitem__(at)
                return transform(Image.open(io.BytesIO(sample["image"])).convert("RGB"), int(sample["label"]))

        local = Path(job.converted)
        data = Data(
            local=str(local), shuffle=job.train, shuffle_seed=job.seed, batch_size=job.batch_size, shuffle_algo="py1e"
        )
        self.loader = StreamingDataLoader(data, **options(job))


def open_loader(job: Job) -> Loader:
    return Streamed(job)
