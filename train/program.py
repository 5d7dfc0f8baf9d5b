"""python -m train: begins a run or goes on with one, trains it, and says how it ended."""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from train import checkpoint
from train.checkpoint import LAST
from train.config import Config, UserError
from train.data import resolve_for_data, shares_images
from train.loop import fit
from train.run import Run
from train.stopping import Interrupted

# May be given anew with --resume: the result does not depend on them (that the data is the same, wherever it lies, the
# loader checks), but for the number of epochs, with which the cosine is drawn out or shortened from here on. What comes
# after a bad file, where the run has stopped otherwise, is up to the user.
FREE_OPTIONS = ("out", "data", "workers", "checkpoint_every", "epochs", "on_bad_file", "max_bad_share")


def begin(given: dict[str, Any]) -> tuple[Run, Path]:
    """A new run in a new folder, with its config.yaml.

    Raises:
        UserError: an illegal value, or the folder already has a run.
    """
    config = Config(**given)
    config.check()
    folder = Path(
        config.out or f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{config.model}-{config.method}".replace("timm/", "")
    )
    if (folder / "config.yaml").exists():
        raise UserError(f"{folder} already has a run: go on with it by --resume, or give another --out")
    config = resolve_for_data(config)
    config.out = str(folder)
    run = Run(config)
    folder.mkdir(parents=True, exist_ok=True)
    config.save(folder / "config.yaml")
    return run, folder


def resume(given: dict[str, Any]) -> tuple[Run, Path]:
    """The run in the folder --out, as its last checkpoint has it.

    Raises:
        UserError: no --out, no checkpoint in it, or options that differ from the run's.
    """
    if "out" not in given:
        raise UserError("--resume needs --out, the folder of the run to go on with")
    folder = Path(given["out"])
    state = checkpoint.load(folder / LAST)
    config = config_to_resume(Config.from_dict(state["config"]), given)
    config.check()
    run = Run(config)
    run.load_state_dict(state)
    config.save(folder / "config.yaml")
    return run, folder


def main(given: dict[str, Any], resuming: bool) -> int:
    """Train as the command line says. Returns the exit status: 0, or 130 when interrupted."""
    if "data" in given:
        given["data"] = os.path.abspath(given["data"])  # a run can be resumed from another working directory
    run, folder = resume(given) if resuming else begin(given)
    config = run.config
    print(
        f"{config.model}, {sum(p.numel() for p in run.model.parameters()) / 1e6:.2f} M parameters, {run.stage}\n"
        f"{len(run.train_loader.dataset)} training and {len(run.val_loader.dataset)} validation images of "
        f"{len(run.classes)} classes at {config.image_size}×{config.image_size} on {run.device}\nrun folder: {folder}",
        flush=True,
    )
    if config.data and shares_images(run.train_loader.dataset, run.val_loader.dataset):
        print(f"warning: {config.data} has no train/ and val/: accuracies are on the training images", file=sys.stderr)
    if resuming:
        print(f"going on in epoch {run.epoch + 1} after step {run.step} of {len(run.train_loader)}")
    start = time.perf_counter()
    try:
        fit(run, folder)
    except Interrupted:
        command = f"python -m train --resume --out {shlex.quote(str(folder))}"
        print(f"\nInterrupted; the state is in {folder / LAST}. To go on:\n  {command}", file=sys.stderr)
        return 130
    best = f"best top-1 {run.best:.2f} %" if run.best >= 0 else "not validated"  # drawn in below --validate-every
    print(f"done in {time.perf_counter() - start:.0f} s: {best}, see {folder}/augmentations.png")
    return 0


def config_to_resume(stored: Config, given: dict[str, Any]) -> Config:
    """The configuration of the checkpoint, with what may change taken from the command line.

    Raises:
        UserError: the command line asks for something else than the run was begun with; the message says what.
    """
    for name, value in given.items():
        if name in FREE_OPTIONS:
            setattr(stored, name, value)
    differs = [
        f"--{name.replace('_', '-')} is {getattr(stored, name)} in the checkpoint, {value} on the command line"
        for name, value in given.items()
        if getattr(stored, name) != value
    ]
    if differs:
        raise UserError(
            f"cannot resume: {'; '.join(differs)}. Leave the option out, or begin a new run in another --out"
        )
    return stored
