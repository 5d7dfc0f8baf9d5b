"""The references of the loader's benchmark: torchvision does the work of `pipelines.image_loader`."""

import signal
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.data import Dataset as TorchDataset

from pipelines import ImageLoader

POLICIES = ("none", "autoaugment", "randaugment", "trivialaugment", "augmix")  # torchvision has these too
FORMS = ("Pillow", "tensors")


class TorchvisionImages(TorchDataset):
    """Decode, crop, flip, policy and normalisation by torchvision v2: (clean,) or (clean, augmented), and label.

    Args:
        loader: has the images, the crop and the normalisation.
        size: side of the crop in pixels.
        policy: one of `POLICIES`.
        form: "Pillow": decodes and transforms Pillow images, which become tensors last; "tensors": decodes by
            torchvision's own fast path, and keeps bytes until the normalisation.
    """

    def __init__(self, loader: ImageLoader, size: int, policy: str, form: str = "Pillow") -> None:
        from torchvision.transforms import v2

        dataset, recipe = loader.dataset, loader.recipe
        self.reader, self.labels = dataset.reader, dataset.class_indices.tolist()
        self.form = form
        if recipe.crop == "random_resized":
            crop: list[Any] = [v2.RandomResizedCrop(size, antialias=True)]
        else:
            crop = [] if recipe.resize_to is None else [v2.Resize(recipe.resize_to, antialias=True)]
            crop.append(v2.RandomCrop(size, padding=4))
        self.crop = v2.Compose([*crop, v2.RandomHorizontalFlip()])
        self.policy = {
            "none": None,
            "autoaugment": v2.AutoAugment(fill=128),
            "randaugment": v2.RandAugment(fill=128),
            "trivialaugment": v2.TrivialAugmentWide(fill=128),
            "augmix": v2.AugMix(all_ops=False, fill=128),
        }[policy]
        self.normalise = v2.Compose(
            [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(loader.mean, loader.std)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        view = self.crop(self._image(index))
        views = [view] if self.policy is None else [view, self.policy(view)]
        return [self.normalise(v) for v in views], self.labels[index]

    def _image(self, index: int) -> Any:
        if self.reader.kind == "pixels":
            (array,) = self.reader.inputs(np.array([index]))
            return Image.fromarray(array) if self.form == "Pillow" else torch.from_numpy(array).permute(2, 0, 1)
        if self.form == "Pillow":
            with Image.open(self.reader.files[index]) as image:
                return image.convert("RGB")
        from torchvision.io import ImageReadMode, decode_image, read_file

        return decode_image(read_file(self.reader.files[index]), ImageReadMode.RGB)


def torchvision_loader(images: TorchvisionImages, *, batch_size: int, workers: int, epoch: int) -> DataLoader:
    """Return a tuned DataLoader, `epoch` images long: persistent workers, prefetching, pinned memory with a GPU."""
    loader = DataLoader(
        images,
        batch_size=batch_size,
        sampler=RandomSampler(range(len(images)), num_samples=epoch),
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context="spawn",  # a fork copies locks that threads of DALI and torch may have
        prefetch_factor=2,
        pin_memory=torch.cuda.is_available(),
    )
    # Ctrl-C reaches the workers too, which would each print a traceback. They start here, and inherit what is ignored.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        iter(loader)
    finally:
        signal.signal(signal.SIGINT, before)
    return loader
