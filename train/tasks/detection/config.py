"""The options of a detection run."""

from dataclasses import dataclass
from typing import Any, ClassVar

from pipelines.detection import LONG_SIDE, SHORT_SIDES
from train.config.options import option, required, restated
from train.config.run import ResolvedRun, RunConfig
from train.errors import UserError
from train.models.registry import check_model
from train.tasks.detection.detectors import DETECTORS
from train.tasks.detection.metrics import check_installed

# Of the embedded scenes, at most 128 pixels on either side, for two cores.
EMBEDDED: dict[str, Any] = {
    "short_sides": (80, 88, 96),
    "long_side": 128,
    "pyramid_channels": 64,
    "proposals": 64,
    "batch_size": 8,
    "epochs": 9,
    "lr": 0.02,
    "weight_decay": 5e-4,
    "vertical_flip": 0.5,
}
_RATES = {"retinanet": 0.01}  # Detectron2's for 16 images in a step; of the others 0.02
_MOST = 16_384  # pixels


@dataclass(kw_only=True)
class DetectionConfig(RunConfig):
    """The options of a detection run as stated."""

    task: ClassVar[str] = "detect"

    data: str | None = restated(
        RunConfig,
        "data",
        text="the images and their boxes: a folder in Pascal VOC's or COCO's layout, or one with several of VOC's; see"
        " docs/detection.md",
        by_data="the embedded scenes, generated on first use",
    )
    more_data: tuple[str, ...] | None = option(
        None,
        "further folders, whose images are added to those of --data, such as another year of Pascal VOC",
        by_data="none",
        names=("DIR",),
        free=True,
        path=True,
    )
    train_split: str = option("train", "the list or the annotations of the training images, such as trainval")
    val_split: str = option("val", "the list or the annotations of the validation images, such as test")
    annotations: str | None = option(
        None,
        "annotations of the training images in COCO's form, a JSON file; --data then is the folder of these images",
        by_data="those in --data",
        free=True,
        path=True,
    )
    val_annotations: str | None = option(
        None,
        "annotations of the validation images in COCO's form, a JSON file; --val-data then is the folder of the images",
        by_data="those in --val-data or --data",
        free=True,
        path=True,
    )
    out: str | None = restated(RunConfig, "out", by_data="runs/<time>-<model>-<detector>")
    backbone: str | None = option(
        None,
        "weights of the backbone: a run of classification (its folder or best.pt), an export (.safetensors), or a"
        " state_dict (.pt, .pth, .safetensors)",
        by_data="random weights",
        path=True,
    )
    model: str = option(
        "small",
        "classifier that becomes the backbone: small, a CIFAR form such as resnet18_cifar, torchvision's or timm's; a"
        " run names its own",
    )
    detector: str = option(
        "fasterrcnn_fpn", "Faster R-CNN with a feature pyramid or on one feature map (C4), or RetinaNet",
        choices=DETECTORS,
    )  # fmt: skip
    trainable_layers: int | None = option(
        None,
        "stages of the backbone that are trained, from the last on; of a ResNet there are 5",
        low=0,
        by_data="3 with --backbone, all without",
    )
    batch_norm: str | None = option(
        None,
        "BatchNorm of the backbone: frozen, with the statistics and weights that it has, or trained",
        choices=("frozen", "trained"),
        by_data="frozen with --backbone, trained without",
    )
    pyramid_channels: int | None = option(
        None, "channels of the feature pyramid", low=1, high=4096, by_data="64 embedded, 256 otherwise"
    )
    proposals: int | None = option(
        None, "proposals in an image on which Faster R-CNN's classifier is trained", low=1, high=10**6,
        by_data="64 embedded, 512 otherwise",
    )  # fmt: skip
    short_sides: tuple[int, ...] | None = option(
        None,
        "shorter side of the images in pixels: one of these, drawn for each training image, and the last in validation",
        low=8,
        high=_MOST,
        by_data=f"80 88 96 embedded, {' '.join(map(str, SHORT_SIDES))} otherwise",
    )
    long_side: int | None = option(
        None, "the most that the longer side may have in pixels", low=8, high=_MOST,
        by_data=f"128 embedded, {LONG_SIDE} otherwise",
    )  # fmt: skip
    iterations: int | None = option(
        None,
        "steps of the whole run, a multiple of --epochs, which then have as many steps each: the passes over the images"
        " continue from epoch to epoch",
        low=1,
        by_data="those of --epochs passes",
    )
    train_images: int | None = option(None, "use only the first training images, this many", low=1, by_data="all")
    epochs: int | None = restated(
        RunConfig,
        "epochs",
        text="passes over the training images; with --iterations, parts of the run, each with a validation",
        by_data="9 embedded, 26 otherwise",
    )
    batch_size: int | None = restated(RunConfig, "batch_size", by_data="8 embedded, 16 otherwise")
    lr: float | None = restated(
        RunConfig,
        "lr",
        by_data="0.02 embedded; otherwise 0.02 for 16 images in a step, of RetinaNet 0.01, in proportion",
    )
    mean: tuple[float, float, float] | None = restated(RunConfig, "mean", by_data="that of --backbone, else ImageNet's")
    std: tuple[float, float, float] | None = restated(RunConfig, "std", by_data="that of --backbone, else ImageNet's")
    weight_decay: float | None = restated(RunConfig, "weight_decay", by_data="5e-4 embedded, else 1e-4")
    vertical_flip: float | None = restated(  # type: ignore[assignment] # None until the data is known
        RunConfig, "vertical_flip", default=None, by_data="0.5 embedded, 0.0 otherwise"
    )

    @property
    def title(self) -> str:
        return f"{self.model}-{self.detector}".replace("timm/", "")

    def sizes(self) -> dict[str, str]:
        return super().sizes() | {"--short-sides": "", "--proposals": str(self.proposals)}

    def check(self) -> None:
        check_installed()
        check_model(self.model)
        if self.lr_per_256 is not None:
            raise UserError(
                f"--lr-per-256 is not for detection, whose batches are small: use --lr; got {self.lr_per_256:g}"
            )
        for name in ("compile", "color_jitter"):
            if getattr(self, name):
                raise UserError(f"--{name.replace('_', '-')} is not for detection; got {getattr(self, name)}")
        if self.data is None and (self.more_data or self.annotations):
            raise UserError("--more-data and --annotations need --data; got no --data")
        if self.annotations is not None and self.more_data:
            raise UserError("--annotations is for the images of one folder: it does not go with --more-data")
        if self.annotations is not None and self.val_annotations is None and self.val_data is None:
            raise UserError(
                "--annotations needs validation images too: --val-annotations, and --val-data where they are"
            )
        if self.short_sides and self.long_side and self.long_side < min(self.short_sides):
            raise UserError(f"--long-side must be at least {min(self.short_sides)}, a short side; got {self.long_side}")
        if self.iterations is not None and self.epochs is not None and self.iterations % self.epochs:
            raise UserError(
                f"--iterations must be a multiple of --epochs, the number of validations; got {self.iterations} with"
                f" {self.epochs}"
            )

    def resolved(self, mean: Any, std: Any) -> "ResolvedDetectionConfig":
        """Return the configuration with the defaults that the data decides.

        Args:
            mean, std: of the backbone's weights; None: not known.
        """
        stated = {name: getattr(self, name) for name in self.options()}
        batch_size = self.batch_size or (EMBEDDED["batch_size"] if self.data is None else 16)
        by_data: dict[str, Any] = {
            "short_sides": SHORT_SIDES,
            "long_side": LONG_SIDE,
            "pyramid_channels": 256,
            "proposals": 512,
            "batch_size": batch_size,
            "epochs": 26,
            "lr": _RATES.get(self.detector, 0.02) * batch_size / 16,
            "weight_decay": 1e-4,
            "vertical_flip": 0.0,
        }
        if self.data is None:
            by_data |= EMBEDDED | {"batch_size": batch_size}
        defaults = {name: value for name, value in by_data.items() if stated[name] is None}
        if stated["trainable_layers"] is None and self.backbone:
            defaults["trainable_layers"] = 3
        defaults["batch_norm"] = self.batch_norm or ("frozen" if self.backbone else "trained")
        defaults |= {"mean": self.mean or mean, "std": self.std or std, "lr_per_256": None}
        return ResolvedDetectionConfig(**stated | defaults)


@dataclass(kw_only=True)
class ResolvedDetectionConfig(ResolvedRun, DetectionConfig):
    """The options of a detection run once its data is known.

    An option is None only where None has a meaning of its own, such as all stages of the backbone.
    """

    short_sides: tuple[int, ...] = required(DetectionConfig, "short_sides")
    long_side: int = required(DetectionConfig, "long_side")
    pyramid_channels: int = required(DetectionConfig, "pyramid_channels")
    proposals: int = required(DetectionConfig, "proposals")
    batch_norm: str = required(DetectionConfig, "batch_norm")
    epochs: int = required(DetectionConfig, "epochs")
    batch_size: int = required(DetectionConfig, "batch_size")
    lr: float = required(DetectionConfig, "lr")
    weight_decay: float = required(DetectionConfig, "weight_decay")
    vertical_flip: float = required(DetectionConfig, "vertical_flip")

    def samples(self, images: int) -> int:
        """Return the number of samples that the training loader has in an epoch.

        Args:
            images: of the training data.
        """
        return images if self.iterations is None else self.iterations // self.epochs * self.step_images
