"""The experiments as data: their conditions and sizes."""

from typing import Any, NamedTuple

from train.config import Config
from train.experiments.comparison import Condition
from train.tasks.reid.config import ReidConfig
from train.tasks.semi.config import SemiConfig


class Experiment(NamedTuple):
    """A table as data. Its sizes are defaults, with which all of it takes about `duration`."""

    description: str
    conditions: tuple[Condition, ...]
    epochs: int
    train_images: int
    seeds: int
    duration: str
    published: str | None  # how the published figures were measured; None where there are none
    further: tuple[tuple[str, str], ...] = ()  # conditions to compare beside each with its baseline
    config: type[Config] = Config  # of the task that its runs are of


def _keepaugment() -> tuple[Condition, ...]:
    prices: dict[str, dict[str, Any]] = {
        "full": {"saliency_scale": 1.0},
        "low": {"saliency_scale": 0.5},
        "early": {"saliency_scale": 1.0, "early_head": "auto"},
        "both": {"saliency_scale": 0.5, "early_head": "auto"},
    }
    # KeepAugment, tables 1 and 2: ResNet-18. The authors tried the cheaper maps at length 16 only.
    published = {"full-16": 96.1, "low-16": 96.2, "early-16": 96.0, "full-20": 96.0}
    conditions = [Condition("none", {"method": "none"})]
    for size, figure in ((16, 95.6), (20, 95.5)):
        cutout = f"cutout-{size}"
        conditions.append(Condition(cutout, {"method": "cutout", "region_size": size}, "none", figure))
        for price, options in prices.items():
            options = {"method": "keep_cutout", "region_size": size, **options}
            name = f"{price}-{size}"
            conditions.append(Condition(f"keep_cutout-{name}", options, cutout, published.get(name)))
    # The effect of the early head's loss, without its map.
    control = {"method": "cutout", "region_size": 16, "early_head": "auto"}
    conditions.append(Condition("cutout-16-early-head", control, "cutout-16"))
    conditions.append(Condition("randaugment", {"method": "randaugment"}, "none"))
    for size in (16, 20):
        paste = {"method": "keep_randaugment", "region_size": size, "saliency_scale": 0.5}
        conditions.append(Condition(f"keep_randaugment-low-{size}", paste, "randaugment"))
    return tuple(conditions)


def _salfmix() -> tuple[Condition, ...]:
    # Each method with saliency against the same without, each combination against the method that it extends. SalfMix,
    # table 4: 100 minus the top-1 error of PreActResNet-18.
    rows = [
        ("none", None, 94.83),
        ("cutout", "none", 95.70),
        ("salfmix_random", "none", None),
        ("salfmix", "salfmix_random", 95.86),
        ("mixup", "none", 95.90),
        ("saliencymix", "none", 96.20),
        ("cutmix", "none", 96.04),
        ("hybridmix_v1", "mixup", 96.15),
        ("hybridmix_v2", "saliencymix", 96.26),
        ("hybridmix_v3", "cutmix", 96.62),
    ]
    return tuple(Condition(name, {"method": name}, baseline, published) for name, baseline, published in rows)


def _consistency() -> tuple[Condition, ...]:
    # Each transformation with the class loss of images and copies alone, and with the saliency loss too.
    transformations: dict[str, tuple[str, dict[str, Any]]] = {
        "flips_rotation": (
            "--policy=flips_rotation",
            {"method": "randaugment", "policy": "flips_rotation", "interpolation": "linear"},
        ),
        "cutout": ("--method=cutout", {"method": "cutout"}),
    }
    conditions = []
    for name, (transformation, options) in transformations.items():
        measured = ("agreement", transformation)
        reference = f"{name}-class"
        for loss, weights, baseline in (("class", (1, 0, 0), None), ("saliency", (1, 0, 1), reference)):
            options = options | {"consistency": weights}
            conditions.append(Condition(f"{name}-{loss}", options, baseline, measured=measured))
    return tuple(conditions)


PRICES = ("prices", "--images=500")
MAPS: dict[str, dict[str, Any]] = {  # of the experiment "memory"
    "full": {"saliency_scale": 1.0},
    "half": {"saliency_scale": 0.5},
    "early-half": {"saliency_scale": 0.5, "early_head": "auto"},
    "memory": {"saliency": "memory"},
}


def _memory() -> tuple[Condition, ...]:
    conditions = [Condition("none", {"method": "none"})]
    for plain, keep in (("cutout", "keep_cutout"), ("randaugment", "keep_randaugment")):
        conditions.append(Condition(plain, {"method": plain}, "none"))
        for price, options in MAPS.items():
            options = {"method": keep, **options}
            if (keep, price) == ("keep_cutout", "memory"):  # whose maps are measured after every epoch
                options["keep_every"] = 1
            measured = PRICES if price in ("early-half", "memory") else ()
            conditions.append(Condition(f"{keep}-{price}", options, plain, measured=measured))
    layer = {"method": "keep_cutout", "saliency": "memory", "memory_layer": "first"}
    conditions.append(Condition("keep_cutout-memory-first", layer, "keep_cutout-memory", measured=PRICES))
    for name, values in (("grid", (7, 14, 28)), ("share", (0.2, 1.0))):  # of 16 and 0.4
        for value in values:
            options = {"method": "keep_cutout", "saliency": "memory", f"memory_{name}": value}
            variant = f"keep_cutout-memory-{name}-{value}"
            conditions.append(Condition(variant, options, "keep_cutout-memory", measured=PRICES, seeds=3))
    return tuple(conditions)


def _semi() -> tuple[Condition, ...]:
    # KeepAugment §4.3 compares UDA with either, for 2,500 and 4,000 labels. The same steps in each row.
    shared = {"batch_size": 16, "lr": 0.03, "label_smoothing": 0.0, "ema": 0.99, "confidence": 0.8}
    conditions = []
    for labels in (250, 1000):
        options = shared | {"labels": labels}
        alone, plain = f"{labels}-supervised", f"{labels}-randaugment"
        conditions.append(Condition(alone, options | {"method": "randaugment", "unlabelled_weight": 0.0}))
        conditions.append(Condition(plain, options | {"method": "randaugment"}, alone))
        conditions.append(Condition(f"{labels}-keep_randaugment", options | {"method": "keep_randaugment"}, plain))
    return tuple(conditions)


def _reid() -> tuple[Condition, ...]:
    # KeepAugment §4.4 and table 10 compare these two on Market-1501. Luo et al. 2019 begin without.
    shared = {"lr": 1e-3, "lr_warmup_epochs": 2.0}  # as the program has them with the embedded figures
    rows = (("none", None, None), ("random_erasing", "none", 87.1), ("keep_random_erasing", "random_erasing", 87.4))
    return tuple(
        Condition(method, shared | {"method": method}, baseline, published) for method, baseline, published in rows
    )


# An hour on two cores. The plain network does not overfit in so little training (its final losses on training and other
# images are alike), so that augmentation can hardly raise accuracy; methods may still be compared.
SMALL_RUNS: dict[str, Any] = {"epochs": 30, "train_images": 5_000, "seeds": 3}

EXPERIMENTS = {
    "keepaugment": Experiment(
        "Cutout and RandAugment against their Keep forms, at two lengths; the map at each cost (KeepAugment §3.1)",
        _keepaugment(),
        **SMALL_RUNS,
        duration="an hour on two CPU cores (AMD EPYC, CIFAR-10)",
        published="KeepAugment, tables 1 and 2: test accuracy of ResNet-18 on CIFAR-10 after 300 epochs of all 50,000"
        " training images. Compare the differences, not the levels, with those of smaller runs.",
    ),
    "salfmix": Experiment(
        "SalfMix with and without saliency, HybridMix and the two-image methods that it extends",
        _salfmix(),
        **SMALL_RUNS,
        duration="three quarters of an hour on two CPU cores (AMD EPYC, CIFAR-10)",
        published="SalfMix, table 4: test accuracy of PreActResNet-18 on CIFAR-10 after 300 epochs of all 50,000"
        " training images. Compare the differences, not the levels, with those of smaller runs.",
    ),
    "consistency": Experiment(
        "flips and rotation, and Cutout: the class loss of images and copies against class + saliency",
        _consistency(),
        epochs=20,
        train_images=5_000,
        seeds=3,
        duration="half an hour on two CPU cores (AMD EPYC, CIFAR-10)",
        published="Saliency Map Based Data Augmentation, table 1, compares the same losses on ResNet-18 with CIFAR-10"
        " enlarged to 224×224; the table has none of its figures.",
    ),
    "semi": Experiment(
        "250 and 1,000 labels: alone, and with unlabelled images by UDA with RandAugment and with KeepRandAugment",
        _semi(),
        epochs=12,
        train_images=10_000,
        seeds=5,
        duration="three quarters of an hour on two CPU cores (AMD EPYC, CIFAR-10)",
        published="KeepAugment §4.3: UDA of WRN-28-2 on CIFAR-10 has 95.1 % with 4,000 labels, 95.4 % with"
        " KeepRandAugment; 91.2 % and 92.4 % with 2,500. Compare the differences, not the levels.",
        further=tuple((f"{labels}-keep_randaugment", f"{labels}-supervised") for labels in (250, 1000)),
        config=SemiConfig,
    ),
    "reid": Experiment(
        "re-identification of the embedded figures without erasing, with Random Erasing, and with KeepRandomErasing",
        _reid(),
        epochs=20,
        train_images=0,
        seeds=5,
        duration="a quarter of an hour on two CPU cores (AMD EPYC, the embedded figures)",
        published="KeepAugment, table 10: mAP of ResNet-101 on Market-1501. Rank-1 is 94.5 % and 95.0 %. Compare the"
        " differences, not the levels.",
        further=(("keep_random_erasing", "none"),),
        config=ReidConfig,
    ),
    "memory": Experiment(
        "KeepCutout and KeepRandAugment with each price of the map, and the grid and the share of a remembered one",
        _memory(),
        epochs=12,
        train_images=5_000,
        seeds=5,
        duration="an hour for CIFAR-10 and two and a half for 20 classes of Tiny ImageNet, on two CPU cores (AMD EPYC)",
        published=None,
        further=tuple(
            (f"{method}-memory", f"{method}-{price}")
            for method in ("keep_cutout", "keep_randaugment")
            for price in ("full", "half", "early-half")
        ),
    ),
}
