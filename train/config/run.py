"""The options that the runs of all tasks have."""

from dataclasses import dataclass

from pipelines.decoding import MAX_PIXELS
from pipelines.graph.crops import LEAST
from train.config.options import Options, option, required


@dataclass(kw_only=True)
class RunConfig(Options):
    """The options of a run as stated. None stands for "not stated".

    Those that are free may change with --resume, since the result does not depend on them: the loader checks that the
    data is the same, wherever it is. The number of epochs stretches or shortens the cosine from there on. What follows
    a bad file or a non-finite step, at which the run would have stopped, is the user's choice.
    """

    data: str | None = option(
        None,
        "the images: a folder with train/<class>/* and val/<class>/*, CIFAR's pickles, shards, lists, s3://; see"
        " docs/data.md",
        by_data="the embedded data set, generated on first use",
        free=True,
        path=True,
    )
    val_data: str | None = option(
        None,
        "validation images of another folder, in any layout of --data; classes agree by name",
        by_data="those of --data",
        free=True,
        path=True,
    )
    out: str | None = option(
        None, "run folder, new unless --resume is used", by_data="runs/<time>-<model>-<method>", free=True
    )
    epochs: int | None = option(
        None,
        "passes over the training images",
        low=1,
        by_data="15 embedded, 30 for small images, 90 for photographs",
        free=True,
    )
    batch_size: int | None = option(
        None, "images in a step, over all processes", low=1, high=2**31 - 1, by_data="32 embedded, 128 otherwise"
    )
    accumulate: int = option(
        1, "parts into which a process splits its images of a step, one after the other, to save memory", low=1
    )
    drop_last: bool = option(False, "leave out the last step of an epoch where it has fewer images than --batch-size")
    mean: tuple[float, float, float] | None = option(
        None,
        "mean of the channels in the normalisation, for pixels in [0, 1]",
        low=0,
        high=1,
        by_data="that of --pretrained or --weights, else ImageNet's",
        names=("RED", "GREEN", "BLUE"),
    )
    std: tuple[float, float, float] | None = option(
        None,
        "standard deviation of the channels in the normalisation, likewise",
        low=LEAST,
        high=1,
        by_data="that of --pretrained or --weights, else ImageNet's",
        names=("RED", "GREEN", "BLUE"),
    )
    optimizer: str = option(
        "sgd", "optimizer: SGD with Nesterov momentum, AdamW, or timm's LAMB", choices=("sgd", "adamw", "lamb")
    )
    lr: float | None = option(
        None,
        "peak learning rate",
        low=0,
        by_data="0.1 per 256 images of a step for photographs, of adamw 0.00025, of lamb 0.001; twice that for small"
        " images; a tenth to fine-tune all layers",
    )
    lr_per_256: float | None = option(
        None,
        "peak learning rate for 256 images in a step, scaled in proportion to the batch size; replaces --lr",
        low=0,
        by_data="--lr",
    )
    momentum: float = option(0.9, "momentum of SGD (Nesterov)", low=0, high=1)
    weight_decay: float | None = option(
        None,
        "weight decay, on weights, not on biases and normalisation",
        low=0,
        by_data="5e-4, 1e-4 for photographs; of adamw 0.05, of lamb 0.02",
    )
    lr_steps: tuple[int, ...] | None = option(
        None, "epochs after which the learning rate is divided by 10", low=1, by_data="none: a half cosine down to 0"
    )
    lr_warmup_epochs: float = option(1.0, "epochs of linear warm-up at the start", low=0)
    clip_grad: float | None = option(
        None, "largest norm of all gradients together; larger ones are scaled down to it", low=0, by_data="no limit"
    )
    ema: float = option(
        0.0,
        "decay of a running average of the weights, which then is validated and kept in their place; 0: no average",
        low=0,
        high=1,
    )
    horizontal_flip: float = option(
        0.5, "probability that a training image is mirrored left to right; 0 for digits and text", low=0, high=1
    )
    vertical_flip: float = option(0.0, "probability that a training image is mirrored top to bottom", low=0, high=1)
    color_jitter: float = option(
        0.0, "range of the changes of brightness, contrast and saturation, each a factor in 1 ± this", low=0, high=1
    )
    on_bad_file: str = option(
        "raise",
        "reaction to an image that cannot be decoded: stop, or replace it with another",
        choices=("raise", "replace"),
        free=True,
    )
    max_bad_share: float = option(
        0.1, "largest share of an epoch's images that may be replaced; more stop the run", low=0, high=1, free=True
    )
    max_pixels: int = option(
        MAX_PIXELS,
        "a larger image counts as one that cannot be decoded; decoding takes 3 bytes a pixel",
        low=1,
        high=2**62,
        free=True,
    )
    workers: int | None = option(
        None, "threads that decode and augment", low=1, high=1024, by_data="the number of CPUs", free=True
    )
    seed: int = option(0, "seed of weights, order, crops, policies and regions", low=0, high=2**62)
    device: str = option("auto", "where to decode and train", choices=("auto", "cpu", "cuda"), free=True)
    amp: str = option(
        "off",
        "automatic mixed precision of the model; float16 scales the gradients; the saliency pass then uses bfloat16",
        choices=("off", "bfloat16", "float16"),
    )
    compile: bool = option(False, "torch.compile for the step and the saliency pass")
    fused: bool = option(False, "PyTorch's fused optimizer, one kernel for all weights")
    hw_decoder_load: float | None = option(
        None,
        "share of a batch for a GPU's JPEG decoder, where there is one; CUDA kernels decode the rest",
        low=0,
        high=1,
        by_data="1 on an H100 or later, else 0.65",
        free=True,
    )
    decode_size_hint: tuple[int, int] | None = option(
        None,
        "sides of the largest images in pixels, for which a GPU's decoders reserve memory at the start",
        low=1,
        high=65535,
        by_data="as images arrive",
        names=("WIDTH", "HEIGHT"),
        free=True,
    )
    validate_every: int = option(1, "epochs between validations; the last epoch always ends with one", low=1)
    checkpoint_every: int = option(
        0, "steps between checkpoints inside an epoch; 0: only after each epoch", low=0, free=True
    )
    keep_every: int = option(
        0,
        "epochs between checkpoints that are kept, in checkpoints/; 0: none but last.pt and best.pt",
        low=0,
        free=True,
    )
    on_nonfinite: str = option(
        "stop",
        "reaction to a loss or gradients that are not finite: stop the run, or skip the step; nonfinite.jsonl lists the"
        " samples",
        choices=("stop", "skip"),
        free=True,
    )
    accept_changed_data: bool = option(
        False,
        "with --resume, train on although images were changed, added or removed since the last checkpoint",
        free=True,
    )
    pictures_every: int = option(
        0,
        "epochs between pictures of augmented samples, which are kept; 0: only the picture after the first and the last"
        " epoch, in one file",
        low=0,
        free=True,
    )

    def check(self) -> None:
        """Raise UserError where an option of the task is illegal, alone or with the others."""

    @property
    def title(self) -> str:
        """What is trained, for the name of the run's folder."""
        raise NotImplementedError

    def sizes(self) -> dict[str, str]:
        """Return the options to lower where memory is short, each with its value where that is worth a word, or ""."""
        return {"--batch-size": str(self.batch_size)}


@dataclass(kw_only=True)
class ResolvedRun(RunConfig):
    """The options of a run once its data is known."""

    epochs: int = required(RunConfig, "epochs")
    batch_size: int = required(RunConfig, "batch_size")
    lr: float = required(RunConfig, "lr")
    weight_decay: float = required(RunConfig, "weight_decay")

    @property
    def step_images(self) -> int:
        """Images of the training loader in a step, over all processes."""
        return self.batch_size

    def samples(self, images: int) -> int:
        """Return the number of samples that the training loader has in an epoch.

        Args:
            images: of the training data.
        """
        return images
