"""The options of a run, on the command line and in config.yaml: each with its default and its help in one place."""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dali_salaug import METHODS
from dali_salaug.regions import default_length
from dali_salaug.remembering import MEMORY
from dali_salaug.saliency.maps import METHODS as SALIENCY_METHODS
from dali_salaug.saliency.maps import TARGETS
from pipelines.decoding import MAX_PIXELS
from pipelines.graph.crops import LEAST
from pipelines.readers.untrusted import read_bytes
from train.errors import UserError, first_line


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
    """Return a field of Config.

    Args:
        text: the help.
        choices: the legal values; None: not restricted to a few.
        low, high: the legal range.
        by_data: what a default of None stands for, in words.
        names: of a tuple's values in the help, one for each, or one for any number of them.
    """
    metadata = {"text": text, "choices": choices, "low": low, "high": high, "by_data": by_data, "names": names}
    return field(default=default, metadata=metadata)


C = TypeVar("C", bound="Config")

# Learning rate for 256 photographs in a step, and weight decay: of SGD as He et al. (2016) train ResNets; of AdamW as
# DeiT (Touvron et al. 2021, table 9); of LAMB as ResNets in Wightman et al. (2021, procedure A3: 0.008 for 2048).
_BY_OPTIMIZER = {"sgd": (0.1, 1e-4), "adamw": (2.5e-4, 0.05), "lamb": (1e-3, 0.02)}


def is_of(value: Any, annotation: Any) -> bool:
    """Return whether a value is of the type of an option; a whole number is a number too, but True is none."""
    if isinstance(annotation, types.UnionType):
        return any(is_of(value, part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        parts = typing.get_args(annotation)
        if not isinstance(value, tuple):
            return False
        if parts[-1] is Ellipsis:
            return len(value) > 0 and all(is_of(part, parts[0]) for part in value)
        return len(value) == len(parts) and all(map(is_of, value, parts))
    if isinstance(value, bool):
        return annotation is bool
    return isinstance(value, int | float if annotation is float else annotation)


# These may change with --resume, since the result does not depend on them: the loader checks that the data is the same,
# wherever it is. The number of epochs stretches or shortens the cosine from here on. What follows a bad file or a
# non-finite step, at which the run would have stopped, is the user's choice.
FREE_OPTIONS = (
    "out",
    "data",
    "val_data",
    "unlabelled",
    "workers",
    "device",
    "cuda_graph",
    "checkpoint_every",
    "keep_every",
    "epochs",
    "on_bad_file",
    "max_bad_share",
    "max_pixels",
    "hw_decoder_load",
    "decode_size_hint",
    "on_nonfinite",
    "accept_changed_data",
    "pictures_every",
)


@dataclass(kw_only=True)
class Config:
    """The options of a run as stated. None stands for "not stated"; :meth:`resolved` fills in what suits the data."""

    data: str | None = _option(
        None,
        "the images: a folder with train/<class>/* and val/<class>/*, CIFAR's pickles, shards, lists, s3://; see"
        " docs/data.md",
        by_data="the embedded data set, generated on first use",
    )
    val_data: str | None = _option(
        None,
        "validation images of another folder, in any layout of --data; classes agree by name",
        by_data="those of --data",
    )
    out: str | None = _option(None, "run folder, new unless --resume is used", by_data="runs/<time>-<model>-<method>")
    model: str = _option(
        "small", "small, a CIFAR form such as resnet18_cifar or wrn28_10, a torchvision classification model, or timm's"
    )
    method: str = _option("keep_randaugment", "augmentation method, see below")
    pretrained: bool = _option(
        False, "start from the published weights of a torchvision or timm model, which are downloaded once"
    )
    weights: str | None = _option(
        None,
        "start from the weights of a run (its folder or best.pt), of an export (.safetensors), or of a state_dict"
        " (.pt, .pth, .safetensors); with other classes the head starts anew",
        by_data="random weights",
    )
    freeze_trunk: bool = _option(False, "train the head alone; the rest keeps its weights and BatchNorm statistics")
    policy: str | None = _option(
        None,
        "image-level policy in place of the method's own, where it uses one; see below, or a .yaml or .json file",
        by_data="the method's",
    )
    train_images: int | None = _option(
        None, "use only this many training images, the first of each class, in equal shares", low=1, by_data="all"
    )
    epochs: int | None = _option(
        None, "passes over the training images", low=1, by_data="15 embedded, 30 for small images, 90 for photographs"
    )
    batch_size: int | None = _option(
        None, "images in a step, over all processes", low=1, high=2**31 - 1, by_data="32 embedded, 128 otherwise"
    )
    accumulate: int = _option(
        1, "parts into which a process splits its images of a step, one after the other, to save memory", low=1
    )
    drop_last: bool = _option(False, "leave out the last step of an epoch where it has fewer images than --batch-size")
    image_size: int | None = _option(
        None,
        "side of the network's input in pixels",
        low=8,
        high=16384,
        by_data="that of --weights, or the only one that the model takes; else 48 embedded, else the first image's"
        " shorter side, at most 224",
    )
    mean: tuple[float, float, float] | None = _option(
        None,
        "mean of the channels in the normalisation, for pixels in [0, 1]",
        low=0,
        high=1,
        by_data="that of --pretrained or --weights, else ImageNet's",
        names=("RED", "GREEN", "BLUE"),
    )
    std: tuple[float, float, float] | None = _option(
        None,
        "standard deviation of the channels in the normalisation, likewise",
        low=LEAST,
        high=1,
        by_data="that of --pretrained or --weights, else ImageNet's",
        names=("RED", "GREEN", "BLUE"),
    )
    optimizer: str = _option(
        "sgd", "optimizer: SGD with Nesterov momentum, AdamW, or timm's LAMB", choices=("sgd", "adamw", "lamb")
    )
    lr: float | None = _option(
        None,
        "peak learning rate",
        low=0,
        by_data="0.1 per 256 images of a step for photographs, of adamw 0.00025, of lamb 0.001; twice that for small"
        " images; a tenth to fine-tune all layers",
    )
    lr_per_256: float | None = _option(
        None,
        "peak learning rate for 256 images in a step, scaled in proportion to the batch size; replaces --lr",
        low=0,
        by_data="--lr",
    )
    layer_decay: float = _option(
        1.0, "learning rate of a block over that of the block after it, in (0, 1]; the head has the full one", low=0,
        high=1,
    )  # fmt: skip
    momentum: float = _option(0.9, "momentum of SGD (Nesterov)", low=0, high=1)
    weight_decay: float | None = _option(
        None,
        "weight decay, on weights, not on biases and normalisation",
        low=0,
        by_data="5e-4, 1e-4 for photographs; of adamw 0.05, of lamb 0.02",
    )
    label_smoothing: float = _option(0.1, "share of the target spread over all classes", low=0, high=1)
    lr_steps: tuple[int, ...] | None = _option(
        None, "epochs after which the learning rate is divided by 10", low=1, by_data="none: a half cosine down to 0"
    )
    lr_warmup_epochs: float = _option(1.0, "epochs of linear warm-up at the start", low=0)
    clip_grad: float | None = _option(
        None, "largest norm of all gradients together; larger ones are scaled down to it", low=0, by_data="no limit"
    )
    ema: float = _option(
        0.0,
        "decay of a running average of the weights, which then is validated and kept in their place; 0: no average",
        low=0,
        high=1,
    )
    tau: float = _option(0.6, "quantile τ that separates salient regions from the others", low=0, high=1)
    region_size: int | None = _option(None, "side of the square region in pixels", low=1, by_data="12 + image size / 8")
    saliency: str | None = _option(
        None,
        "method of the saliency map; memory: no pass of its own, the maps are remembered from the training steps",
        choices=(*SALIENCY_METHODS, MEMORY),
        by_data="the method's, gradient for most",
    )
    saliency_scale: float | None = _option(
        None,
        "side of the saliency map relative to that of the image, in (0, 1]",
        low=0,
        high=1,
        by_data="the method's, 0.5 for most; 1 for a model that takes one size",
    )
    saliency_target: str | None = _option(
        None, "scalar whose gradient is the saliency", choices=TARGETS, by_data="the method's, label for most"
    )
    memory_grid: int = _option(
        16, "cells along each side of a remembered map, which takes a byte for each cell", low=1, high=256
    )
    memory_share: float = _option(
        0.4, "weight of a new gradient in a remembered map, in (0, 1]; 1 keeps the last one alone", low=0, high=1
    )
    memory_max_age: int | None = _option(
        None, "epochs after which a remembered map counts as never seen", low=1, by_data="it does not age"
    )
    memory_layer: str = _option(
        "input",
        "whose gradient is remembered: input, the images'; first, that of the first convolution's output, which costs"
        " less; or the name of a module",
    )
    early_head: str = _option(
        "off",
        "early classification head, for cheaper saliency: off, auto (after the model's first block), or the name of"
        " the module that it follows",
    )
    early_weight: float = _option(0.3, "weight of the early head's loss, which is added to the network's", low=0)
    warmup_epochs: int | None = _option(
        None,
        "epochs of clean images before the method starts",
        low=0,
        by_data="the method's: 1 for SalfMix and HybridMix, else 0",
    )
    consistency: tuple[float, float, float] | None = _option(
        None,
        "train on the clean images and on what the method makes of them, with the saliency-consistency loss: weights of"
        " its class, invariance and saliency parts",
        low=0,
        by_data="off: train on what the method makes of the images alone",
        names=("ALPHA", "BETA", "GAMMA"),
    )
    consistency_scale: float = _option(
        1.0, "side of the saliency-consistency loss's maps relative to that of the image, in (0, 1]", low=0, high=1
    )
    consistency_layers: tuple[str, ...] | None = _option(
        None, "modules of the model whose outputs the invariance part compares", by_data="the logits", names=("NAME",)
    )
    labels: int | None = _option(
        None,
        "number of training images whose labels are used, as many of each class, drawn by --seed; all training images"
        " are unlabelled images too",
        low=1,
        by_data="800 embedded, otherwise all, and the unlabelled images are those of --unlabelled",
    )
    unlabelled: str | None = _option(
        None,
        "unlabelled images of another folder: in any layout of --data, or images alone; their labels are not used",
        by_data="all training images",
    )
    unlabelled_ratio: int = _option(7, "unlabelled images in a step for each labelled one", low=1, high=2**16)
    unlabelled_weight: float = _option(
        1.0, "weight λ of the consistency loss; 0: train on the labelled images alone, as often", low=0
    )
    pseudo_labels: str = _option(
        "soft",
        "target for the augmented image: the sharpened prediction of the clean one (UDA), or its class (FixMatch)",
        choices=("soft", "hard"),
    )
    temperature: float = _option(
        0.4, "temperature that sharpens soft pseudo-labels; 1: the prediction as it is", low=LEAST
    )
    confidence: float = _option(
        0.8, "greatest class probability above which an unlabelled image counts, in [0, 1)", low=0, high=1
    )
    training_signal_annealing: str = _option(
        "off",
        "leave out labelled images that are predicted with a probability above a threshold, which grows from 1/classes"
        " to 1 in this form",
        choices=("off", "linear", "log", "exp"),
    )
    crop: str = _option("auto", "random crop of the training images", choices=("auto", "random_resized", "pad"))
    crop_scale: tuple[float, float] | None = _option(
        None, "area of a random resized crop relative to that of the image: least, most", low=LEAST, high=1,
        by_data="0.6 1 embedded, 0.08 1 otherwise", names=("LEAST", "MOST"),
    )  # fmt: skip
    horizontal_flip: float = _option(
        0.5, "probability that a training image is mirrored left to right; 0 for digits and text", low=0, high=1
    )
    vertical_flip: float = _option(0.0, "probability that a training image is mirrored top to bottom", low=0, high=1)
    color_jitter: float = _option(
        0.0, "range of the changes of brightness, contrast and saturation, each a factor in 1 ± this", low=0, high=1
    )
    interpolation: str = _option(
        "nearest", "interpolation of the policy's geometric operations", choices=("nearest", "linear")
    )
    on_bad_file: str = _option(
        "raise",
        "reaction to an image that cannot be decoded: stop, or replace it with another",
        choices=("raise", "replace"),
    )
    max_bad_share: float = _option(
        0.1, "largest share of an epoch's images that may be replaced; more stop the run", low=0, high=1
    )
    max_pixels: int = _option(
        MAX_PIXELS,
        "a larger image counts as one that cannot be decoded; decoding takes 3 bytes a pixel",
        low=1,
        high=2**62,
    )
    workers: int | None = _option(
        None, "threads that decode and augment", low=1, high=1024, by_data="the number of CPUs"
    )
    seed: int = _option(0, "seed of weights, order, crops, policies and regions", low=0, high=2**62)
    device: str = _option("auto", "where to decode and train", choices=("auto", "cpu", "cuda"))
    amp: str = _option(
        "off",
        "automatic mixed precision of the model; float16 scales the gradients; the saliency pass then uses bfloat16",
        choices=("off", "bfloat16", "float16"),
    )
    compile: bool = _option(False, "torch.compile for the step and the saliency pass")
    cuda_graph: bool = _option(False, "one CUDA graph for the whole saliency stage, on a GPU")
    fused: bool = _option(False, "PyTorch's fused optimizer, one kernel for all weights")
    hw_decoder_load: float | None = _option(
        None,
        "share of a batch for a GPU's JPEG decoder, where there is one; CUDA kernels decode the rest",
        low=0,
        high=1,
        by_data="1 on an H100 or later, else 0.65",
    )
    decode_size_hint: tuple[int, int] | None = _option(
        None, "sides of the largest images in pixels, for which a GPU's decoders reserve memory at the start",
        low=1, high=65535,
        by_data="as images arrive", names=("WIDTH", "HEIGHT"),
    )  # fmt: skip
    validate_every: int = _option(1, "epochs between validations; the last epoch always ends with one", low=1)
    checkpoint_every: int = _option(0, "steps between checkpoints inside an epoch; 0: only after each epoch", low=0)
    keep_every: int = _option(
        0, "epochs between checkpoints that are kept, in checkpoints/; 0: none but last.pt and best.pt", low=0
    )
    on_nonfinite: str = _option(
        "stop",
        "reaction to a loss or gradients that are not finite: stop the run, or skip the step; nonfinite.jsonl lists the"
        " samples",
        choices=("stop", "skip"),
    )
    accept_changed_data: bool = _option(
        False, "with --resume, train on although images were changed, added or removed since the last checkpoint"
    )
    pictures_every: int = _option(
        0,
        "epochs between pictures of augmented samples, which are kept; 0: only the picture after the first and the last"
        " epoch, in one file",
        low=0,
    )

    @property
    def is_semi(self) -> bool:
        """Whether the run is semi-supervised: on labelled and unlabelled images."""
        return self.labels is not None or self.unlabelled is not None

    def resolved(
        self, *, side: int, embedded: bool, cifar: bool, images: int | None = None, model_side: int | None = None
    ) -> "ResolvedConfig":
        """Return the configuration with every default that the data or the method decides.

        Args:
            side: the shorter side of the data's first image, in pixels.
            embedded: whether the data is the embedded data set.
            cifar: whether the data is CIFAR.
            images: number of training images; None: at least as many as a batch has.
            model_side: side of the images that the model is made for; None: any.
        """
        image_size = self.image_size or model_side or (48 if embedded else min(side, 224))
        photographs, entry = image_size > 96, METHODS[self.method]
        batch_size = self.batch_size or (32 if embedded else 128)
        rate, weight_decay = _BY_OPTIMIZER[self.optimizer]
        if not photographs:
            rate, weight_decay = 2 * rate, 5e-4 if self.optimizer == "sgd" else weight_decay
        if (self.pretrained or self.weights) and not self.freeze_trunk:
            rate /= 10
        scale = self.lr_per_256 or rate  # of the learning rate, for 256 images in a step
        # A stated batch size may exceed the images by far, and its learning rate then explodes; the default's does not.
        in_a_step = min(batch_size, images) if self.batch_size and images and not self.lr_per_256 else batch_size
        policy = self.policy or entry.policy
        if cifar and self.policy is None and policy == "autoaugment":
            policy = "autoaugment_cifar10"  # the policy found on that data, as the KeepAugment paper uses it
        warmup_epochs = entry.build(num_classes=2).default_warmup_epochs
        stated = {option.name: getattr(self, option.name) for option in dataclasses.fields(self)}
        by_data = {
            "image_size": image_size,
            "batch_size": batch_size,
            "policy": policy,
            "region_size": self.region_size or default_length((image_size, image_size)),
            "warmup_epochs": warmup_epochs if self.warmup_epochs is None else self.warmup_epochs,
            "saliency": self.saliency or entry.saliency,
            "saliency_target": self.saliency_target or ("max" if self.is_semi else entry.target),
            "saliency_scale": self.saliency_scale or entry.scale,
            "epochs": self.epochs or (15 if embedded else 90 if photographs else 30),
            "lr": self.lr or scale * in_a_step / 256,
            "lr_per_256": None,
            "weight_decay": weight_decay if self.weight_decay is None else self.weight_decay,
            "crop_scale": self.crop_scale or ((0.6, 1.0) if embedded else (0.08, 1.0)),
        }
        return ResolvedConfig(**stated | by_data)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only, for YAML and checkpoints."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls: type[C], values: dict[str, Any]) -> C:
        """Return the configuration of :meth:`to_dict`.

        Raises:
            ValueError: `values` lacks an option, or has one that does not exist or is of another type.
        """
        if not isinstance(values, dict):
            raise ValueError(f"its configuration is a {type(values).__name__}")
        options = {option.name: option for option in dataclasses.fields(cls)}
        unknown = sorted(map(str, values.keys() - options.keys()))
        needed = [name for name, option in options.items() if option.default is dataclasses.MISSING]
        missing = [name for name in needed if name not in values]
        if unknown or missing:
            raise ValueError(
                f"its configuration {f'has an unknown {unknown[0]!r}' if unknown else f'lacks {missing[0]!r}'}"
            )
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        config = cls(**plain)
        wrong = config.of_wrong_type()
        if wrong is not None:
            raise ValueError(f"its configuration has {wrong} = {values[wrong]!r}")
        return config

    def of_wrong_type(self) -> str | None:
        """Return the name of the first option whose value is of another type than stated; None where all are right."""
        return next((o.name for o in dataclasses.fields(self) if not is_of(getattr(self, o.name), o.type)), None)


def _required(name: str) -> Any:
    """Return the same option of Config without its default."""
    (option,) = (option for option in dataclasses.fields(Config) if option.name == name)
    return field(metadata=option.metadata)


@dataclass(kw_only=True)
class ResolvedConfig(Config):
    """The options of a run once its data is known.

    An option is None only where None has a meaning of its own, such as no policy, or all training images.
    """

    image_size: int = _required("image_size")
    batch_size: int = _required("batch_size")
    region_size: int = _required("region_size")
    saliency: str = _required("saliency")
    saliency_target: str = _required("saliency_target")
    saliency_scale: float = _required("saliency_scale")
    warmup_epochs: int = _required("warmup_epochs")
    epochs: int = _required("epochs")
    lr: float = _required("lr")
    weight_decay: float = _required("weight_decay")
    crop_scale: tuple[float, float] = _required("crop_scale")

    @property
    def step_images(self) -> int:
        """Images of the training loader in a step, over all processes: the unlabelled ones where there are some."""
        return self.batch_size * (self.unlabelled_ratio if self.is_semi else 1)

    @property
    def live_saliency(self) -> str:
        """The method of the live model's map; of a run with a memory, the gradient, which it remembers."""
        return "gradient" if self.saliency == MEMORY else self.saliency

    @classmethod
    def load(cls: type[C], path: Path) -> C:
        """Return the configuration in a run's config.yaml.

        Raises:
            UserError: the file cannot be read, or is none.
        """
        try:
            return cls.from_dict(yaml.safe_load(read_bytes(path)))
        except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{path}: not the configuration of a run: {first_line(error)}") from error
