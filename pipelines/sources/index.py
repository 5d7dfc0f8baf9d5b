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
from ..readers.untrusted import open_regular, untrusted

COLUMNS = ("offset", "size", "label")  # of all images, int64
_FORM = 2  # of the stored arrays
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


def load_or_make(
    split: Split, kind: str, scan: Callable[[str], dict[str, np.ndarray]], columns: tuple[str, ...]
) -> Index:
    """Return the stored index of the files; where there is none, or the files have changed since, make and store it.

    It is stored beside the files or in the cache. While it is made, a progress bar is shown if stderr is a terminal.

    `kind`, `scan` and `columns` are those of the `Source`.

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
        stored = _load(place, key, columns)
        if stored is not None:
            return Index(paths, stored, stored.pop("counts"), place)

    def scan_one(path: str) -> dict[str, np.ndarray]:
        with untrusted(path, f"one of {kind}"):
            return scan(path)

    arrays = _make(paths, marks[:, 0], split, kind, scan_one)
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
        finally:
            pool.shutdown(cancel_futures=True)
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not len(arrays["label"]):
        raise DataError(f"there are no images in the {kind} of '{split.folder}'.")
    arrays["counts"] = np.array([len(part["label"]) for part in parts], dtype=np.int64)
    return arrays


def _load(place: Path, key: dict[str, np.ndarray], columns: tuple[str, ...]) -> dict[str, np.ndarray] | None:
    """Return the stored arrays; None where they are missing, damaged or of other files: they are made again."""
    try:
        with (
            untrusted(place, "an index"),
            open_regular(place) as file,
            zipfile.ZipFile(file) as archive,
        ):
            if any(not np.array_equal(_read_array(archive, name), value) for name, value in key.items()):
                return None
            arrays = {name: _read_array(archive, name) for name in (*columns, "counts")}
            return arrays if _fits(arrays, key["marks"][:, 0]) else None
    except DataError:
        return None


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Return an array as `numpy.savez` stores it, without making room for more than there is in the file."""
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"'{name}' is compressed")
    with archive.open(member) as stored:
        np.lib.format.read_magic(stored)
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stored)
        if is_fortran and len(shape) > 1:
            raise ValueError(f"'{name}' is transposed")
        return np.frombuffer(stored.read(), dtype).reshape(shape)


def _fits(arrays: dict[str, np.ndarray], sizes: np.ndarray) -> bool:
    """Return whether arrays may be an index of files of these sizes: byte ranges are within them."""
    counts, keys = arrays["counts"], arrays.get("keys")
    for name, array in arrays.items():
        if array.ndim != 1 or array.dtype != (np.uint8 if name == "keys" else np.int64):
            return False
    total = len(arrays["label"])
    if not total or len(counts) != len(sizes) or not 0 <= counts.min() <= counts.max() <= total:
        return False
    columns = [array for name, array in arrays.items() if name not in ("counts", "keys")]
    if counts.sum() != total or any(len(column) != total for column in columns):
        return False
    offset, size, ends = arrays["offset"], arrays["size"], np.repeat(sizes, counts)
    if offset.min() < 0 or size.min() < 0 or (offset > ends).any() or (size > ends - offset).any():
        return False
    if keys is None:
        return True
    length = arrays["key_length"]
    return int(length.min()) >= 0 and int(length.max()) <= len(keys) == int(length.sum())


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
