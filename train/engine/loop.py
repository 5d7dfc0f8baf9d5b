"""The training loop: batches through the saliency stage into the model, epoch by epoch, and what is left of it."""

import math
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from tqdm import tqdm

from train.engine import checkpoint
from train.engine.bad_files import bad_files_told, replaced_in
from train.engine.log import Record
from train.engine.metrics import Meter, validation_sums
from train.engine.pictures import write_pictures
from train.engine.run import Run
from train.engine.stopping import Interrupted, StopSignal
from train.errors import UserError

READ_LOSS_EVERY = 50  # steps between readings of the loss, each of which waits for the device


def train_epoch(run: Run, stop: StopSignal, folder: Path, record: Record | None) -> None:
    """The steps of the epoch under way that are not done yet."""
    config = run.config
    run.model.train()
    run.train_loader.set_epoch(run.epoch)
    run.stage.set_epoch(run.epoch)
    reader = run.train_loader.dataset.reader
    files = reader.files if reader.kind == "files" else None
    before, start = run.seconds, time.perf_counter()
    with _bar(run.steps, run, f"epoch {run.epoch + 1}/{config.epochs}", done=run.step) as bar:
        batches = run.loader_wait.timed(run.train_loader)
        while run.step < run.steps:
            losses = run.train_step(batches)
            run.seconds = before + time.perf_counter() - start
            bar.update()
            stopping = stop.agreed()
            saving = stopping or (config.checkpoint_every > 0 and run.step % config.checkpoint_every == 0)
            if saving or run.step % READ_LOSS_EVERY == 0 or run.step == run.steps:
                for sentence in run.guard.read(folder, files):
                    if run.world.is_main:
                        tqdm.write(f"warning: {sentence}", file=sys.stderr)
            if record is not None and run.step % READ_LOSS_EVERY == 0:
                values = {name: value.item() for name, value in losses.items()}
                bar.set_postfix(loss=f"{values['loss']:.3f}")
                values["lr"] = float(run.scheduler.get_last_lr()[0])
                record.add_step(values, run.epoch * run.steps + run.step)
                run.loader_wait.read()
            if saving:
                save(run, folder)
            if stopping:
                raise Interrupted
        next(batches, None)  # none is left: the loader learns that its epoch is over


def save(run: Run, folder: Path) -> None:
    """Write last.pt. Together."""
    state = run.state_dict()
    if run.world.is_main:
        checkpoint.save(state, folder / checkpoint.LAST)


@torch.no_grad()
def validate(run: Run, stop: StopSignal, folder: Path) -> dict[str, float]:
    """val_loss, val_top1 and (over 5 classes) val_top5 on the validation images, the last two in per cent; and
    val_replaced, the number of images that others were given for. Together."""
    names = ("val_loss", "val_top1", "val_top5") if len(run.classes) > 5 else ("val_loss", "val_top1")
    meter = Meter((*names, "val_replaced"), run.device, run.world)
    model = run.validated.eval()
    run.world.share_buffers(model)
    of_all = len(run.val_loader.dataset) // (run.world.size * run.val_loader.batch_size)  # batches that all have
    with _bar(len(run.val_loader), run, "validation") as bar:
        for number, batch in enumerate(run.val_loader):
            with run.autocast():
                logits = model(batch.images)
            sums = validation_sums(logits.float(), batch.labels)
            meter.add([*sums, replaced_in(batch)], len(batch.labels))
            bar.update()
            if number < of_all and stop.agreed():  # all steps are done: resuming begins with the validation
                save(run, folder)
                raise Interrupted
    means = meter.means("val_replaced")
    return {name: 100 * mean if "top" in name else mean for name, mean in means.items()}


def fit(run: Run, folder: Path) -> None:
    """Train to the last epoch, from wherever the run stands. Together.

    Leaves in the folder log.jsonl, TensorBoard events, last.pt, best.pt (of the epochs that end with a validation) and
    augmentations.png.

    Raises:
        Interrupted: on Ctrl-C or SIGTERM, with last.pt written.
        UserError: the loss is no longer finite.
    """
    epochs = run.config.epochs
    assert epochs is not None
    with StopSignal(run.world) as stop, bad_files_told(folder), ExitStack() as stack:
        record = None
        if run.world.is_main:
            done = run.epoch * run.steps + run.step
            record = stack.enter_context(Record(folder, epochs=epochs, epoch=run.epoch, step=done))
        while run.epoch < epochs:
            if run.step < run.steps:
                train_epoch(run, stop, folder, record)
            means, images = run.meter.totals("replaced")
            train_losses = {f"train_{name}": mean for name, mean in means.items()}
            if not math.isfinite(train_losses["train_loss"]):
                raise UserError(
                    f"the training loss of epoch {run.epoch + 1} is {train_losses['train_loss']}: try a lower --lr"
                )
            regions, measured = run.regions.totals()
            start = time.perf_counter()
            last = run.epoch + 1 == epochs
            scores = validate(run, stop, folder) if last or (run.epoch + 1) % run.config.validate_every == 0 else {}
            values: dict[str, float] = {
                "epoch": run.epoch + 1,
                **train_losses,
                **scores,
                **(regions if measured else {}),
                **({"skipped": run.guard.skipped} if run.guard.skipped else {}),
                "seconds": run.seconds + time.perf_counter() - start,
                "images_per_second": images / run.seconds,
                "loader_wait_share": run.loader_wait.read() / run.seconds,
                "lr": float(run.scheduler.get_last_lr()[0]),
            }
            if run.config.on_bad_file == "raise":  # there are none
                values = {name: value for name, value in values.items() if not name.endswith("_replaced")}
            improved = scores.get("val_top1", -1.0) > run.best
            run.best = max(run.best, scores.get("val_top1", -1.0))
            run.epoch, run.step, run.seconds, run.guard.skipped = run.epoch + 1, 0, 0.0, 0
            run.begin_epoch()
            if record is not None:
                # The log first: resuming drops lines the checkpoint does not know, but cannot make up missing ones.
                record.add_epoch(values, run.epoch * run.steps)
                if improved:
                    checkpoint.save(run.best_state_dict(), folder / checkpoint.BEST)
            save(run, folder)
            if record is not None:
                record.print_epoch(values)
                every = run.config.pictures_every
                if run.epoch in (1, epochs) or (every and run.epoch % every == 0):
                    write_pictures(run, folder, record, keep=every > 0)


def _bar(total: int, run: Run, what: str, done: int = 0) -> tqdm:
    """A progress bar on stderr, gone when done; none where stderr is a file, and in all processes but the first."""
    shown = None if run.world.is_main else True
    return tqdm(total=total, initial=done, desc=what, unit="batch", leave=False, disable=shown)
