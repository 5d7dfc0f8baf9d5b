"""The options of a run that trains a classifier."""

from dataclasses import dataclass
from typing import Any, ClassVar

from dali_salaug import METHODS
from dali_salaug.regions import default_length
from dali_salaug.remembering import MEMORY
from dali_salaug.saliency.maps import METHODS as SALIENCY_METHODS
from dali_salaug.saliency.maps import TARGETS
from pipelines.graph.crops import LEAST
from train.config.options import TASKS, of_name, option, required
from train.config.run import ResolvedRun, RunConfig

# Learning rate for 256 photographs in a step, and weight decay: of SGD as He et al. (2016) train ResNets; of Adam as
# Kingma & Ba (2015); of AdamW as DeiT (Touvron et al. 2021, table 9); of LAMB as ResNets in Wightman et al. (2021,
# procedure A3: 0.008 for 2048).
_BY_OPTIMIZER = {"sgd": (0.1, 1e-4), "adam": (1e-3, 0.0), "adamw": (2.5e-4, 0.05), "lamb": (1e-3, 0.02)}


@dataclass(kw_only=True)
class Config(RunConfig):
    """The options of a run as stated. None stands for "not stated"; :meth:`resolved` fills in what suits the data."""

    task: ClassVar[str] = "train"

    model: str = option(
        "small",
        "small, vit_small, a CIFAR form such as resnet18_cifar or wrn28_10, a torchvision classification model, or"
        " timm's",
    )
    method: str = option("keep_randaugment", "augmentation method, see below")
    pretrained: bool = option(
        False, "start from the published weights of a torchvision or timm model, which are downloaded once"
    )
    weights: str | None = option(
        None,
        "start from the weights of a run (its folder or best.pt), of an export (.safetensors), or of a state_dict"
        " (.pt, .pth, .safetensors); with other classes the head starts anew",
        by_data="random weights",
        path=True,
    )
    freeze_trunk: bool = option(False, "train the head alone; the rest keeps its weights and BatchNorm statistics")
    policy: str | None = option(
        None,
        "image-level policy in place of the method's own, where it uses one; see below, or a .yaml or .json file",
        by_data="the method's",
    )
    train_images: int | None = option(
        None, "use only this many training images, the first of each class, in equal shares", low=1, by_data="all"
    )
    held_out: int | None = option(
        None,
        "validate on this many training images, the first of each class, in equal shares, in place of the validation"
        " images; they are not trained on",
        low=1,
        by_data="none",
    )
    image_size: int | None = option(
        None,
        "side of the network's input in pixels",
        low=8,
        high=16384,
        by_data="that of --weights, or the only one that the model takes; else 48 embedded, else the first image's"
        " shorter side, at most 224",
    )
    layer_decay: float = option(
        1.0, "learning rate of a block over that of the block after it, in (0, 1]; the head has the full one", low=0,
        high=1,
    )  # fmt: skip
    label_smoothing: float = option(0.1, "share of the target spread over all classes", low=0, high=1)
    tau: float = option(0.6, "quantile τ that separates salient regions from the others", low=0, high=1)
    region_size: int | None = option(None, "side of the square region in pixels", low=1, by_data="12 + image size / 8")
    saliency: str | None = option(
        None,
        "method of the saliency map; memory: no pass of its own, the maps are remembered from the training steps",
        choices=(*SALIENCY_METHODS, MEMORY),
        by_data="the method's, gradient for most",
    )
    saliency_scale: float | None = option(
        None,
        "side of the saliency map relative to that of the image, in (0, 1]",
        low=0,
        high=1,
        by_data="the method's, 0.5 for most; 1 for a model that takes one size",
    )
    saliency_target: str | None = option(
        None, "scalar whose gradient is the saliency", choices=TARGETS, by_data="the method's, label for most"
    )
    memory_grid: int = option(
        16, "cells along each side of a remembered map, which takes a byte for each cell", low=1, high=256
    )
    memory_share: float = option(
        0.4, "weight of a new gradient in a remembered map, in (0, 1]; 1 keeps the last one alone", low=0, high=1
    )
    memory_max_age: int | None = option(
        None, "epochs after which a remembered map counts as never seen", low=1, by_data="it does not age"
    )
    memory_layer: str = option(
        "input",
        "whose gradient is remembered: input, the images'; first, that of the first convolution's output, which costs"
        " less; or the name of a module",
    )
    early_head: str = option(
        "off",
        "early classification head, for cheaper saliency: off, auto (after the model's first block), or the name of"
        " the module that it follows",
    )
    early_weight: float = option(0.3, "weight of the early head's loss, which is added to the network's", low=0)
    warmup_epochs: int | None = option(
        None,
        "epochs of clean images before the method starts",
        low=0,
        by_data="the method's: 1 for SalfMix and HybridMix, else 0",
    )
    consistency: tuple[float, float, float] | None = option(
        None,
        "train on the clean images and on what the method makes of them, with the saliency-consistency loss: weights of"
        " its class, invariance and saliency parts",
        low=0,
        by_data="off: train on what the method makes of the images alone",
        names=("ALPHA", "BETA", "GAMMA"),
    )
    consistency_scale: float = option(
        1.0, "side of the saliency-consistency loss's maps relative to that of the image, in (0, 1]", low=0, high=1
    )
    consistency_layers: tuple[str, ...] | None = option(
        None, "modules of the model whose outputs the invariance part compares", by_data="the logits", names=("NAME",)
    )
    crop: str = option("auto", "random crop of the training images", choices=("auto", "random_resized", "pad"))
    crop_scale: tuple[float, float] | None = option(
        None, "area of a random resized crop relative to that of the image: least, most", low=LEAST, high=1,
        by_data="0.6 1 embedded, 0.08 1 otherwise", names=("LEAST", "MOST"),
    )  # fmt: skip
    interpolation: str = option(
        "nearest", "interpolation of the policy's geometric operations", choices=("nearest", "linear")
    )
    cuda_graph: bool = option(False, "one CUDA graph for the whole saliency stage, on a GPU", free=True)

    @property
    def title(self) -> str:
        return f"{self.model}-{self.method}".replace("timm/", "")

    @property
    def default_target(self) -> str:
        """The scalar whose gradient is the saliency, where none is stated: the method's."""
        return METHODS[self.method].target

    def sizes(self) -> dict[str, str]:
        sizes = super().sizes() | {"--image-size": str(self.image_size)}
        if self.consistency is not None and self.consistency_scale > 0.5:
            sizes["--consistency-scale"] = ""
        if (self.saliency_scale or 0) > 0.5:
            sizes["--saliency-scale"] = ""
        return sizes

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
        stated = {name: getattr(self, name) for name in self.options()}
        by_data = {
            "image_size": image_size,
            "batch_size": batch_size,
            "policy": policy,
            "region_size": self.region_size or default_length((image_size, image_size)),
            "warmup_epochs": warmup_epochs if self.warmup_epochs is None else self.warmup_epochs,
            "saliency": self.saliency or entry.saliency,
            "saliency_target": self.saliency_target or self.default_target,
            "saliency_scale": self.saliency_scale or entry.scale,
            "epochs": self.epochs or (15 if embedded else 90 if photographs else 30),
            "lr": self.lr or scale * in_a_step / 256,
            "lr_per_256": None,
            "weight_decay": weight_decay if self.weight_decay is None else self.weight_decay,
            "crop_scale": self.crop_scale or ((0.6, 1.0) if embedded else (0.08, 1.0)),
        }
        return of_name(TASKS[self.task][0])(**stated | by_data)


@dataclass(kw_only=True)
class ResolvedConfig(ResolvedRun, Config):
    """The options of a run once its data is known.

    An option is None only where None has a meaning of its own, such as no policy, or all training images.
    """

    image_size: int = required(Config, "image_size")
    region_size: int = required(Config, "region_size")
    saliency: str = required(Config, "saliency")
    saliency_target: str = required(Config, "saliency_target")
    saliency_scale: float = required(Config, "saliency_scale")
    warmup_epochs: int = required(Config, "warmup_epochs")
    crop_scale: tuple[float, float] = required(Config, "crop_scale")

    is_classifier: ClassVar[bool] = True  # whether the network's outputs are the classes of images like these

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        return self.image_size, self.image_size

    @property
    def size_in_words(self) -> str:
        """The size as --image-size takes it."""
        return str(self.image_size)

    def loading(self, *, train: bool) -> dict[str, Any]:
        """Return arguments of `pipelines.image_loader` that other tasks do not have."""
        return {}

    @property
    def live_saliency(self) -> str:
        """The method of the live model's map; of a run with a memory, the gradient, which it remembers."""
        return "gradient" if self.saliency == MEMORY else self.saliency

    def passed(self, images: int) -> int:
        """Return how many images pass through the network for that many of the training loader."""
        return images

    def loaded(self, images: int) -> int:
        """Return how many images all loaders read for that many of the training loader."""
        return images
