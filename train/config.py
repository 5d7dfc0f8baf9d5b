"""All options of a run, each with its default and its help in one place, on the command line and in config.yaml."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dali_salaug import METHODS
from dali_salaug.regions import default_length
from dali_salaug.saliency.maps import METHODS as SALIENCY_METHODS
from dali_salaug.saliency.maps import TARGETS


def _option(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    by_data: str | None = None,
    names: tuple[str, ...] = ("N",),
) -> Any:
    """A field of Config: `by_data` says what a default of None becomes when the data is known; `names` are those of a
    tuple's values in the help, one for each, or one for as many as are given."""
    metadata = {"text": text, "choices": choices, "low": low, "high": high, "by_data": by_data, "names": names}
    return field(default=default, metadata=metadata)


C = TypeVar("C", bound="Config")


@dataclass(kw_only=True)
class Config:
    """The options of a run as stated. None stands for "not stated"; `resolved` fills in what suits the data."""

    data: str | None = _option(
        None,
        "the images: a folder with train/<class>/* and val/<class>/*, CIFAR's pickles, shards, lists, s3://; see"
        " docs/data.md",
        by_data="the embedded data set, generated on first use",
    )
    out: str | None = _option(None, "run folder, new unless --resume is given", by_data="runs/<time>-<model>-<method>")
    model: str = _option(
        "small", "small, a CIFAR form such as resnet18_cifar or wrn28_10, a torchvision classification model, or timm's"
    )
    method: str = _option("keep_randaugment", "what is done to the images, see below")
    policy: str | None = _option(
        None,
        "image-level policy of the methods that use one, in place of their own; see below, or a .yaml or .json file",
        by_data="the method's",
    )
    train_images: int | None = _option(
        None, "use only so many training images, the first of each class, evenly", low=1, by_data="all"
    )
    epochs: int | None = _option(
        None, "times through the training images", low=1, by_data="15 embedded, 30 for small images, 90 for photographs"
    )
    batch_size: int | None = _option(
        None, "images in a step, over all processes", low=1, by_data="32 embedded, 128 otherwise"
    )
    accumulate: int = _option(
        1, "parts in which a process takes its images of a step, one after the other: for less memory", low=1
    )
    image_size: int | None = _option(
        None,
        "side of the network's input in pixels",
        low=8,
        by_data="48 embedded, else the first image's shorter side, at most 224",
    )
    lr: float | None = _option(
        None, "peak learning rate", low=0, by_data="0.1 per 128 images of a batch, 0.1 per 256 for photographs"
    )
    lr_per_256: float | None = _option(
        None,
        "peak learning rate for 256 images in a step, in proportion for more or fewer; in place of --lr",
        low=0,
        by_data="--lr",
    )
    momentum: float = _option(0.9, "of SGD (Nesterov)", low=0, high=1)
    weight_decay: float | None = _option(
        None, "on weights, not on biases and BatchNorm", low=0, by_data="5e-4, 1e-4 for photographs"
    )
    label_smoothing: float = _option(0.1, "share of the target spread over all classes", low=0, high=1)
    lr_steps: tuple[int, ...] | None = _option(
        None, "epochs after which the learning rate is divided by 10", low=1, by_data="none: a half cosine down to 0"
    )
    lr_warmup_epochs: float = _option(1.0, "epochs of linear warm-up at the start", low=0)
    clip_grad: float | None = _option(
        None, "scale gradients down to this norm, of all together, where it is larger", low=0, by_data="not"
    )
    ema: float = _option(
        0.0,
        "decay of a running average of the weights, which is then what is validated and kept; 0: none",
        low=0,
        high=1,
    )
    tau: float = _option(0.6, "quantile τ that separates the salient regions from the others", low=0, high=1)
    region_size: int | None = _option(None, "side of the square region in pixels", low=1, by_data="12 + image size / 8")
    saliency: str | None = _option(
        None, "method of the saliency map", choices=SALIENCY_METHODS, by_data="the method's, gradient for most"
    )
    saliency_scale: float | None = _option(
        None,
        "side of the saliency map over side of the image, in (0, 1]",
        low=0,
        high=1,
        by_data="the method's, 0.5 for most",
    )
    saliency_target: str | None = _option(
        None, "what the saliency is the gradient of", choices=TARGETS, by_data="the method's, label for most"
    )
    early_head: str = _option(
        "off",
        "early classification head, for cheaper saliency: off, auto (after the model's first block), or the name of"
        " the module it follows",
    )
    early_weight: float = _option(0.3, "of the early head's loss, added to the network's", low=0)
    warmup_epochs: int | None = _option(
        None,
        "epochs of clean images before the method starts",
        low=0,
        by_data="the method's: 1 for SalfMix and HybridMix, else 0",
    )
    consistency: tuple[float, float, float] | None = _option(
        None,
        "train on the clean images and on what the method makes of them, by the saliency-consistency loss: weights of"
        " its parts, class, invariance and saliency",
        low=0,
        by_data="off: on what the method makes of them alone",
        names=("ALPHA", "BETA", "GAMMA"),
    )
    consistency_scale: float = _option(
        1.0, "side of the maps of the saliency-consistency loss over side of the image, in (0, 1]", low=0, high=1
    )
    consistency_layers: tuple[str, ...] | None = _option(
        None, "modules of the model whose outputs invariance compares", by_data="the logits", names=("NAME",)
    )
    crop: str = _option("auto", "random crop of the training images", choices=("auto", "random_resized", "pad"))
    crop_scale: tuple[float, float] | None = _option(
        None, "area of a random resized crop over that of the image: least, most", low=0, high=1,
        by_data="0.6 1 embedded, 0.08 1 otherwise", names=("LEAST", "MOST"),
    )  # fmt: skip
    color_jitter: float = _option(
        0.0, "change of brightness, contrast and saturation, each a factor in 1 ± this", low=0, high=1
    )
    interpolation: str = _option("nearest", "of the policy's geometric operations", choices=("nearest", "linear"))
    on_bad_file: str = _option(
        "raise",
        "where an image cannot be decoded: stop, or go on with another one in its place",
        choices=("raise", "replace"),
    )
    max_bad_share: float = _option(
        0.1, "of the images of an epoch, at most so many may be replaced; more stop the run", low=0, high=1
    )
    workers: int | None = _option(None, "threads that decode and augment", low=1, by_data="the CPUs there are")
    seed: int = _option(0, "of weights, order, crops, policies and regions", low=0)
    device: str = _option("auto", "where to decode and train", choices=("auto", "cpu", "cuda"))
    amp: str = _option(
        "off",
        "automatic mixed precision of model and saliency pass; float16 with scaled gradients",
        choices=("off", "bfloat16", "float16"),
    )
    compile: bool = _option(False, "torch.compile for step and saliency pass")
    fused: bool = _option(False, "PyTorch's fused optimizer: one kernel for all weights")
    hw_decoder_load: float = _option(
        0.65,
        "share of a batch that a GPU's JPEG decoder takes, where there is one; CUDA kernels do the rest",
        low=0,
        high=1,
    )
    decode_size_hint: tuple[int, int] | None = _option(
        None, "the largest images' sides in pixels, for which a GPU's decoders take their memory at the start", low=1,
        by_data="as images come", names=("WIDTH", "HEIGHT"),
    )  # fmt: skip
    validate_every: int = _option(1, "epochs between validations; the last epoch always ends with one", low=1)
    checkpoint_every: int = _option(0, "steps between checkpoints inside an epoch; 0: only after each epoch", low=0)
    on_nonfinite: str = _option(
        "stop",
        "where loss or gradients are not finite, stop the run, or skip the step; the samples go to nonfinite.jsonl",
        choices=("stop", "skip"),
    )
    pictures_every: int = _option(
        0,
        "epochs between pictures of augmented samples, kept; 0: one after the first epoch and one after the last",
        low=0,
    )

    def resolved(self, *, side: int, embedded: bool, cifar: bool) -> "ResolvedConfig":
        """Return the configuration with every default that the data decides.

        Args:
            side: the shorter side of its first image, in pixels.
            embedded: it is the embedded data set.
            cifar: it is CIFAR.
        """
        image_size = self.image_size or (48 if embedded else min(side, 224))
        photographs, entry = image_size > 96, METHODS[self.method]
        batch_size = self.batch_size or (32 if embedded else 128)
        policy = self.policy or entry.policy
        if cifar and self.policy is None and policy == "autoaugment":
            policy = "autoaugment_cifar10"  # the policy found on that data, as the KeepAugment paper uses it
        stated = {option.name: getattr(self, option.name) for option in dataclasses.fields(self)}
        by_data = {
            "image_size": image_size,
            "batch_size": batch_size,
            "policy": policy,
            "region_size": self.region_size or default_length((image_size, image_size)),
            "saliency": self.saliency or entry.saliency,
            "saliency_target": self.saliency_target or entry.target,
            "saliency_scale": self.saliency_scale or entry.scale,
            "epochs": self.epochs or (15 if embedded else 90 if photographs else 30),
            "lr": self.lr or (self.lr_per_256 or (0.1 if photographs else 0.2)) * batch_size / 256,
            "lr_per_256": None,
            "weight_decay": (1e-4 if photographs else 5e-4) if self.weight_decay is None else self.weight_decay,
            "crop_scale": self.crop_scale or ((0.6, 1.0) if embedded else (0.08, 1.0)),
        }
        return ResolvedConfig(**stated | by_data)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only, for YAML and checkpoints."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls: type[C], values: dict[str, Any]) -> C:
        """Return the configuration of :meth:`to_dict`."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


@dataclass(kw_only=True)
class ResolvedConfig(Config):
    """The options of a run once its data is known: what the data decides is never None."""

    image_size: int
    batch_size: int
    region_size: int
    saliency: str
    saliency_target: str
    saliency_scale: float
    epochs: int
    lr: float
    weight_decay: float
    crop_scale: tuple[float, float]

    @classmethod
    def load(cls: type[C], path: Path) -> C:
        """Return the configuration in a run's config.yaml."""
        return cls.from_dict(yaml.safe_load(path.read_text()))
