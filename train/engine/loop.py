"""The training loop, epoch by epoch: steps, validation, and what each epoch leaves in the run folder."""

import math
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from train.engine import checkpoint
from train.engine.bad_files import log_bad_files
from train.engine.log import Record, in_words
from train.engine.progress import Progress
from train.engine.run import Run
from train.engine.stopping import Interrupted, StopSignal
from train.errors import UserError

PICTURE = "augmentations.png"  # in the run folder
READ_LOSS_EVERY = 50  # steps between readings of the loss, each of which waits for the device


def fit(run: Run, folder: Path) -> None:
    """Train to the last epoch, from wherever the run stands. Together.

    Writes into the folder log.jsonl, TensorBoard events, last.pt, best.pt (of the epochs that end with a validation)
    and the task's picture, augmentations.png.

    Raises:
        Interrupted: on Ctrl-C or SIGTERM, after last.pt is written.
        UserError: the loss is no longer finite, or a file cannot be written.
    """
    config = run.config
    with StopSignal(run.world) as stop, log_bad_files(folder), ExitStack() as stack:
        record = None
        if run.world.is_main:
            done = run.epoch * run.steps + run.step
            record = stack.enter_context(Record(folder, epochs=config.epochs, epoch=run.epoch, step=done))
            print_warnings(run)
        while run.epoch < config.epochs:
            if run.step < run.steps:
                train_epoch(run, stop, folder, record)
            values = finish_epoch(run, stop, folder)
            reached = values.get(run.task.metric, -1.0)
            improved, run.best = reached > run.best, max(run.best, reached)
            run.end_epoch()
            if record is not None:
                # The log first: resuming drops lines the checkpoint does not know, but cannot restore missing ones.
                record.add_epoch(values, run.epoch * run.steps)
                if improved:
                    checkpoint.save(run.best_state_dict(), folder / checkpoint.BEST)
            save(run, folder)
            if record is not None:
                record.print_epoch(values)
                every = config.pictures_every
                if run.epoch in (1, config.epochs) or (every and run.epoch % every == 0):
                    draw(run, folder, record, keep=every > 0)


def restore(run: Run, state: dict[str, Any], folder: Path) -> None:
    """Bring the run to where `state`, the last checkpoint in the folder, was taken. Together.

    A best.pt that is missing or damaged is forgotten: the next validation writes a new one.

    Raises:
        UserError: the state does not fit the run, see `Run.load_state_dict`.
    """
    run.load_state_dict(state)
    if run.config.epochs < run.epoch:
        raise UserError(f"--epochs must be at least {run.epoch}, the epochs that are done; got {run.config.epochs}")
    if run.epoch == run.config.epochs:  # finished: what the user should know before the first step has no effect
        run.warnings.clear()
    lost = None
    if run.world.is_main and run.best >= 0:  # some validation wrote it
        try:
            checkpoint.verify(folder / checkpoint.BEST)
        except UserError as error:
            lost = f"{error}. The best network so far, of {best_of(run)}, is lost"
    lost = run.world.broadcast(lost)
    if lost:
        next_one = f"; the next validation writes a new {checkpoint.BEST}" if run.epoch < run.config.epochs else ""
        run.warnings.append(lost + next_one)
        run.best = -1.0


def best_of(run: Run) -> str:
    """Return the best value of the task's metric in words."""
    return in_words(run.task.metric, run.best)


def print_warnings(run: Run) -> None:
    """Print what the user should know before the first step; the main process does."""
    for sentence in run.warnings if run.world.is_main else ():
        print(f"warning: {sentence}", file=sys.stderr)


def print_finished(run: Run, folder: Path) -> None:
    """Print that the run has no epoch left; the main process does."""
    print_warnings(run)
    if run.world.is_main:
        best = f", best {best_of(run)}" if run.best >= 0 else ""
        print(
            f"the run in {folder} is finished: {run.epoch} of {run.config.epochs} epochs are done{best}.\n"
            f"To train further, resume with --epochs above {run.epoch}"
        )


def train_epoch(run: Run, stop: StopSignal, folder: Path, record: Record | None) -> None:
    """Take the steps of the current epoch that are not done yet. Together.

    Args:
        record: of the main process; None in the others.

    Raises:
        Interrupted: as `fit`.
        UserError: something is not finite, see `NonFiniteGuard`; or a file cannot be written.
    """
    config = run.config
    run.begin_epoch()
    reader = run.train_loader.dataset.reader
    files = reader.files if reader.kind == "files" else None
    before, start = run.seconds, time.perf_counter()
    images = min(run.steps * config.step_images, run.samples)
    done, shown = run.step * config.step_images, run.world.is_main
    name = f"epoch {run.epoch + 1}/{config.epochs}"
    with Progress(name, batches=run.steps, images=images, done=done, shown=shown) as progress:
        batches = run.loader_wait.measure(run.train_loader)
        while run.step < run.steps:
            losses = run.train_step(batches)
            run.seconds = before + time.perf_counter() - start
            stopping = stop.agreed()
            saving = stopping or (config.checkpoint_every > 0 and run.step % config.checkpoint_every == 0)
            if saving or run.step % READ_LOSS_EVERY == 0 or run.step == run.steps:
                for sentence in run.guard.read(folder, files):
                    if run.world.is_main:
                        tqdm.write(f"warning: {sentence}", file=sys.stderr)
            if record is not None and run.step % READ_LOSS_EVERY == 0:
                values = {name: value.item() for name, value in losses.items()}
                progress.show_loss(values["loss"])
                values["lr"] = float(run.scheduler.get_last_lr()[0])
                record.add_step(values, run.epoch * run.steps + run.step)
                run.loader_wait.read()
            elif run.device.type == "cpu" and (progress.due or run.step == 1):  # reading waits for nothing there
                progress.show_loss(losses["loss"].item())
            taken = min(config.step_images, images - done)
            done += taken
            progress.update(taken, run.step)
            if saving:
                save(run, folder)
            if stopping:
                raise Interrupted
    # The loader ends its epoch, in which `drop_last` may have left a batch.
    run.train_loader.set_epoch(run.epoch + 1)


def finish_epoch(run: Run, stop: StopSignal, folder: Path) -> dict[str, float]:
    """Validate after the last step of the current epoch, where it is due, and return the epoch's log line. Together.

    Raises:
        Interrupted: as `fit`.
        UserError: the mean training loss is not finite.
    """
    config, number = run.config, run.epoch + 1
    means, images = run.meter.totals("replaced")
    losses = {f"train_{name}": mean for name, mean in means.items()}
    if not math.isfinite(losses["train_loss"]):
        if run.guard.skipped >= run.steps:
            raise UserError(
                f"all {run.steps} steps of epoch {number} were skipped, because the loss or the gradients were not"
                " finite, so the network no longer learns: its weights, or the images, give no finite loss. Start a new"
                " run with a lower --lr, or resume a copy of the folder from before"
            )
        raise UserError(f"the training loss of epoch {number} is {losses['train_loss']}: try a lower --lr")
    measures, measured = run.measures.totals()
    start = time.perf_counter()
    due = number == config.epochs or number % config.validate_every == 0
    values: dict[str, float] = {
        "epoch": number,
        **losses,
        **(validate(run, stop, folder) if due else {}),
        **(run.objective.summarised(measures) if measured else {}),
        **({"skipped": run.guard.skipped} if run.guard.skipped else {}),
        "seconds": run.seconds + time.perf_counter() - start,
        "images_per_second": images / run.seconds,
        "loader_wait_share": run.loader_wait.read() / run.seconds,
        "lr": float(run.scheduler.get_last_lr()[0]),
    }
    if config.on_bad_file == "raise":  # then no image is replaced
        values = {name: value for name, value in values.items() if not name.endswith("_replaced")}
    return values


@torch.no_grad()
def validate(run: Run, stop: StopSignal, folder: Path) -> dict[str, float]:
    """Validate the network. Together.

    Returns:
        The values of the task's validation.

    Raises:
        Interrupted: as `fit`.
    """
    model = run.network.validated.eval()
    run.world.broadcast_buffers(model)
    validation = run.task.start_validation(run.network)
    in_all_processes = len(run.val_loader.dataset) // (run.world.size * run.val_loader.batch_size)  # batches
    batches, images = len(run.val_loader), len(run.val_loader.dataset)
    with Progress("validation", batches=batches, images=images, shown=run.world.is_main) as progress:
        for number, batch in enumerate(run.val_loader):
            with run.autocast():
                validation.add(batch)
            progress.update(len(batch.indices) * run.world.size, number + 1)
            if number < in_all_processes and stop.agreed():  # all steps are done: a resumed run starts by validating
                save(run, folder)
                raise Interrupted
    return validation.values()


def draw(run: Run, folder: Path, record: Record, *, keep: bool) -> None:
    """Write the picture of what the network is trained on into the run folder, and add it to the events.

    Args:
        keep: whether to leave a copy in pictures/ too, named after the epoch.
    """
    path = folder / PICTURE
    run.task.draw(run.network, run.objective, path)
    record.add_pictures(path, run.epoch)
    if keep:
        (folder / "pictures").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "pictures" / f"epoch-{run.epoch:04d}.png")


def save(run: Run, folder: Path) -> None:
    """Write last.pt, and after the epochs to keep a copy. Together."""
    state = run.state_dict()
    if run.world.is_main:
        every = run.config.keep_every
        if every and run.epoch and run.step == 0 and run.epoch % every == 0:
            (folder / checkpoint.KEPT).mkdir(exist_ok=True)
            # First, as a run that is killed between the two repeats the epoch.
            checkpoint.save(state, folder / checkpoint.KEPT / f"epoch-{run.epoch:04d}.pt")
        checkpoint.save(state, folder / checkpoint.LAST)
