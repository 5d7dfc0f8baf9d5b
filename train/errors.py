"""The error that the programs report to the user, and how it quotes others."""


class UserError(Exception):
    """A mistake that the user can correct. The message is complete without a traceback."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without the full stop; the name of its class where there is none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__
