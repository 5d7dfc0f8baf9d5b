"""The errors that the programs report to the user, and how they word those of others."""

import difflib
import errno
import os
import resource
from collections.abc import Iterable

_ADVICE = {
    "Raise the limit of open files (ulimit -n), or lower --workers": (errno.EMFILE, errno.ENFILE),
    "Free some space": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "Choose a folder that can be written to": (errno.EROFS,),
    "Restore the permission to read it, or to write there": (errno.EACCES, errno.EPERM),
    "Check the path": (
        errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL
    ),
}  # fmt: skip
_SPARE = 64  # open files below the limit, which a library that failed for want of more may have closed again

# The library's errors name arguments; on the command line they are options.
_OPTIONS = {
    'on_bad_file="replace"': "--on-bad-file replace",
    "max_bad_share=": "--max-bad-share ",
    "max_pixels=": "--max-pixels ",
    "max_pixels": "--max-pixels",
    "check_files in pipelines.bad_files.check": "dali-salaug check-data DIR",
}


class UserError(Exception):
    """A mistake that the user can correct. The message is complete without a traceback."""


def did_you_mean(word: object, names: Iterable[object]) -> str:
    """Return the end of a message: the closest of the legal names to a word; "" where none is close."""
    close = difflib.get_close_matches(str(word), map(str, names), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without the full stop; the name of its class where there is none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__


def system_error(error: BaseException) -> UserError | None:
    """Return the error to report in place of one of the system: with the path, its words, and what to do.

    Libraries may hide that there are too many open files behind an error of their own.

    Args:
        error: of the system, or of a library.

    Returns:
        None where the error is not the system's, or means that nobody reads the output any more.
    """
    if isinstance(error, BrokenPipeError):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        number, words = error.errno, error.strerror or str(error)
        if error.filename is not None:
            words = f"{os.fsdecode(error.filename)}: {words}"
    elif os.strerror(errno.EMFILE) in str(error) or _files_exhausted():
        number, words = errno.EMFILE, first_line(error)
    else:
        return None
    advice = next((a for a, numbers in _ADVICE.items() if number in numbers), None)
    return UserError(f"{words}. {advice or 'Check the disk or the network, and start again'}")


def _files_exhausted() -> bool:
    """Return whether this process has about as many open files as it may have."""
    try:
        return len(os.listdir("/proc/self/fd")) + _SPARE > resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except OSError as error:
        return error.errno == errno.EMFILE


def in_options(message: str) -> str:
    """Return a message of the library in the words of the command line."""
    for argument, option in _OPTIONS.items():
        message = message.replace(argument, option)
    return message
