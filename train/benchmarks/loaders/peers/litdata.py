"""LitData's chunks, written by `optimize`."""

import os
from pathlib import Path
from typing import Any

import torch

from train.benchmarks.loaders.job import Job, Samples
from train.benchmarks.loaders.peers.base import Loader, Resumable, Transform, chunk_bytes, options

TITLE = "LitData"
FORM = "`optimize` with `Image(path=...)`, at least 32 chunks of at most 64 MB; `StreamingDataLoader`, transforms v2"
PIP = ("litdata>=0.2.60",)


def stored(sample: tuple[str, int]) -> dict[str, Any]:
    from litdata import Image

    path, label = sample
    return {"image": Image(path=path), "label": label}


def convert(samples: Samples, out: Path) -> None:
    # It empties these folders, by default "chunks" and "data" of the machine's folder for temporary files, whatever is
    # in them. It reads the variables when it is called, and its processes inherit them.
    scratch = out.with_name(f"{out.name}.scratch")
    os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = str(scratch / "chunks")
    os.environ["DATA_OPTIMIZER_DATA_CACHE_FOLDER"] = str(scratch / "data")
    from litdata import optimize

    size = chunk_bytes(samples)
    optimize(
        fn=stored, inputs=samples, output_dir=str(out), chunk_bytes=size, num_workers=1, reorder_files=False,
        start_method="fork",
    )  # fmt: skip


class Streamed(Resumable):
    def __init__(self, job: Job) -> None:
        from litdata import StreamingDataLoader, StreamingDataset

        transform = Transform(job)

        class Data(StreamingDataset):
            def __getitem__(self, index: Any) -> tuple[Any, ...]:
                sample = super().__getitem__(index)
                image = sample["image"]
                if not isinstance(image, torch.Tensor):  # of some forms it returns Pillow's
                    image = image.convert("RGB")
                return transform(image, sample["label"])

        data = Data(job.converted, shuffle=job.train, seed=job.seed, drop_last=False)
        self.loader = StreamingDataLoader(data, **options(job))


def open_loader(job: Job) -> Loader:
    return Streamed(job)
