"""What a run tells of the bad files that it replaces: on the screen, and in bad_files.log in its folder."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm.contrib.logging import logging_redirect_tqdm

from pipelines import Batch

LOG = "bad_files.log"


@contextlib.contextmanager
def bad_files_told(folder: Path) -> Iterator[None]:
    """While entered, what the loaders tell of a bad file goes to the screen, past a progress bar, and into the run's
    log, once for each file: though several loaders come upon it, and however often the run is resumed. All processes
    of a run append to one log."""
    path = folder / LOG
    told = set(path.read_text(errors="surrogateescape").splitlines()) if path.is_file() else set()

    def untold(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not (message in told or told.add(message))  # type: ignore[func-returns-value]

    handler = logging.FileHandler(path, encoding="utf-8", errors="surrogateescape", delay=True)
    logger = logging.getLogger("pipelines.bad_files.substitutes")
    logger.addFilter(untold)
    logger.addHandler(handler)
    try:
        with logging_redirect_tqdm():
            yield
    finally:
        logger.removeHandler(handler)
        logger.removeFilter(untold)
        handler.close()


def replaced_in(batch: Batch) -> Tensor:
    """How many samples of the batch are replaced: 0-dim, on its device; for a `Meter`."""
    return torch.full((), float(len(batch.replaced)), device=batch.labels.device)
