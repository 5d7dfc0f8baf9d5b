"""The options of a run that trains for re-identification."""

from dataclasses import dataclass
from typing import Any, ClassVar

from dali_salaug import METHODS
from dali_salaug.methods.base import TWO_IMAGES
from dali_salaug.regions import default_length
from train.config import Config, ResolvedConfig
from train.config.options import option, required, restated
from train.errors import UserError
from train.tasks.reid.evaluation import DISTANCES

# Options of classification that these runs do not have, whatever the value that stands for that.
WITHOUT = (
    "val_data", "drop_last", "train_images", "held_out", "freeze_trunk", "consistency", "consistency_scale",
    "consistency_layers", "accept_changed_data",
)  # fmt: skip
EMBEDDED_SIZE, USUAL_SIZE = (64, 32), (256, 128)
# Learning rate for 64 images in a step, and weight decay: of Adam as Luo et al. 2019; of SGD as Zheng et al. 2016.
_BY_OPTIMIZER = {"adam": (3.5e-4, 5e-4), "adamw": (3.5e-4, 0.01), "sgd": (0.02, 5e-4), "lamb": (1e-3, 0.01)}


@dataclass(kw_only=True)
class ReidConfig(Config):
    """The options of a run of re-identification as stated: those of classification, and its own."""

    task: ClassVar[str] = "reid"

    data: str | None = restated(
        Config,
        "data",
        text="the images: Market-1501's layout, or folders train/<identity>, query/<identity> and gallery/<identity>;"
        " see docs/re-identification.md",
        by_data="embedded figures, generated on first use",
    )
    epochs: int | None = restated(
        Config, "epochs", text="passes over the identities' images", by_data="20 embedded, 120 otherwise"
    )
    batch_size: int | None = restated(
        Config, "batch_size", text="images in a step, P × K", by_data="identities times images"
    )
    batch_identities: int = option(16, "P, different identities in a step, over all processes", low=2, high=2**16)
    batch_images: int = option(
        4, "K, images of each identity in a step; one with fewer repeats its own", low=1, high=2**16
    )
    method: str = restated(Config, "method", default="keep_random_erasing")
    image_size: tuple[int, int] | None = restated(  # type: ignore[assignment]
        Config,
        "image_size",
        text="height and width of the network's input in pixels",
        by_data="64 32 embedded, 256 128 otherwise",
        names=("HEIGHT", "WIDTH"),
    )
    optimizer: str = restated(Config, "optimizer", default="adam")
    lr: float | None = restated(
        Config,
        "lr",
        by_data="0.001 embedded; otherwise 0.00035 for 64 images in a step, of sgd 0.02, of lamb 0.001",
    )
    weight_decay: float | None = restated(Config, "weight_decay", by_data="5e-4; of adamw and lamb 0.01")
    lr_warmup_epochs: float = restated(Config, "lr_warmup_epochs", default=10.0)
    crop: str = restated(
        Config,
        "crop",
        default="pad",
        text="random crop of the training images: of the whole image, padded, or of a part that is resized",
        choices=("pad", "random_resized"),
    )
    padding: int | None = option(
        None, "pixels of zeros on each side, of --crop pad", low=0, high=16384,
        by_data="10 at a height of 256, in proportion",
    )  # fmt: skip
    last_stride: int | None = option(
        None,
        "stride of the model's last stage: 1, which keeps its resolution, or 2, the model as it is",
        low=1,
        high=2,
        by_data="1 for ResNets and small, otherwise the model's",
    )
    triplet_weight: float = option(
        1.0, "weight of the triplet loss, on the features before the neck; 0: classification alone", low=0
    )
    triplet_margin: float = option(
        0.3, "margin of the triplet loss, whose positives and negatives are the hardest", low=0
    )
    center_weight: float = option(
        0.0,
        "weight of the center loss, which draws features to the centre of their identity; 5e-4 in the recipe",
        low=0,
    )
    center_lr: float = option(0.5, "learning rate of the centres, by gradient descent without the weight", low=0)
    distance: str = option(
        "cosine", "distance of features after the neck, by which the gallery is ranked", choices=DISTANCES
    )

    def sizes(self) -> dict[str, str]:
        sizes = super().sizes()
        del sizes["--batch-size"]
        size = " ".join(map(str, self.image_size or ()))
        return {"--batch-identities": str(self.batch_identities)} | sizes | {"--image-size": size}

    def check(self) -> None:
        methods = [name for name, entry in METHODS.items() if entry.kind != TWO_IMAGES]
        if self.method not in methods:
            raise UserError(
                f"--method of re-identification must not mix two images, whose features have one identity; legal are"
                f" {', '.join(methods)}; got {self.method}"
            )
        for name in WITHOUT:
            if (value := getattr(self, name)) != getattr(Config, name):
                raise UserError(f"--{name.replace('_', '-')} is not for re-identification; got {value}")
        if self.batch_size not in (None, self.batch_identities * self.batch_images):
            raise UserError(
                "--batch-size is --batch-identities times --batch-images here,"
                f" {self.batch_identities} × {self.batch_images}; got {self.batch_size}: state these two"
            )
        if self.triplet_weight and self.batch_images < 2:
            raise UserError("--batch-images must be at least 2 for the triplet loss (--triplet-weight above 0); got 1")
        if not self.triplet_weight and self.triplet_margin != ReidConfig.triplet_margin:
            raise UserError(f"--triplet-margin has no effect with --triplet-weight 0; got {self.triplet_margin:g}")
        if not self.center_weight and self.center_lr != ReidConfig.center_lr:
            raise UserError(f"--center-lr has no effect without --center-weight; got {self.center_lr:g}")
        if self.crop != "pad" and self.padding is not None and not isinstance(self, ResolvedReidConfig):
            raise UserError(f"--padding is of --crop pad; got {self.padding} with --crop {self.crop}")

    def resolved_for(self, *, embedded: bool) -> "ResolvedReidConfig":
        """Return the configuration with every default but that of the saliency's scale, which the model decides.

        Args:
            embedded: whether the data is the embedded data set.
        """
        size, entry = self.image_size or (EMBEDDED_SIZE if embedded else USUAL_SIZE), METHODS[self.method]
        batch_size = self.batch_identities * self.batch_images
        rate, weight_decay = _BY_OPTIMIZER[self.optimizer]
        rate = self.lr_per_256 * batch_size / 256 if self.lr_per_256 else rate * batch_size / 64
        warmup_epochs = entry.build(num_classes=2).default_warmup_epochs
        by_data = {
            "image_size": size,
            "batch_size": batch_size,
            "policy": self.policy or entry.policy,
            "region_size": self.region_size or default_length(size),
            "warmup_epochs": warmup_epochs if self.warmup_epochs is None else self.warmup_epochs,
            "saliency": self.saliency or entry.saliency,
            "saliency_target": self.saliency_target or self.default_target,
            "saliency_scale": self.saliency_scale or entry.scale,
            "epochs": self.epochs or (20 if embedded else 120),
            "lr": self.lr or rate,
            "lr_per_256": None,
            "weight_decay": weight_decay if self.weight_decay is None else self.weight_decay,
            "crop_scale": self.crop_scale or (0.6, 1.0),
            "padding": round(size[0] * 10 / 256) if self.padding is None else self.padding,
        }
        return ResolvedReidConfig(**{name: getattr(self, name) for name in self.options()} | by_data)


# The options that others do not have.
OWN = [name for name in ReidConfig.options() if name not in Config.options()]


@dataclass(kw_only=True)
class ResolvedReidConfig(ResolvedConfig, ReidConfig):
    """The options of a run of re-identification once its data is known."""

    is_classifier: ClassVar[bool] = False  # of test images, whose identities are others

    epochs: int = required(ReidConfig, "epochs")
    batch_size: int = required(ReidConfig, "batch_size")
    lr: float = required(ReidConfig, "lr")
    weight_decay: float = required(ReidConfig, "weight_decay")
    image_size: tuple[int, int] = required(ReidConfig, "image_size")  # type: ignore[assignment]
    padding: int = required(ReidConfig, "padding")

    @property
    def size(self) -> tuple[int, int]:
        return self.image_size

    @property
    def size_in_words(self) -> str:
        return " ".join(map(str, self.image_size))

    def loading(self, *, train: bool) -> dict[str, Any]:
        return {"padding": self.padding} if train else {"val_crop": "squash"}
