"""Options for argparse: those of Config, and those that several commands share."""

import argparse
import dataclasses
import functools
import textwrap
import types
import typing
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from dali_salaug import METHODS
from pipelines import POLICIES
from train.config import Config
from train.errors import UserError

OPTIONS = {option.name: option for option in dataclasses.fields(Config)}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """A help whose paragraphs are wrapped and whose lists are kept, with each default that its text does not state."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        fill = functools.partial(textwrap.fill, width=width, break_on_hyphens=False)
        return "\n\n".join(p if "\n  " in f"\n{p}" else fill(" ".join(p.split())) for p in paragraphs)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        stated = "(default:" in (action.help or "") or action.default is None or action.default is False
        return action.help if stated else super()._get_help_string(action)


def add_option(parser: argparse._ActionsContainer, name: str, *, default: str | None = None) -> None:
    """Add the option of a field of Config. One that is not stated is absent from the namespace, see `stated`.

    Args:
        default: what the help says of it; None: the field's own default.
    """
    option = OPTIONS[name]
    meta = option.metadata
    default = default or meta["by_data"] or str(option.default)
    settings: dict[str, Any] = {"default": argparse.SUPPRESS, "help": f"{meta['text']} (default: {default})"}
    if option.type is bool:
        settings["action"] = argparse.BooleanOptionalAction
    else:
        settings |= {"type": _scalar_type(option.type), "choices": meta["choices"]}
        if "tuple" in str(option.type):
            names: tuple[str, ...] = meta["names"]
            settings["nargs"] = "+" if "..." in str(option.type) else len(names)
            settings["metavar"] = names if len(names) > 1 else names[0]
        elif not meta["choices"]:
            settings["metavar"] = name.upper()
    parser.add_argument(f"--{name.replace('_', '-')}", **settings)


def _scalar_type(annotation: Any) -> type:
    """Return int for `int | None` and `tuple[int, ...] | None`, float for `tuple[float, float] | None`, and so on."""
    if isinstance(annotation, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is tuple else annotation


def stated(options: argparse.Namespace, names: Collection[str] = tuple(OPTIONS)) -> dict[str, Any]:
    """Return the values of those options of Config that the command line states."""
    values = {name: value for name, value in vars(options).items() if name in names}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the finished run that a command works on."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run, or its best.pt")


def at_least(least: int) -> Callable[[str], int]:
    """Return the type of an option that counts something."""

    def count(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}; got {text}")
        return value

    return count


def check_writable(path: Path | None) -> None:
    """Raise UserError where the folder of the file does not exist: before the work whose outcome it is to hold."""
    if path is not None and not path.absolute().parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.absolute().parent} to write it in")


def names_of_methods() -> str:
    """Return the methods and policies, for the end of a help."""
    methods = "\n".join(f"  {name:<20} {entry.description}" for name, entry in METHODS.items())
    return f"methods:\n{methods}\n\npolicies: {', '.join(POLICIES)}"
