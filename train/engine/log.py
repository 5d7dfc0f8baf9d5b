"""The log of a run: a line on the screen and in log.jsonl for each epoch, and TensorBoard events."""

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from train.engine.files import atomic_write, require_file, to_json
from train.errors import UserError

LOG = "log.jsonl"
WIDTH = 80  # characters of a printed line
_FORMATS = {  # of the values that are printed alone, in their order
    "train_loss": "train loss {:.4f}",
    "train_consistency_loss": "consistency loss {:.4f}",
    "train_saliency_loss": "saliency loss {:.4f}",
    "val_loss": "val loss {:.4f}",
    "val_top1": "top-1 {:.2f} %",
    "val_top5": "top-5 {:.2f} %",
    "val_map": "mAP {:.2f} %",
    "val_map50": "mAP50 {:.2f} %",
    "val_map75": "mAP75 {:.2f} %",
    "val_rank1": "rank-1 {:.2f} %",
    "lr": "lr {:.2g}",
    "seconds": "{:.1f} s",
    "images_per_second": "{:.0f} images/s",
    "loader_wait_share": "loader wait {:.0%}",
    "skipped": "skipped {} steps",
}


class Record:
    """The log and the TensorBoard events of a run, as a context.

    Args:
        folder: of the run.
        epochs: number of epochs of the whole run.
        epoch: number of complete epochs from which the run resumes; later lines of an existing log are dropped.
        step: number of steps of the whole run from which it resumes; later events are dropped.
    """

    def __init__(self, folder: Path, *, epochs: int, epoch: int, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._log, self._epochs = folder / LOG, epochs
        truncate_log(self._log, epoch)
        self._events = SummaryWriter(str(folder), purge_step=step or None)

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()

    def add_step(self, values: dict[str, float], step: int) -> None:
        """Add the losses and the learning rate of one training step, the `step`-th of the run, to the events."""
        for name, value in values.items():
            self._events.add_scalar(f"train/step_{name}", value, step)

    def add_epoch(self, values: dict[str, float], step: int) -> None:
        """Add an epoch to the log and to the events; `step` is the run's last step so far."""
        for name, value in values.items():
            if name not in ("epoch", "seconds"):
                self._events.add_scalar(f"epoch/{name}", value, step)
        with open(self._log, "a") as log:
            log.write(to_json({name: round(value, 6) for name, value in values.items()}) + "\n")

    def add_pictures(self, path: Path, epoch: int) -> None:
        """Add a picture of augmented samples to the events."""
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._events.add_image("augmentations", pixels, epoch, dataformats="HWC")

    def print_epoch(self, values: dict[str, float]) -> None:
        """Print an epoch's line, see `format_epoch`."""
        print(format_epoch(values, self._epochs), flush=True)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, without an incomplete last one.

    Raises:
        UserError: another line is not one of this program's; the message names it.
    """
    return [values for _, values in _lines(path)]


def truncate_log(path: Path, epochs: int) -> None:
    """Drop the lines after the first `epochs` epochs, which the checkpoint does not know, and an incomplete last line.

    Raises:
        UserError: as `read_log`, and where it is no regular file.
    """
    require_file(path)
    if not path.exists():
        return
    kept = [line + b"\n" for line, _ in itertools.takewhile(lambda pair: pair[1]["epoch"] <= epochs, _lines(path))]
    with atomic_write(path) as file:
        file.writelines(kept)


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield each line of a log, as it is and its values, among them "epoch"."""
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        epoch = values.get("epoch") if isinstance(values, dict) else None
        if isinstance(epoch, int) and not isinstance(epoch, bool):
            yield line, values
        elif number < len(lines):  # the process was killed, or the disk was full, within the last line
            raise UserError(
                f"{path}, line {number}: not a line of this program's log; remove the line, or move the file elsewhere"
            )


def format_epoch(values: dict[str, float], epochs: int) -> str:
    """Return what is printed of an epoch: a line, and where that has more than `WIDTH` characters, further ones."""
    parts = [f"epoch {values['epoch']:>{len(str(epochs))}}/{epochs}"]
    parts += [form.format(values[name]) for name, form in _FORMATS.items() if name in values]
    if "region_area" in values:
        name, done = ("saliency_kept", "kept") if "saliency_kept" in values else ("saliency_cut", "cut")
        parts.append(f"{done} {values[name]:.0%} saliency, {values['region_area']:.0%} area")
    if "confident_share" in values:
        right = f", {values['pseudo_label_accuracy']:.0%} of them right" if "pseudo_label_accuracy" in values else ""
        parts.append(f"{values['confident_share']:.0%} confident{right}")
    if "saliency_age" in values:
        parts.append(f"map age {values['saliency_age']:.1f}, {values['saliency_flat']:.0%} flat")
    replaced = [value for name, value in values.items() if name.endswith("_replaced")]
    parts += [f"{sum(replaced)} replaced"] if replaced else []
    return "\n".join(in_lines(parts))


def in_words(name: str, value: float) -> str:
    """Return a value of the log as it is printed."""
    return _FORMATS[name].format(value)


def in_lines(parts: Iterable[str]) -> list[str]:
    """Return the parts one after the other, in lines of at most `WIDTH` characters where the parts permit it."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= WIDTH:
            lines[-1] += f"  {part}"
        else:
            lines.append(f"    {part}" if lines else part)
    return lines
