"""Indexes: lists of what larger files hold, made once and stored."""

import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ..cache import cache_folder
from ..readers.base import DataError
from ..readers.records import Index

_FORM = 1  # of the stored arrays
_SCANNERS = 8  # files listed at a time: most of the time is spent waiting for the disk
_log = logging.getLogger(__name__)


class Split(NamedTuple):
    """Files of one kind for one purpose.

    Attributes:
        name: "train", "val", or "all" for both.
        folder: Where they are.
        files: Names in `folder`, in order.
    """

    name: str
    folder: Path
    files: list[str]


def load_or_make(split: Split, kind: str, scan: Callable[[str], dict[str, np.ndarray]]) -> Index:
    """Return the stored index of the files; where there is none, or the files have changed since, make and store it.

    It is stored beside the files or in the cache. While it is made, a progress bar is shown if stderr is a terminal.

    `kind` and `scan` are those of the `Source`.

    Raises:
        DataError: A file is not of its kind, or no file holds an image.
    """
    paths = [str(split.folder / file) for file in split.files]
    try:
        marks = np.array([_mark(path) for path in paths], dtype=np.int64)
    except OSError as error:
        raise DataError(f"cannot read '{error.filename}': {error.strerror}") from error
    # Two folders in the cache do not share a name; beside the files, the name says what it is.
    absolute = hashlib.sha256(f"{split.folder.absolute()}/{split.name}".encode("utf-8", "surrogateescape")).hexdigest()
    places = (
        split.folder / f"dali_salaug-index-{split.name}.npz",
        cache_folder() / "indexes" / f"{split.name}-{absolute[:16]}.npz",
    )
    key = {"form": np.array([f"{_FORM}", kind]), "files": np.array(split.files), "marks": marks}
    for place in places:
        stored = _load(place, key)
        if stored is not None:
            return Index(paths, stored, stored.pop("counts"), place)
    arrays = _make(paths, marks[:, 0], split, kind, scan)
    saved = _save(places, key | arrays)
    return Index(paths, arrays, arrays.pop("counts"), saved)


def _mark(path: str) -> tuple[int, int]:
    """Return the size and the time of change, which tell whether a file is the one that was listed."""
    status = os.stat(os.path.join(path, "data.mdb") if os.path.isdir(path) else path)
    return status.st_size, status.st_mtime_ns


def _make(
    paths: list[str], sizes: np.ndarray, split: Split, kind: str, scan: Callable[[str], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    parts = []
    description = f"listing {split.name} {kind} (once)"
    with (
        ThreadPoolExecutor(_SCANNERS) as pool,
        tqdm(total=int(sizes.sum()), desc=description, unit="B", unit_scale=True, leave=False, disable=None) as bar,
    ):
        try:
            for part, size in zip(pool.map(scan, paths), sizes.tolist(), strict=True):
                parts.append(part)
                bar.update(size)
        except OSError as error:
            raise DataError(f"cannot read '{error.filename or split.folder}': {error.strerror or error}") from error
        finally:
            pool.shutdown(cancel_futures=True)
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not len(arrays["label"]):
        raise DataError(f"there are no images in the {kind} of '{split.folder}'.")
    arrays["counts"] = np.array([len(part["label"]) for part in parts], dtype=np.int64)
    return arrays


def _load(place: Path, key: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    try:
        with np.load(place, allow_pickle=False) as stored:
            if any(not np.array_equal(stored[name], value) for name, value in key.items()):
                return None
            return {name: stored[name] for name in stored.files if name not in key}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # missing or damaged: it is made again


def _save(places: tuple[Path, ...], arrays: dict[str, np.ndarray]) -> Path | None:
    """Write the whole index or nothing, to the first place that can be written, which is returned."""
    errors = []
    for number, place in enumerate(places):
        unfinished = None
        try:
            if number:
                place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".unfinished-", delete=False) as file:
                unfinished = file.name
                np.savez(file, **arrays)  # type: ignore[arg-type]
            os.chmod(unfinished, 0o644)  # mkstemp's 0600 would lock others out of a shared folder
            os.replace(unfinished, place)
            return place
        except OSError as error:
            errors.append(f"'{place}': {error.strerror}")
            if unfinished is not None:
                Path(unfinished).unlink(missing_ok=True)
    _log.warning("the index could not be stored and will be made again the next time: %s", "; ".join(errors))
    return None
