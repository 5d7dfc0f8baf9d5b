"""SPDL's threads, which decode and crop by FFmpeg."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from train.benchmarks.loaders.job import MEAN, STD, Job
from train.benchmarks.loaders.peers.base import Loader

TITLE = "SPDL"
FORM = (
    "`DataLoader` of threads: `decode_packets` with a filter that crops and resizes, uint8 up to the batch; v2's policy"
)
PIP = ("spdl-core>=0.8", "spdl-io>=0.8")  # spdl-io loads FFmpeg's shared libraries, version 4 to 9


class Threads(Loader):
    def __init__(self, job: Job) -> None:
        import spdl.io
        from spdl.source import DistributedDeterministicSampler, DistributedRandomSampler
        from torchvision.transforms import v2

        spdl.io.demux_config()  # raises here if there is no FFmpeg
        self.job, self.samples = job, job.samples()
        place = {"rank": job.rank, "world_size": job.world_size}
        if job.train:
            self.order = DistributedRandomSampler(len(self.samples), seed=job.seed, **place)
        else:
            self.order = DistributedDeterministicSampler(len(self.samples), **place)
        self.policy = v2.RandAugment(2, 9, fill=128) if job.augment else None
        # A batch at once: (pixel / 255 − mean) / std.
        self.mean = 255 * torch.tensor(MEAN).view(3, 1, 1)
        self.std = 255 * torch.tensor(STD).view(3, 1, 1)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        from spdl.dataloader import DataLoader

        if self.job.train:
            self.order.shuffle(seed=self.job.seed + number)
        yield from DataLoader(
            self.order,
            preprocessor=self._decode,
            batch_size=self.job.batch_size,
            aggregator=self._batch,
            num_threads=self.job.workers,
            output_order="input",
        )

    def _decode(self, index: int) -> tuple[Any, ...]:
        import spdl.io

        path, label = self.samples[index]
        packets = spdl.io.demux_image(path)
        frames = spdl.io.decode_packets(packets, filter_desc=self._filter(packets.width, packets.height))
        if self.policy is None:
            return frames, label
        clean = spdl.io.to_torch(spdl.io.convert_frames(frames)).permute(2, 0, 1)
        return clean, self.policy(clean), label

    def _filter(self, width: int, height: int) -> str:
        """Return FFmpeg's filter for a crop, resized and mirrored."""
        from torchvision.transforms import RandomResizedCrop

        size = self.job.size
        if not self.job.train:
            side = f"scale={size}:{size}:force_original_aspect_ratio=increase:flags=bilinear"
            return f"{side},crop={size}:{size},format=rgb24"
        like = torch.empty(3, height, width, device="meta")
        top, left, rows, columns = RandomResizedCrop.get_params(like, [0.08, 1.0], [3 / 4, 4 / 3])
        flip = "hflip," if torch.rand(()) < 0.5 else ""
        crop = f"crop={columns}:{rows}:{left}:{top}:exact=1"
        return f"{crop},scale={size}:{size}:flags=bilinear,{flip}format=rgb24"

    def _batch(self, rows: list[tuple[Any, ...]]) -> tuple[Tensor, ...]:
        import spdl.io

        *columns, labels = zip(*rows, strict=True)
        if self.policy is None:
            views = [spdl.io.to_torch(spdl.io.convert_frames(list(columns[0]))).permute(0, 3, 1, 2)]
        else:
            views = [torch.stack(column) for column in columns]
        return *((view - self.mean) / self.std for view in views), torch.tensor(labels)


def open_loader(job: Job) -> Loader:
    return Threads(job)
