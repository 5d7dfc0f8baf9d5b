"""The methods by name, as `--method` knows them: one line a method."""

from collections.abc import Callable
from typing import NamedTuple

from dali_salaug import (
    AttentiveCutMix,
    Augmented,
    Clean,
    CutMix,
    Cutout,
    FenceMask,
    GridMask,
    HideAndSeek,
    HybridMix,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    Method,
    Mixup,
    PuzzleMix,
    RandomErasing,
    ResizeMix,
    SalfMix,
    SaliencyCutout,
    SaliencyMix,
    SnapMix,
)
from train.config import Config
from train.errors import UserError


class Entry(NamedTuple):
    """What `--method NAME` means."""

    kind: str  # one of KINDS
    description: str
    source: str
    build: Callable[[Config, int], Method]  # the method object for SaliencyStage, given the number of classes
    policy: str | None = None  # the image-level augmentation that the loader applies, unless --policy names another
    saliency: str = "gradient"  # the map, unless --saliency names another; of the methods that use one
    target: str = "label"  # what the map is the gradient of, unless --saliency-target says otherwise
    scale: float = 0.5  # side of the map over that of the image, unless --saliency-scale says otherwise
    own_map: str = ""  # the map that the method makes itself, of the partners


KINDS = ("one image", "two images", "policy")
DEVRIES, ZHONG, YUN = "DeVries & Taylor 2017", "Zhong et al. 2020", "Yun et al. 2019"
AUTO, RAND, TRIVIAL = "Cubuk et al. 2019", "Cubuk et al. 2020", "Müller & Hutter 2021"
KEEP, SALF = "Gong et al. 2021 (KeepAugment)", "Choi et al. 2021 (SalfMix)"


def _augmented(config: Config, classes: int) -> Method:
    return Augmented()


def _keep_paste(config: Config, classes: int) -> Method:
    return KeepPaste(config.region_size, tau=config.tau)


def _puzzlemix(config: Config, classes: int) -> Method:
    blocks = tuple(n for n in (2, 4, 8, 16) if config.image_size is None or config.image_size % n == 0)
    if not blocks:
        raise UserError(f"--method puzzlemix needs an even --image-size; got {config.image_size}")
    return PuzzleMix(classes, blocks=blocks)


METHODS: dict[str, Entry] = {
    "none": Entry("one image", "the clean images", "", lambda config, classes: Clean()),
    "cutout": Entry(
        "one image",
        "a square at a random place set to zero",
        DEVRIES,
        lambda config, classes: Cutout(config.region_size),
    ),
    "keep_cutout": Entry(
        "one image",
        "Cutout that spares what is salient",
        KEEP,
        lambda config, classes: KeepCutout(config.region_size, tau=config.tau),
    ),
    "saliency_cutout": Entry(
        "one image",
        "the least salient patch set to zero",
        f"{SALF} §6.2",
        lambda config, classes: SaliencyCutout(),
        target="loss",
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
    "hide_and_seek": Entry(
        "one image",
        "a part of a grid's patches set to zero",
        "Singh et al. 2018",
        lambda config, classes: HideAndSeek(),
    ),
    "gridmask": Entry(
        "one image", "a turned grid of squares set to zero", "Chen et al. 2020", lambda config, classes: GridMask()
    ),
    "fencemask": Entry(
        "one image", "a turned fence of thin strips set to zero", "Li et al. 2020", lambda config, classes: FenceMask()
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
    "mixup": Entry(
        "two images", "a blend with a partner, labels too", "Zhang et al. 2018", lambda config, classes: Mixup(classes)
    ),
    "saliencymix": Entry(
        "two images",
        "a box around a partner's most salient point",
        "Uddin et al. 2021",
        lambda config, classes: SaliencyMix(classes),
        own_map="fine_grained",
    ),
    "resizemix": Entry(
        "two images",
        "a whole partner, made small, at a random place",
        "Qin et al. 2020",
        lambda config, classes: ResizeMix(classes),
    ),
    "attentive_cutmix": Entry(
        "two images",
        "a partner's most attentive cells",
        "Walawalkar et al. 2020",
        lambda config, classes: AttentiveCutMix(classes),
        saliency="grad_cam",
        scale=1.0,
    ),
    "snapmix": Entry(
        "two images",
        "a partner's box in another box, labels by the maps",
        "Huang et al. 2021",
        lambda config, classes: SnapMix(classes),
        saliency="grad_cam",
        scale=1.0,
    ),
    "puzzlemix": Entry(
        "two images",
        "blocks of both, chosen and moved by optimisation",
        "Kim et al. 2020",
        _puzzlemix,
        target="loss",
    ),
    "salfmix": Entry(
        "one image",
        "its most salient patch copied over its least",
        SALF,
        lambda config, classes: SalfMix(),
        target="loss",
    ),
    "salfmix_random": Entry(
        "one image",
        "SalfMix without saliency: two random patches",
        f"{SALF} §6.2",
        lambda config, classes: SalfMix(use_saliency=False),
    ),
    "hybridmix_v1": Entry(
        "two images", "SalfMix, then Mixup", SALF, lambda config, classes: HybridMix("mixup", classes), target="loss"
    ),
    "hybridmix_v2": Entry(
        "two images",
        "SalfMix, then SaliencyMix",
        SALF,
        lambda config, classes: HybridMix("saliencymix", classes),
        target="loss",
        own_map="fine_grained",
    ),
    "hybridmix_v3": Entry(
        "two images", "SalfMix, then CutMix", SALF, lambda config, classes: HybridMix("cutmix", classes), target="loss"
    ),
    "autoaugment": Entry("policy", "AutoAugment", AUTO, _augmented, "autoaugment"),
    "keep_autoaugment": Entry("policy", "AutoAugment, a salient square kept clean", KEEP, _keep_paste, "autoaugment"),
    "randaugment": Entry("policy", "RandAugment", RAND, _augmented, "randaugment"),
    "keep_randaugment": Entry("policy", "RandAugment, a salient square kept clean", KEEP, _keep_paste, "randaugment"),
    "trivialaugment": Entry("policy", "TrivialAugment", TRIVIAL, _augmented, "trivialaugment"),
    "keep_trivialaugment": Entry(
        "policy", "TrivialAugment, a salient square kept clean", KEEP, _keep_paste, "trivialaugment"
    ),
    "augmix": Entry("policy", "AugMix", "Hendrycks et al. 2020", _augmented, "augmix"),
    "keep_augmix": Entry("policy", "AugMix, a salient square kept clean", KEEP, _keep_paste, "augmix"),
}


def methods_table() -> str:
    """The methods as text, one a line: name, kind, the saliency that it uses, source, description."""
    rows = [("method", "kind", "saliency", "source", "what the network is given")]
    for name, entry in METHODS.items():
        maps = [entry.saliency] * entry.build(Config(), 10).uses_saliency + [entry.own_map] * bool(entry.own_map)
        rows.append((name, entry.kind, ", ".join(maps) or "none", entry.source, entry.description))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def policies() -> list[str]:
    """The names that `--policy` takes."""
    from pipelines import POLICIES

    return list(POLICIES)
