"""Train on few labels and many unlabelled images, or resume a run: UDA and FixMatch with saliency-guided augmentation.

A step takes labelled images, and for each of them --unlabelled-ratio unlabelled ones. The network's predictions on an
unlabelled image and on what --method makes of it are to agree. An epoch is a pass over the unlabelled images. The run's
folder and all other options are those of training.

Without options, the program trains on the embedded data with the labels of every fifth image.
"""

import argparse
from typing import Any

from train.cli.parser import add_option, names_of_methods
from train.cli.presets import presets_of
from train.programs.train import add_options as add_train_options
from train.programs.train import start
from train.tasks.semi.config import OWN, SemiConfig

DEFAULTS: dict[str, Any] = {"label_smoothing": 0.0, "ema": 0.999}  # in place of Config's
# With the embedded data, whose shapes have any angle: a fifth of the labels, and as many steps as minutes permit.
EMBEDDED: dict[str, Any] = DEFAULTS | {
    "labels": 800,
    "unlabelled_ratio": 1,
    "epochs": 12,
    "ema": 0.99,
    "vertical_flip": 0.5,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    defaults = {
        "epochs": f"{EMBEDDED['epochs']} embedded, 30 for small images, 90 for photographs",
        "vertical_flip": f"{EMBEDDED['vertical_flip']} embedded, 0.0 otherwise",
        "ema": f"{EMBEDDED['ema']} embedded, {DEFAULTS['ema']} otherwise",
        "label_smoothing": str(DEFAULTS["label_smoothing"]),
        "saliency_target": "max, which needs no label",
        "unlabelled_ratio": f"{EMBEDDED['unlabelled_ratio']} embedded, {SemiConfig.unlabelled_ratio} otherwise",
    }
    add_train_options(parser, defaults)
    group = parser.add_argument_group("options of semi-supervised training")
    for name in OWN:
        add_option(group, name, SemiConfig, default=defaults.get(name))
    parser.epilog = f"{names_of_methods()}\n\npresets: {', '.join(presets_of(SemiConfig))}"


def run(options: argparse.Namespace) -> int:
    """Train as the command line states. Returns the exit status: 0, or 130 when interrupted.

    Raises:
        UserError, DataError: the options or the data cannot be used.
    """
    return start(options, SemiConfig, with_defaults)


def with_defaults(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a new run with the defaults that differ from those of supervised training."""
    return (DEFAULTS if "data" in chosen or "unlabelled" in chosen else EMBEDDED) | chosen
