"""What a run tells: of each epoch a line on the screen and one in log.jsonl, of steps and epochs TensorBoard events."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from train.engine.checkpoint import atomic_write

LOG = "log.jsonl"


class Record:
    """The log and the events of a run, to be used as a context.

    Args:
        folder: of the run.
        epochs: of the whole run.
        epoch: whole epochs that the run goes on from; later lines of a log that is there are dropped.
        step: likewise, of the whole run.
    """

    def __init__(self, folder: Path, *, epochs: int, epoch: int, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._log, self._epochs = folder / LOG, epochs
        keep_log_of(self._log, epoch)
        self._events = SummaryWriter(str(folder), purge_step=step or None)

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()

    def add_step(self, values: dict[str, float], step: int) -> None:
        """The losses and the learning rate of one training step, the `step`-th of the run."""
        for name, value in values.items():
            self._events.add_scalar(f"train/step_{name}", value, step)

    def add_epoch(self, values: dict[str, float], step: int) -> None:
        """A line of the log; `step` as above, at the end of the epoch."""
        for name, value in values.items():
            if name not in ("epoch", "seconds"):
                self._events.add_scalar(f"epoch/{name}", value, step)
        with open(self._log, "a") as log:
            log.write(json.dumps({name: round(value, 6) for name, value in values.items()}) + "\n")

    def add_pictures(self, path: Path, epoch: int) -> None:
        """A picture of augmented samples, among the events."""
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._events.add_image("augmentations", pixels, epoch, dataformats="HWC")

    def print_epoch(self, values: dict[str, float]) -> None:
        print(line_of(values, self._epochs), flush=True)


def keep_log_of(path: Path, epochs: int) -> None:
    """Drop the lines of epochs that a checkpoint taken after `epochs` whole epochs does not know, and a cut line."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["epoch"] > epochs:
                break
        except ValueError:  # the process was killed, or the disk was full, in the middle of a line
            break
        kept.append(line + "\n")
    with atomic_write(path) as file:
        file.writelines(line.encode() for line in kept)


def line_of(values: dict[str, float], epochs: int) -> str:
    """What is printed of an epoch."""
    shown = {
        "train_saliency_loss": "saliency loss {:.4f}  ",
        "val_loss": "val loss {:.4f}  ",
        "val_top1": "top-1 {:6.2f} %  ",
        "val_top5": "top-5 {:6.2f} %  ",
        "saliency_kept": "kept {:.0%} of the saliency",
        "saliency_cut": "cut {:.0%} of the saliency",
        "region_area": " in {:.0%} of the area  ",
        "lr": "lr {:.2g}  ",
        "skipped": "skipped {} steps  ",
    }
    told = "".join(form.format(values[name]) for name, form in shown.items() if name in values)
    replaced = [value for name, value in values.items() if name.endswith("_replaced")]
    return (
        f"epoch {values['epoch']:>{len(str(epochs))}}/{epochs}  train loss {values['train_loss']:.4f}  {told}"
        f"{values['seconds']:6.1f} s  {values['images_per_second']:7.0f} images/s"
        f"  loader wait {values['loader_wait_share']:.0%}" + (f"  {sum(replaced)} replaced" if replaced else "")
    )
