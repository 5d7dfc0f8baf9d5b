"""Class folders in a store that speaks S3."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..datasets import Dataset
from ..formats import IMAGE_SUFFIXES
from ..readers.base import DataError, StoreError
from ..readers.files import files_reader
from ..readers.s3 import SCHEME, client, split
from .folders import check_known
from .names import TEST, TRAIN, VAL, is_left_out, note_left_out, split_folder


def find(root: str | os.PathLike[str], train: bool) -> Dataset:
    """Find the images of `root/train/<class>/…` or `root/val/<class>/…`, or those of `root/<class>/…` for both.

    Raises:
        DataError: The store cannot be listed, or there are no such images.
    """
    bucket, prefix = split(root)
    top = f"{SCHEME}{bucket}/{prefix}".rstrip("/")
    prefix = f"{prefix.rstrip('/')}/".lstrip("/")
    store, errors = client()
    try:
        keys, others = _keys(store, top, bucket, prefix)
    except errors as error:
        raise StoreError(f"cannot list '{top}': {error}") from error
    wanted, depth, folder = keys, 0, None
    folders = {_parts(key)[0] for key in keys if len(_parts(key)) > 1}
    training = split_folder(folders, TRAIN, top)
    classes = _classes([key for key in keys if _parts(key)[0] == training], 1)
    if classes:
        splits = (TRAIN,) if train else (VAL, TEST)
        folder, depth = next((name for s in splits if (name := split_folder(folders, s, top))), None), 1
        wanted = [key for key in keys if _parts(key)[0] == folder]
        check_known(set(_classes(wanted, depth)), classes, Path(f"{folder}/"))
    classes = classes or _classes(keys, 0)
    number = {name: label for label, name in enumerate(classes)}
    placed = sorted((number[parts[depth]], key) for key in wanted if len(parts := _parts(key)) > depth + 1)
    if not placed:
        sought = f"{top}/{folder or VAL}" if depth else top
        raise DataError(f"'{sought}' holds no images ({' '.join(IMAGE_SUFFIXES)}) in class folders.")
    labels = np.array([label for label, _ in placed], dtype=np.int64)
    left_out: Counter[str] = Counter()
    for parts in map(_parts, others):
        if len(parts) > depth + 1 and (not depth or parts[0] == folder):
            note_left_out(parts[-1], left_out)
    reader = files_reader([f"{SCHEME}{bucket}/{prefix}{key}" for _, key in placed])
    return Dataset(classes, labels, top, reader, left_out=dict(left_out))


def _classes(keys: list[str], depth: int) -> list[str]:
    return sorted({parts[depth] for key in keys if len(parts := _parts(key)) > depth + 1})


def _parts(key: str) -> list[str]:
    """Return the folders of a key and its name; between two slashes is no folder."""
    return [part for part in key.split("/") if part]


def _keys(store: Any, top: str, bucket: str, prefix: str) -> tuple[list[str], list[str]]:
    """Return the keys of all images, and of all other files, that are not hidden, without the prefix."""
    images: list[str] = []
    others: list[str] = []
    with tqdm(desc=f"listing {top}", unit="file", leave=False, disable=None) as bar:
        for page in store.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", ()):
                key = entry["Key"][len(prefix) :]
                if not any(map(is_left_out, _parts(key))) and not key.endswith("/"):
                    (images if key.lower().endswith(IMAGE_SUFFIXES) else others).append(key)
            bar.update(page["KeyCount"])
    return images, others
