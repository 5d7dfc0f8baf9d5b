"""What the programs report to the user."""

# The library's errors name arguments; on the command line they are options.
_OPTIONS = {
    'on_bad_file="replace"': "--on-bad-file replace",
    "max_bad_share=": "--max-bad-share ",
    "max_pixels=": "--max-pixels ",
    "max_pixels": "--max-pixels",
    "check_files in pipelines.bad_files.check": "python -m train check-data DIR",
}


class UserError(Exception):
    """A mistake that the user can correct. The message is complete without a traceback."""


def in_options(message: str) -> str:
    """Return a message of the library in the words of the command line."""
    for argument, option in _OPTIONS.items():
        message = message.replace(argument, option)
    return message
