"""The options of a semi-supervised run."""

from dataclasses import dataclass
from typing import ClassVar

from dali_salaug import METHODS, Clean
from dali_salaug.methods.base import TWO_IMAGES
from dali_salaug.remembering import MEMORY
from pipelines.graph.crops import LEAST
from train.config import Config, ResolvedConfig
from train.config.options import option
from train.errors import UserError


@dataclass(kw_only=True)
class SemiConfig(Config):
    """The options of a semi-supervised run as stated: those of classification, and its own."""

    task: ClassVar[str] = "semi"

    labels: int | None = option(
        None,
        "number of training images whose labels are used, as many of each class, drawn by --seed; all training images"
        " are unlabelled images too",
        low=1,
        by_data="800 embedded, otherwise all, and the unlabelled images are those of --unlabelled",
    )
    unlabelled: str | None = option(
        None,
        "unlabelled images of another folder: in any layout of --data, or images alone; their labels are not used",
        by_data="all training images",
        free=True,
        path=True,
    )
    unlabelled_ratio: int = option(7, "unlabelled images in a step for each labelled one", low=1, high=2**16)
    unlabelled_weight: float = option(
        1.0, "weight λ of the consistency loss; 0: train on the labelled images alone, as often", low=0
    )
    pseudo_labels: str = option(
        "soft",
        "target for the augmented image: the sharpened prediction of the clean one (UDA), or its class (FixMatch)",
        choices=("soft", "hard"),
    )
    temperature: float = option(
        0.4, "temperature that sharpens soft pseudo-labels; 1: the prediction as it is", low=LEAST
    )
    confidence: float = option(
        0.8, "greatest class probability above which an unlabelled image counts, in [0, 1)", low=0, high=1
    )
    training_signal_annealing: str = option(
        "off",
        "leave out labelled images that are predicted with a probability above a threshold, which grows from 1/classes"
        " to 1 in this form",
        choices=("off", "linear", "log", "exp"),
    )

    @property
    def default_target(self) -> str:
        return "max"  # which needs no label

    def sizes(self) -> dict[str, str]:
        return super().sizes() | {"--unlabelled-ratio": ""}

    def check(self) -> None:
        if self.labels is None and self.unlabelled is None:
            raise UserError("semi needs --labels N, the number of labelled images, or --unlabelled DIR beside --data")
        methods = [name for name, entry in METHODS.items() if entry.kind != TWO_IMAGES and entry.method is not Clean]
        if self.method not in methods:
            raise UserError(
                f"--method of unlabelled images must change each image by itself, one of {', '.join(methods)}; got"
                f" {self.method}"
            )
        if self.saliency_target not in (None, "max"):
            raise UserError(f"--saliency-target must be max for unlabelled images; got {self.saliency_target}")
        if self.saliency == MEMORY:
            raise UserError(
                "--saliency memory remembers gradients of labelled images' losses: not for unlabelled images"
            )
        if self.consistency is not None:
            weights = " ".join(f"{weight:g}" for weight in self.consistency)
            raise UserError(f"--consistency needs a label for each image: not for unlabelled images; got {weights}")
        if self.accept_changed_data:
            raise UserError("--accept-changed-data is not for unlabelled images: other images would get other labels")
        if self.confidence == 1:
            raise UserError("--confidence must be in [0, 1), as no probability is above 1; got 1")
        if self.pseudo_labels == "hard" and self.temperature != SemiConfig.temperature:
            raise UserError(f"--temperature has no effect with --pseudo-labels hard; got {self.temperature:g}")


OWN = [name for name in SemiConfig.options() if name not in Config.options()]  # the options that others do not have


@dataclass(kw_only=True)
class ResolvedSemiConfig(ResolvedConfig, SemiConfig):
    """The options of a semi-supervised run once its data is known."""

    @property
    def step_images(self) -> int:
        """Unlabelled images in a step, over all processes."""
        return self.batch_size * self.unlabelled_ratio

    def passed(self, images: int) -> int:
        return 2 * images + -(-images // self.unlabelled_ratio)  # clean and augmented, and the labelled ones

    def loaded(self, images: int) -> int:
        return images + -(-images // self.unlabelled_ratio)
