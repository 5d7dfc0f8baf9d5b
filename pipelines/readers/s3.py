"""Files in a store that speaks S3, reached with boto3.

Inside the pipeline, DALI reads the files itself. Both take the endpoint and the credentials from the environment.
"""

import os
import re
from functools import cache
from typing import Any

from .base import DataError, StoreError

SCHEME = "s3://"
_ADDRESS = re.compile(r"s3://?([^/]+)(?:/(.*))?", re.DOTALL)  # pathlib makes one slash of two
_CHANGED = re.compile(r"[#?]|(^|/)\.{0,2}(/|$)")  # in a key: what DALI, for which addresses are URLs, makes another of
_OF_THE_FILE = {"NoSuchKey", "404", "AccessDenied", "403", "InvalidObjectState"}  # errors; others are the store's


def is_address(root: str | os.PathLike[str]) -> bool:
    """Return whether `root` is an s3:// address."""
    return _ADDRESS.fullmatch(os.fspath(root)) is not None


def split(address: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the bucket and the key of an address.

    Raises:
        ValueError: It is not an s3:// address.
    """
    match = _ADDRESS.fullmatch(os.fspath(address))
    if match is None:
        raise ValueError(f"address must be s3://bucket/key, got {os.fspath(address)!r}")
    return match[1], match[2] or ""


def is_plain(path: str) -> bool:
    """Return whether DALI finds what `path` names: every file on disk, but not every address."""
    return not path.startswith(SCHEME) or _CHANGED.search(split(path)[1]) is None


def read(address: str) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: It cannot be read.
        StoreError: The store does not answer, or refuses everything.
    """
    bucket, key = split(address)
    store, errors = client()
    try:
        return store.get_object(Bucket=bucket, Key=key)["Body"].read()
    except errors as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code")
        if code in _OF_THE_FILE:
            raise OSError(str(error)) from error
        raise StoreError(
            f"the store at {store.meta.endpoint_url} cannot be read: {error}. No file is to blame: '{address}' was not "
            "reached. Resume the run when the store answers again."
        ) from error


@cache
def client() -> tuple[Any, tuple[type[Exception], ...]]:
    """Return boto3's client of the store, and the errors that it raises.

    Raises:
        DataError: boto3 is not installed, or the environment's endpoint is not usable.
    """
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise DataError("s3:// addresses are listed with boto3; pip install boto3") from error
    try:
        return boto3.client("s3"), (BotoCoreError, ClientError)
    except (BotoCoreError, ValueError) as error:  # such as an endpoint that is not an address
        raise DataError(f"cannot reach a store for s3:// addresses: {error}") from error


os.register_at_fork(after_in_child=client.cache_clear)  # its locks may be held by threads that stayed in the parent
