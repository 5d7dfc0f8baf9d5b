"""Reports of the bad files that a run replaces: on the screen, and in bad_files.log in its folder."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm.contrib.logging import logging_redirect_tqdm

from pipelines import Batch
from train.engine.files import require_file

LOG = "bad_files.log"


@contextlib.contextmanager
def log_bad_files(folder: Path) -> Iterator[None]:
    """Write the loaders' warnings of bad files to the screen, above a progress bar, and to the run's log.

    Each file is reported once, however many loaders meet it and however often the run is resumed. All processes of a
    run append to one log.
    """
    path = folder / LOG
    require_file(path)
    reported = set(path.read_text(errors="surrogateescape").splitlines()) if path.is_file() else set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in reported
        reported.add(message)
        return new

    handler = logging.FileHandler(path, encoding="utf-8", errors="surrogateescape", delay=True)
    logger = logging.getLogger("pipelines.bad_files.substitutes")
    logger.addFilter(is_new)
    logger.addHandler(handler)
    try:
        with logging_redirect_tqdm():
            yield
    finally:
        logger.removeHandler(handler)
        logger.removeFilter(is_new)
        handler.close()


def count_replaced(batch: Batch) -> Tensor:
    """Return the number of replaced samples in the batch, for a `Meter`: 0-dim, on its device."""
    return torch.full((), float(len(batch.replaced)), device=batch.indices.device)
