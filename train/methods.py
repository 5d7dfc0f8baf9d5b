"""The methods by name, as `--method` knows them: one line a method."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from dali_salaug import Augmented, Clean, Cutout, KeepCutout, KeepPaste, Method

if TYPE_CHECKING:
    from train.config import Config


class Entry(NamedTuple):
    """What `--method NAME` means."""

    description: str
    policy: str | None  # the image-level augmentation that the loader applies, unless --policy names another
    build: "Callable[[Config], Method]"  # gives the method object for SaliencyStage


def _clean(config: "Config") -> Method:
    return Clean()


def _cutout(config: "Config") -> Method:
    return Cutout(config.size)


def _keep_cutout(config: "Config") -> Method:
    return KeepCutout(config.size, tau=config.tau)


def _augmented(config: "Config") -> Method:
    return Augmented()


def _keep_paste(config: "Config") -> Method:
    return KeepPaste(config.size, tau=config.tau)


METHODS: dict[str, Entry] = {
    "none": Entry("the clean images", None, _clean),
    "cutout": Entry("a square at a random place set to zero", None, _cutout),
    "keep_cutout": Entry("Cutout that spares what is salient", None, _keep_cutout),
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
