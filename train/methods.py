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

    description: str
    policy: str | None  # the image-level augmentation that the loader applies, unless --policy names another
    build: "Callable[[Config, int], Method]"  # the method object for SaliencyStage, given the number of classes


def _clean(config: "Config", classes: int) -> Method:
    return Clean()


def _cutout(config: "Config", classes: int) -> Method:
    return Cutout(config.size)


def _keep_cutout(config: "Config", classes: int) -> Method:
    return KeepCutout(config.size, tau=config.tau)


def _augmented(config: "Config", classes: int) -> Method:
    return Augmented()


def _keep_paste(config: "Config", classes: int) -> Method:
    return KeepPaste(config.size, tau=config.tau)


def _saliency_cutout(config: "Config", classes: int) -> Method:
    return SaliencyCutout()


def _random_erasing(config: "Config", classes: int) -> Method:
    return RandomErasing()


def _keep_random_erasing(config: "Config", classes: int) -> Method:
    return KeepRandomErasing(tau=config.tau)


def _cutmix(config: "Config", classes: int) -> Method:
    return CutMix(classes)


def _keep_cutmix(config: "Config", classes: int) -> Method:
    return KeepCutMix(classes, tau=config.tau)


METHODS: dict[str, Entry] = {
    "none": Entry("the clean images", None, _clean),
    "cutout": Entry("a square at a random place set to zero", None, _cutout),
    "keep_cutout": Entry("Cutout that spares what is salient", None, _keep_cutout),
    "saliency_cutout": Entry("the least salient patch set to zero", None, _saliency_cutout),
    "random_erasing": Entry("a rectangle of random size overwritten by noise", None, _random_erasing),
    "keep_random_erasing": Entry("Random Erasing that spares what is salient", None, _keep_random_erasing),
    "cutmix": Entry("a box replaced by a partner's, labels mixed", None, _cutmix),
    "keep_cutmix": Entry("CutMix that cuts away only what is not salient", None, _keep_cutmix),
    "autoaugment": Entry("AutoAugment", "autoaugment", _augmented),
    "keep_autoaugment": Entry("AutoAugment, a salient square kept clean", "autoaugment", _keep_paste),
    "randaugment": Entry("RandAugment", "randaugment", _augmented),
    "keep_randaugment": Entry("RandAugment, a salient square kept clean", "randaugment", _keep_paste),
    "trivialaugment": Entry("TrivialAugment", "trivialaugment", _augmented),
    "keep_trivialaugment": Entry("TrivialAugment, a salient square kept clean", "trivialaugment", _keep_paste),
}


def policies() -> list[str]:
    """The names that `--policy` takes."""
    from pipelines import POLICIES

    return list(POLICIES)
