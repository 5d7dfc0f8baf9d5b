"""Files of a run: each is written whole or not at all, and one process at a time trains in a folder."""

import errno
import fcntl
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from train.errors import UserError

UNFINISHED = ".unfinished"  # ends the names of files that are being written


@contextmanager
def atomic_write(path: Path, then: str = "resume with --resume") -> Iterator[IO[bytes]]:
    """Open a file for the new content of `path`, which holds its old content until the new one is complete.

    The content goes to a temporary file in the same folder, which is flushed to the disk and then renamed to `path`.
    The folder is flushed too, so that the new name survives a power failure. A process that is killed meanwhile leaves
    the temporary file, see `remove_unfinished`.

    Args:
        then: the last advice of the error message.

    Raises:
        UserError: the file cannot be written. The message gives the cause, and says that the old content is intact.
    """
    require_file(path, "choose another name")
    unfinished = None
    try:
        handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}-", suffix=UNFINISHED, dir=path.parent)
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(unfinished, 0o644)  # mkstemp gives 0600
        os.replace(unfinished, path)
        unfinished = None
        _flush_folder(path.parent)
    except Exception as error:
        cause = _os_error(error)
        if cause is None:
            raise
        kept = "the previous one is intact" if path.exists() else "there was none before"
        remedy = "Free some space or restore write permission"
        if cause.errno in (errno.EMFILE, errno.ENFILE):
            remedy = "Raise the limit of open files (ulimit -n)"
        raise UserError(
            f"{path} cannot be written: {cause.strerror or cause}; {kept}. {remedy}, then {then}"
        ) from error
    finally:
        if unfinished is not None:
            os.unlink(unfinished)


def make_new(folder: Path) -> None:
    """Make a folder for results.

    Raises:
        UserError: it exists.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"{folder} already exists: choose another --out") from None


def require_file(path: Path, remedy: str = "remove it, or choose another run folder") -> None:
    """Raise UserError if a path leads to something else than a file, such as a FIFO, whose opening may never return."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a regular file; {remedy}")


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _os_error(error: BaseException | None) -> OSError | None:
    """Return the system's error behind another: torch.save on a full disk fails again as it closes the file."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def remove_unfinished(folder: Path) -> list[str]:
    """Remove the incomplete files that killed processes left in the folder, and return their names."""
    left = sorted(folder.glob(f".*{UNFINISHED}"))
    for path in left:
        path.unlink()
    return [path.name for path in left]


def to_json(content: Any, indent: int | None = None) -> str:
    """Return plain types as JSON, in which null stands for numbers that are not finite."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    return [_finite(value) for value in content] if isinstance(content, list | tuple) else content


def write_json(path: Path, content: Any) -> None:
    """Write the results of a program as JSON, see `to_json` and `atomic_write`."""
    with atomic_write(path, "run the command again") as file:
        file.write((to_json(content, indent=2) + "\n").encode())


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    """Write plain types as YAML, in the order of the mapping, see `atomic_write`."""
    with atomic_write(path) as file:
        file.write(yaml.safe_dump(content, sort_keys=False).encode())


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from training in the folder; the lock ends with the process, however that ends.

    Raises:
        UserError: another process has the lock.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another process is training there; wait for it, or choose another --out"
            ) from None
        except OSError:  # some network file systems cannot lock folders
            pass
        yield
    finally:
        os.close(handle)
