"""The error of the programs."""


class UserError(Exception):
    """Something the user can put right. The message is complete; no traceback is needed."""
