"""DALI's own iterator over a pipeline as its documentation writes it."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from train.benchmarks.loaders.job import MEAN, STD, Job
from train.benchmarks.loaders.peers.base import Loader

TITLE = "DALI"
FORM = "`readers.file` with `random_shuffle`, `image_random_crop`, `DALIClassificationIterator`; DALI's `rand_augment`"
PIP: tuple[str, ...] = ()


class Dali(Loader):
    def __init__(self, job: Job) -> None:
        self.job = job
        self.iterator = self._iterator(None)

    def _iterator(self, checkpoint: Any) -> Any:
        from nvidia.dali.plugin.pytorch import DALIClassificationIterator, DALIGenericIterator, LastBatchPolicy

        pipeline = make_pipeline(self.job, checkpoint)
        options: dict[str, Any] = {
            "reader_name": "Reader",
            "last_batch_policy": LastBatchPolicy.PARTIAL,
            "auto_reset": True,
        }
        if self.job.augment:
            return DALIGenericIterator(pipeline, ["data", "augmented", "label"], **options)
        return DALIClassificationIterator(pipeline, **options)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, ...]]:
        names = ("data", "augmented", "label") if self.job.augment else ("data", "label")
        for (batch,) in self.iterator:
            *views, labels = (batch[name] for name in names)
            yield *views, labels.squeeze(-1).long()

    def state_dict(self) -> Any:
        return self.iterator.checkpoints()[0]

    def load_state_dict(self, state: Any) -> None:
        self.iterator = self._iterator(state)


def make_pipeline(job: Job, checkpoint: Any) -> Any:
    from nvidia.dali import fn, pipeline_def
    from nvidia.dali.auto_aug.rand_augment import rand_augment
    from nvidia.dali.types import DALIDataType, DALIImageType

    device = "gpu" if job.device == "cuda" else "cpu"
    decoder = "mixed" if job.device == "cuda" else "cpu"
    paths, labels = zip(*job.samples(), strict=True)

    @pipeline_def(
        batch_size=job.batch_size,
        num_threads=job.workers,
        device_id=0 if job.device == "cuda" else None,  # type: ignore[arg-type] # as documented
        seed=job.seed + job.rank,
        enable_conditionals=True,
        enable_checkpointing=True,
        checkpoint=checkpoint,
    )
    def pipeline() -> Any:
        encoded, label = fn.readers.file(
            files=list(paths),
            labels=list(labels),
            random_shuffle=job.train,
            shard_id=job.rank,
            num_shards=job.world_size,
            name="Reader",
        )
        if job.train:
            image = fn.decoders.image_random_crop(encoded, device=decoder, output_type=DALIImageType.RGB)
            image = fn.resize(image, size=[job.size, job.size])  # type: ignore[assignment] # one in, one out
            image = fn.flip(image, horizontal=fn.random.coin_flip(probability=0.5))
        else:
            image = fn.decoders.image(encoded, device=decoder, output_type=DALIImageType.RGB)
            image = fn.resize(image, resize_shorter=job.size)  # type: ignore[assignment]
        views = [image, rand_augment(image, n=2, m=9, fill_value=128)] if job.augment else [image]
        outputs = [
            fn.crop_mirror_normalize(
                view,
                dtype=DALIDataType.FLOAT,
                output_layout="CHW",
                crop=(job.size, job.size),
                mean=[255 * value for value in MEAN],
                std=[255 * value for value in STD],
            )
            for view in views
        ]
        return *outputs, label.gpu() if device == "gpu" else label

    return pipeline()


def open_loader(job: Job) -> Loader:
    return Dali(job)
