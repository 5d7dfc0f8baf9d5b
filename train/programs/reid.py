"""Train a network for re-identification, or resume a run: find the same person in the images of other cameras.

A step takes --batch-identities different identities with --batch-images images each. The network learns to classify
the training identities, and to have the images of one nearer to each other than to those of others. --method changes
the images, by default Random Erasing that spares what is salient. Other identities are then searched for in a gallery,
by Market-1501's protocol. The run's folder and most other options are those of training; retrievals.png shows what the
network finds.

Without options, the program trains on embedded figures.
"""

import argparse
from typing import Any

from train.cli.parser import add_option, names_of_methods
from train.cli.presets import presets_of
from train.programs.train import add_common_options, start
from train.tasks.reid.config import OWN, WITHOUT, ReidConfig

EMBEDDED: dict[str, Any] = {"lr": 0.001, "lr_warmup_epochs": 2.0}  # with the embedded figures


def add_options(parser: argparse.ArgumentParser) -> None:
    warmup = f"{EMBEDDED['lr_warmup_epochs']} embedded, {ReidConfig.lr_warmup_epochs} otherwise"
    own = parser.add_argument_group("options of re-identification")
    for name in ReidConfig.options():
        if name not in (*WITHOUT, "batch_size"):
            of = own if name in OWN else parser
            add_option(of, name, ReidConfig, default=warmup if name == "lr_warmup_epochs" else None)
    add_common_options(parser)
    parser.usage = "%(prog)s [OPTION ...]"
    parser.epilog = f"{names_of_methods()}\n\npresets: {', '.join(presets_of(ReidConfig))}"


def run(options: argparse.Namespace) -> int:
    """Train as the command line states. Returns the exit status: 0, or 130 when interrupted.

    Raises:
        UserError, DataError: the options or the data cannot be used.
    """
    return start(options, ReidConfig, with_defaults)


def with_defaults(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a new run with the defaults that the embedded figures have."""
    if "data" in chosen:
        return chosen
    stated = chosen.keys() & {"lr", "lr_per_256"}  # each takes the place of the other
    return {name: value for name, value in EMBEDDED.items() if name != "lr" or not stated} | chosen
