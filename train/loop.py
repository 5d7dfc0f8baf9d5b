"""The training loop: batches through the saliency stage into the model, epoch by epoch, and what is left of it."""

import math
import time
from pathlib import Path

import torch
from tqdm import tqdm

from train import checkpoint
from train.bad_files import bad_files_told, replaced_in
from train.config import UserError
from train.figure import write_figure
from train.metrics import Meter, validation_sums
from train.record import Record
from train.run import Run
from train.stopping import Interrupted, StopSignal

READ_LOSS_EVERY = 50  # steps between readings of the loss, each of which waits for the device


def train_epoch(run: Run, stop: StopSignal, folder: Path, record: Record) -> None:
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
            run.meter.add([*(value * count for value in losses.values()), replaced_in(batch)], count)
            run.step += 1
            run.seconds = before + time.perf_counter() - start
            bar.update()
            if run.step % READ_LOSS_EVERY == 0:
                values = {name: value.item() for name, value in losses.items()}
                bar.set_postfix(loss=f"{values['loss']:.3f}")
                record.add_step(values, run.epoch * total + run.step)
            if stop.requested or (config.checkpoint_every and run.step % config.checkpoint_every == 0):
                checkpoint.save(run.state_dict(), folder / checkpoint.LAST)
            if stop.requested:
                raise Interrupted


@torch.no_grad()
def validate(run: Run, stop: StopSignal, folder: Path) -> dict[str, float]:
    """val_loss, val_top1 and (over 5 classes) val_top5 on the validation images, the last two in per cent; and
    val_replaced, the number of images that others were given for."""
    names = ("val_loss", "val_top1", "val_top5") if len(run.classes) > 5 else ("val_loss", "val_top1")
    meter = Meter((*names, "val_replaced"), run.device)
    run.model.eval()
    with _bar(len(run.val_loader), None, "validation") as bar:
        for batch in run.val_loader:
            sums = validation_sums(run.model(batch.images), batch.labels)
            meter.add([*sums, replaced_in(batch)], len(batch.labels))
            bar.update()
            if stop.requested:  # all steps of the epoch are done: resuming begins with the validation
                checkpoint.save(run.state_dict(), folder / checkpoint.LAST)
                raise Interrupted
    means = meter.means("val_replaced")
    return {name: 100 * mean if "top" in name else mean for name, mean in means.items()}


def fit(run: Run, folder: Path) -> None:
    """Train to the last epoch, from wherever the run stands.

    Leaves in the folder log.jsonl, TensorBoard events, last.pt, best.pt (of the epochs that end with a validation) and
    augmentations.png.

    Raises:
        Interrupted: on Ctrl-C or SIGTERM, with last.pt written.
        UserError: the loss is no longer finite.
    """
    epochs, total = run.config.epochs, len(run.train_loader)
    assert epochs is not None
    done = run.epoch * total + run.step
    with (
        bad_files_told(folder),
        StopSignal() as stop,
        Record(folder, epochs=epochs, epoch=run.epoch, step=done) as record,
    ):
        while run.epoch < epochs:
            if run.step < total:
                train_epoch(run, stop, folder, record)
            train_losses = {f"train_{name}": mean for name, mean in run.meter.means("replaced").items()}
            if not math.isfinite(train_losses["train_loss"]):
                raise UserError(
                    f"the training loss of epoch {run.epoch + 1} is {train_losses['train_loss']}: try a lower --lr"
                )
            start = time.perf_counter()
            last = run.epoch + 1 == epochs
            scores = validate(run, stop, folder) if last or (run.epoch + 1) % run.config.validate_every == 0 else {}
            values: dict[str, float] = {
                "epoch": run.epoch + 1,
                **train_losses,
                **scores,
                "seconds": run.seconds + time.perf_counter() - start,
                "images_per_second": run.meter.samples / run.seconds,
                "lr": float(run.scheduler.get_last_lr()[0]),
            }
            if run.config.on_bad_file == "raise":  # there are none
                values = {name: value for name, value in values.items() if not name.endswith("_replaced")}
            improved = scores.get("val_top1", -1.0) > run.best
            run.best = max(run.best, scores.get("val_top1", -1.0))
            run.epoch, run.step, run.seconds = run.epoch + 1, 0, 0.0
            run.meter = Meter(run.meter.names, run.device)
            # The log first: resuming drops lines the checkpoint does not know, but cannot make up missing ones.
            record.add_epoch(values, run.epoch * total)
            state = run.state_dict()
            if improved:
                parts = ("config", "classes", "mean", "std", "resize_to", "model")
                best = {name: state[name] for name in parts} | {"epoch": run.epoch, "val_top1": run.best}
                checkpoint.save(best, folder / checkpoint.BEST)
            checkpoint.save(state, folder / checkpoint.LAST)
            record.print_epoch(values)
            if run.epoch in (1, epochs):
                write_figure(run, folder / "augmentations.png")


def _bar(total: int, run: Run | None, what: str) -> tqdm:
    """A progress bar on stderr, gone when done; none where stderr is a file."""
    done, name = (run.step, f"epoch {run.epoch + 1}/{run.config.epochs}") if run else (0, what)
    return tqdm(total=total, initial=done, desc=name, unit="batch", leave=False, disable=None)
