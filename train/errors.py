"""The error that the programs report to the user."""


class UserError(Exception):
    """A mistake that the user can correct. The message is complete without a traceback."""
