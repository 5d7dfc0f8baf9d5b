"""The methods by name, as `--method` knows them: one line a method."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from dali_salaug import (
    Augmented,
    Clean,
    CutMix,
    Cutout,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    Method,
    RandomErasing,
    SaliencyCutout,
)

if TYPE_CHECKING:
    from train.config import Config


class Entry(NamedTuple):
    """What `--method NAME` means."""

    kind: str  # one of KINDS
    description: str
    source: str
    build: "Callable[[Config, int], Method]"  # the method object for SaliencyStage, given the number of classes
    policy: str | None = None  # the image-level augmentation that the loader applies, unless --policy names another
    saliency: str = "gradient"  # the map, unless --saliency names another; of the methods that use one
    warmup_epochs: int = 0  # unless --warmup-epochs says otherwise


KINDS = ("one image", "two images", "policy")
DEVRIES, ZHONG, YUN = "DeVries & Taylor 2017", "Zhong et al. 2020", "Yun et al. 2019"
AUTO, RAND, TRIVIAL = "Cubuk et al. 2019", "Cubuk et al. 2020", "Müller & Hutter 2021"
KEEP = "Gong et al. 2021 (KeepAugment)"


def _augmented(config: "Config", classes: int) -> Method:
    return Augmented()


def _keep_paste(config: "Config", classes: int) -> Method:
    return KeepPaste(config.size, tau=config.tau)


METHODS: dict[str, Entry] = {
    "none": Entry("one image", "the clean images", "", lambda config, classes: Clean()),
    "cutout": Entry(
        "one image", "a square at a random place set to zero", DEVRIES, lambda config, classes: Cutout(config.size)
    ),
    "keep_cutout": Entry(
        "one image",
        "Cutout that spares what is salient",
        KEEP,
        lambda config, classes: KeepCutout(config.size, tau=config.tau),
    ),
    "saliency_cutout": Entry(
        "one image",
        "the least salient patch set to zero",
        "Choi et al. 2021 (SalfMix) §6.2",
        lambda config, classes: SaliencyCutout(),
    ),
    "random_erasing": Entry(
        "one image",
        "a rectangle of random size overwritten by noise",
        ZHONG,
        lambda config, classes: RandomErasing(),
    ),
    "keep_random_erasing": Entry(
        "one image",
        "Random Erasing that spares what is salient",
        KEEP,
        lambda config, classes: KeepRandomErasing(tau=config.tau),
    ),
    "cutmix": Entry(
        "two images", "a box replaced by a partner's, labels mixed", YUN, lambda config, classes: CutMix(classes)
    ),
    "keep_cutmix": Entry(
        "two images",
        "CutMix that cuts away only what is not salient",
        KEEP,
        lambda config, classes: KeepCutMix(classes, tau=config.tau),
    ),
    "autoaugment": Entry("policy", "AutoAugment", AUTO, _augmented, "autoaugment"),
    "keep_autoaugment": Entry("policy", "AutoAugment, a salient square kept clean", KEEP, _keep_paste, "autoaugment"),
    "randaugment": Entry("policy", "RandAugment", RAND, _augmented, "randaugment"),
    "keep_randaugment": Entry("policy", "RandAugment, a salient square kept clean", KEEP, _keep_paste, "randaugment"),
    "trivialaugment": Entry("policy", "TrivialAugment", TRIVIAL, _augmented, "trivialaugment"),
    "keep_trivialaugment": Entry(
        "policy", "TrivialAugment, a salient square kept clean", KEEP, _keep_paste, "trivialaugment"
    ),
}


def methods_table() -> str:
    """The methods as text, one a line: name, kind, the saliency that it uses, source, description."""
    from train.config import Config

    rows = [("method", "kind", "saliency", "source", "what the network is given")]
    for name, entry in METHODS.items():
        uses = entry.saliency if entry.build(Config(), 10).uses_saliency else "none"
        rows.append((name, entry.kind, uses, entry.source, entry.description))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def policies() -> list[str]:
    """The names that `--policy` takes."""
    from pipelines import POLICIES

    return list(POLICIES)
