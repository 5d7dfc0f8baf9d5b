"""Class folders in a store that speaks S3.

They are listed by boto3, as is read what has to be looked at outside of the pipeline; in it, DALI reads. Both take the
endpoint and the credentials from the environment.
"""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..datasets import IMAGE_SUFFIXES, DataError, Dataset
from .folders import check_known

_ADDRESS = re.compile(r"s3:/+([^/]+)/*(.*)", re.DOTALL)  # pathlib makes one slash of two


def is_address(root: str | os.PathLike[str]) -> bool:
    return _ADDRESS.fullmatch(os.fspath(root)) is not None


def find(root: str | os.PathLike[str], train: bool) -> Dataset:
    """The images of `root/train/<class>/…` or `root/val/<class>/…`, else those of `root/<class>/…` for both.

    Raises:
        DataError: The store cannot be listed, or there are no such images.
    """
    bucket, prefix = _split(os.fspath(root))
    top = f"s3://{bucket}/{prefix}".rstrip("/")
    prefix = f"{prefix.rstrip('/')}/".lstrip("/")
    client, errors = _boto3()
    try:
        keys = list(_image_keys(client, top, bucket, prefix))
    except errors as error:
        raise DataError(f"cannot list '{top}': {error}") from error
    wanted, depth = keys, 0
    classes = _classes([key for key in keys if key.startswith("train/")], 1)
    if classes:
        folder, depth = ("train/" if train else "val/"), 1
        wanted = [key for key in keys if key.startswith(folder)]
        check_known(set(_classes(wanted, depth)), classes, Path(folder))
    classes = classes or _classes(keys, 0)
    number = {name: label for label, name in enumerate(classes)}
    placed = sorted((number[parts[depth]], key) for key in wanted if len(parts := key.split("/")) > depth + 1)
    if not placed:
        sought = f"{top}/{'train' if train else 'val'}" if depth else top
        raise DataError(f"'{sought}' holds no images ({' '.join(IMAGE_SUFFIXES)}) in class folders.")
    labels = np.array([label for label, _ in placed], dtype=np.int64)
    return Dataset(classes, labels, top, paths=[f"{top}/{key}" for _, key in placed])


def read(address: str) -> bytes:
    """The content of a file. Raises OSError."""
    bucket, key = _split(address)
    client, errors = _boto3()
    try:
        return client.get_object(Bucket=bucket, Key=key)["Body"].read()
    except errors as error:
        raise OSError(str(error)) from error


def _split(address: str) -> tuple[str, str]:
    match = _ADDRESS.fullmatch(address)
    assert match is not None
    return match[1], match[2]


def _classes(keys: list[str], depth: int) -> list[str]:
    return sorted({parts[depth] for key in keys if len(parts := key.split("/")) > depth + 1})


def _image_keys(client: Any, top: str, bucket: str, prefix: str) -> Iterator[str]:
    """Of all images that are not hidden, less the prefix."""
    with tqdm(desc=f"listing {top}", unit="file", leave=False, disable=None) as bar:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", ()):
                key = entry["Key"][len(prefix) :]
                if key.lower().endswith(IMAGE_SUFFIXES) and not key.startswith(".") and "/." not in key:
                    yield key
            bar.update(page["KeyCount"])


@cache
def _boto3() -> tuple[Any, tuple[type[Exception], ...]]:
    """The client, and the errors it has."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise DataError("s3:// addresses are listed with boto3; pip install boto3") from error
    try:
        return boto3.client("s3"), (BotoCoreError, ClientError)
    except (BotoCoreError, ValueError) as error:  # such as an endpoint that is no address
        raise DataError(f"cannot reach a store for s3:// addresses: {error}") from error
