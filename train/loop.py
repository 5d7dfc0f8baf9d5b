"""The training loop: batches through the saliency stage into the model, epoch by epoch, and what is left of it."""

import json
import math
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

from train import checkpoint
from train.config import Config, UserError
from train.figure import write_figure
from train.metrics import Meter, validation_sums
from train.run import Run, config_to_resume, resolve_for_data, shares_images

READ_LOSS_EVERY = 50  # steps between readings of the loss, each of which waits for the device
CHECKPOINT = "last.pt"


class Interrupted(Exception):
    """The run was asked to stop and has left a checkpoint."""


class StopSignal:
    """While entered, the first SIGINT or SIGTERM sets `requested`; a second one stops the program at once."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopSignal":
        self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def train_epoch(run: Run, stop: StopSignal, folder: Path, writer: Any) -> None:
    """The steps of the epoch under way that are not done yet."""
    config, total = run.config, len(run.train_loader)
    run.model.train()
    run.train_loader.set_epoch(run.epoch)
    run.stage.set_epoch(run.epoch)
    before, start = run.seconds, time.perf_counter()
    with _bar(total, run, "training") as bar:
        for batch in run.train_loader:
            losses = run.losses(batch)
            run.optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            run.optimizer.step()
            run.scheduler.step()

            count = len(batch.labels)
            run.meter.add([value * count for value in losses.values()], count)
            run.step += 1
            run.seconds = before + time.perf_counter() - start
            bar.update()
            if run.step % READ_LOSS_EVERY == 0:
                values = {name: value.item() for name, value in losses.items()}
                bar.set_postfix(loss=f"{values['loss']:.3f}")
                for name, value in values.items():
                    writer.add_scalar(f"train/step_{name}", value, run.epoch * total + run.step)
            if stop.requested or (config.checkpoint_every and run.step % config.checkpoint_every == 0):
                checkpoint.save(run.state_dict(), folder / CHECKPOINT)
            if stop.requested:
                raise Interrupted


@torch.no_grad()
def validate(run: Run, stop: StopSignal, folder: Path) -> dict[str, float]:
    """val_loss, val_top1 and (over 5 classes) val_top5 on the validation images, the last two in per cent."""
    names = ("val_loss", "val_top1", "val_top5") if len(run.classes) > 5 else ("val_loss", "val_top1")
    meter = Meter(names, run.device)
    run.model.eval()
    with _bar(len(run.val_loader), None, "validation") as bar:
        for batch in run.val_loader:
            meter.add(validation_sums(run.model(batch.images), batch.labels), len(batch.labels))
            bar.update()
            if stop.requested:  # all steps of the epoch are done: resuming begins with the validation
                checkpoint.save(run.state_dict(), folder / CHECKPOINT)
                raise Interrupted
    means = meter.means()
    return {name: 100 * mean if "top" in name else mean for name, mean in means.items()}


def fit(run: Run, folder: Path) -> None:
    """Train to the last epoch, from wherever the run stands.

    Leaves in the folder log.jsonl, TensorBoard events, last.pt, best.pt (of the epochs that end with a validation) and
    augmentations.png.

    Raises:
        Interrupted: on Ctrl-C or SIGTERM, with last.pt written.
        UserError: the loss is no longer finite.
    """
    from torch.utils.tensorboard import SummaryWriter

    epochs, total = run.config.epochs, len(run.train_loader)
    assert epochs is not None
    keep_log_of(folder / "log.jsonl", run.epoch)
    done = run.epoch * total + run.step
    with StopSignal() as stop, SummaryWriter(str(folder), purge_step=done or None) as writer:
        while run.epoch < epochs:
            if run.step < total:
                train_epoch(run, stop, folder, writer)
            train_losses = {f"train_{name}": mean for name, mean in run.meter.means().items()}
            if not math.isfinite(train_losses["train_loss"]):
                raise UserError(
                    f"the training loss of epoch {run.epoch + 1} is {train_losses['train_loss']}: try a lower --lr"
                )
            start = time.perf_counter()
            last = run.epoch + 1 == epochs
            scores = validate(run, stop, folder) if last or (run.epoch + 1) % run.config.validate_every == 0 else {}
            record: dict[str, float] = {
                "epoch": run.epoch + 1,
                **train_losses,
                **scores,
                "seconds": run.seconds + time.perf_counter() - start,
                "images_per_second": run.meter.samples / run.seconds,
                "lr": float(run.scheduler.get_last_lr()[0]),
            }
            for name in (*train_losses, *scores, "lr"):
                writer.add_scalar(f"epoch/{name}", record[name], (run.epoch + 1) * total)

            improved = scores.get("val_top1", -1.0) > run.best
            run.best = max(run.best, scores.get("val_top1", -1.0))
            run.epoch, run.step, run.seconds = run.epoch + 1, 0, 0.0
            run.meter = Meter(run.meter.names, run.device)
            # The log first: resuming drops lines the checkpoint does not know, but cannot make up missing ones.
            with open(folder / "log.jsonl", "a") as log:
                log.write(json.dumps({k: round(v, 6) for k, v in record.items()}) + "\n")
            state = run.state_dict()
            if improved:
                parts = ("config", "classes", "mean", "std", "model")
                best = {name: state[name] for name in parts} | {"epoch": run.epoch, "val_top1": run.best}
                checkpoint.save(best, folder / "best.pt")
            checkpoint.save(state, folder / CHECKPOINT)
            print(_line(record, epochs), flush=True)
            if run.epoch in (1, epochs):
                write_figure(run, folder / "augmentations.png")


def keep_log_of(path: Path, epochs: int) -> None:
    """Drop the lines of epochs that a checkpoint taken after `epochs` whole epochs does not know."""
    if path.is_file():
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["epoch"] <= epochs]
        path.write_text("".join(line + "\n" for line in lines))


def _bar(total: int, run: Run | None, what: str) -> tqdm:
    """A progress bar on stderr, gone when done; none where stderr is a file."""
    done, name = (run.step, f"epoch {run.epoch + 1}/{run.config.epochs}") if run else (0, what)
    return tqdm(total=total, initial=done, desc=name, unit="batch", leave=False, disable=None)


def _line(record: dict[str, float], epochs: int) -> str:
    shown = {
        "train_saliency_loss": "saliency loss {:.4f}  ",
        "val_loss": "val loss {:.4f}  ",
        "val_top1": "top-1 {:6.2f} %  ",
        "val_top5": "top-5 {:6.2f} %  ",
    }
    scores = "".join(form.format(record[name]) for name, form in shown.items() if name in record)
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  train loss {record['train_loss']:.4f}  {scores}"
        f"{record['seconds']:6.1f} s  {record['images_per_second']:7.0f} images/s"
    )


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
    state = checkpoint.load(folder / CHECKPOINT)
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
        print(f"\nInterrupted; the state is in {folder / CHECKPOINT}. To go on:\n  {command}", file=sys.stderr)
        return 130
    best = f"best top-1 {run.best:.2f} %" if run.best >= 0 else "not validated"  # drawn in below --validate-every
    print(f"done in {time.perf_counter() - start:.0f} s: {best}, see {folder}/augmentations.png")
    return 0
