"""Marks of the images of a run, by which a resumed run notices that they have changed."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines import Dataset
from pipelines.readers.s3 import is_address

PIECE = 4096  # decoded images that are hashed at a time


def marks_of(dataset: Dataset) -> dict[str, Any]:
    """Return the marks of a data set: tensors and plain types, eight bytes for each file.

    "samples" and "names" are the number of samples and a hash of classes, labels and names. "sizes" and "times" are
    those of the files, (n,) int32: the size in bytes and the time of the last change in nanoseconds, both modulo 2³².
    They are 0 for a file in a store, and for one that cannot be asked. Images without files, such as CIFAR's, are
    hashed themselves, into "names".
    """
    stats = np.array([_stat(file) for file in dataset.reader.files], dtype=np.int64).reshape(-1, 2)
    sizes, times = torch.from_numpy(stats.astype(np.uint32).view(np.int32)).T.contiguous()
    names = hashlib.sha256(dataset.digest.encode())
    if dataset.reader.kind == "pixels":
        for start in range(0, len(dataset), PIECE):
            places = np.arange(start, min(start + PIECE, len(dataset)))
            names.update(np.ascontiguousarray(dataset.reader.inputs(places)).tobytes())
    return {"samples": len(dataset), "names": names.hexdigest()[:16], "sizes": sizes, "times": times}


def _stat(path: str) -> tuple[int, int]:
    if is_address(path):
        return 0, 0
    try:
        status = os.stat(path)
        if os.path.isdir(path):  # of LMDB
            status = os.stat(os.path.join(path, "data.mdb"))
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def first_change(before: dict[str, Any], now: dict[str, Any], dataset: Dataset) -> str | None:
    """Return how a data set differs from what it was; None where it does not.

    A file of another size has changed. So has a file with another time, unless all files have other times: the data set
    then was copied, without its times.

    Args:
        before, now: marks, see `marks_of`.
        dataset: of `now`.
    """
    if before["samples"] != now["samples"]:
        return f"{before['samples']} of them then, {now['samples']} now"
    if before["names"] != now["names"] or len(before["sizes"]) != len(now["sizes"]):
        return "other names, labels or contents"
    resized, touched = (before[name] != now[name] for name in ("sizes", "times"))
    changed = resized if touched.all() else resized | touched
    places = changed.nonzero().flatten().tolist()
    if not places:
        return None
    count = f"{len(places)} of {len(changed)} files have changed" if len(changed) > 1 else "its file has changed"
    what = "size" if resized[places[0]] else "time of change"
    return f"{count}, first {Path(dataset.reader.files[places[0]])}, by its {what}"
