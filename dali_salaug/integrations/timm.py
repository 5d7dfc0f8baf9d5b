"""timm: the stage in place of ``Mixup``, and a loader with what timm's training script reads of one."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import check_number, check_whole_number
from ..stage import SaliencyStage
from .common import Loader, check_loader, check_stage, derived_seed


class SaliencyMixup:
    """The stage with the interface of timm's ``Mixup``: images and labels to inputs and soft targets.

    It takes batches of any size, where ``Mixup`` needs an even one.

    Args:
        stage: what to do to the batches.
        model: the live model, in whatever wrapper.
        num_classes: K, the number of classes.
        label_smoothing: the share of each target that is spread over all classes, in [0, 1].
        rank: of this process; each has draws of its own.
        amp_autocast: returns the context of the model's precision, for the saliency pass.

    Attributes:
        mixup_enabled: False: the images pass unchanged, as timm's ``--mixup-off-epoch`` sets it.

    Raises:
        ValueError: for an argument outside the ranges above.
    """

    def __init__(
        self,
        stage: SaliencyStage,
        model: nn.Module,
        num_classes: int = 1000,
        label_smoothing: float = 0.1,
        *,
        rank: int = 0,
        amp_autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        check_stage(stage)
        check_whole_number("num_classes", num_classes, 1, of=" of classes")
        check_number("label_smoothing", label_smoothing, 0, 1)
        check_whole_number("rank", rank, 0)
        self.stage = stage
        self.model = model
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.mixup_enabled = True
        self._autocast = amp_autocast
        self._seed, self._rank = stage.seed, rank

    def __call__(self, images: Tensor, labels: Tensor, augmented: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the network's inputs and the targets (B, K), floating point."""
        inputs, targets = images, labels
        if self.mixup_enabled:
            with self._autocast():
                inputs, targets = self.stage(self.model, images, labels, augmented)
        if targets.ndim == 1:
            targets = F.one_hot(targets, self.num_classes).to(images.dtype)
        return inputs, targets * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch: its draws are a function of the stage's seed, the epoch and the rank alone.

        A run that resumes from a checkpoint after an epoch, as timm writes them, has the draws that would have come.
        """
        self.stage.seed = derived_seed(self._seed, epoch, self._rank)
        self.stage.load_state_dict({"epoch": epoch, "generator": None})


class TimmLoader:
    """A loader's batches as pairs (inputs, targets), with what timm's ``train_one_epoch`` and ``validate`` read.

    With ``mixup`` it stands where timm's loader with ``FastCollateMixup`` does (timm's prefetcher, the default): the
    stage runs when the loop asks for the next pair, after the optimizer's last step.

    Args:
        loader: such as that of ``pipelines.image_loader``.
        mixup: makes inputs and targets from images, labels and the augmented images; None: images and labels.

    Raises:
        ValueError: ``loader`` is none.

    Example:
        >>> loader_train = TimmLoader(image_loader("/data/imagenet", batch_size=256), SaliencyMixup(stage, model))
    """

    def __init__(self, loader: Loader, mixup: SaliencyMixup | None = None) -> None:
        check_loader("loader", loader)
        if mixup is not None and not isinstance(mixup, SaliencyMixup):
            raise ValueError(f"mixup must be None or a SaliencyMixup; got {mixup!r}")
        self.loader = loader
        self.mixup = mixup

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            if self.mixup is None:
                yield batch.images, batch.labels
            else:
                yield self.mixup(batch.images, batch.labels, batch.augmented)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be this epoch, with its own order, crops and draws, whatever came before."""
        self.loader.set_epoch(epoch)
        if self.mixup is not None:
            self.mixup.set_epoch(epoch)

    @property
    def dataset(self) -> Any:
        return self.loader.dataset

    @property
    def sampler(self) -> "TimmLoader":
        """What timm calls ``set_epoch`` on, in several processes."""
        return self

    @property
    def mixup_enabled(self) -> bool:
        return self.mixup is not None and self.mixup.mixup_enabled

    @mixup_enabled.setter
    def mixup_enabled(self, enabled: bool) -> None:
        if self.mixup is not None:
            self.mixup.mixup_enabled = enabled
