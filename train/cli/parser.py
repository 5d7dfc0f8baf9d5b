"""Options for argparse: those of Config, and those that several commands share."""

import argparse
import functools
import os
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

from dali_salaug import METHODS
from pipelines import POLICIES
from train.config import Config
from train.config.options import Options
from train.distributed import report
from train.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """A parser whose errors name the closest legal word, and which several processes print once."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.unrecognized(unknown, self.flags(options))
        return options

    def flags(self, options: argparse.Namespace) -> set[str]:
        """Return the options of this parser, and of the commands that `options` names."""
        own = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                command = action.choices.get(str(getattr(options, action.dest, None)))
                own |= command.flags(options) if command else set()
        return own

    def unrecognized(self, words: list[str], flags: Collection[str]) -> NoReturn:
        """Exit because of words that are none of the options `flags`, nor their values."""
        hints = (did_you_mean(word.partition("=")[0], flags) for word in words if word.startswith("--"))
        self.error(f"unrecognized arguments: {' '.join(words)}{next(filter(None, hints), '')}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean(value, action.choices or ())
            raise

    def error(self, message: str) -> NoReturn:
        report(f"{self.format_usage()}{self.prog}: error: {message}")
        sys.exit(2)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """A help whose paragraphs are wrapped and whose lists are kept, with each default that its text does not state."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        fill = functools.partial(textwrap.fill, width=width, break_on_hyphens=False)
        return "\n\n".join(p if "\n  " in f"\n{p}" else fill(" ".join(p.split())) for p in paragraphs)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        stated = "(default:" in (action.help or "") or action.default is None or action.default is False
        return action.help if stated else super()._get_help_string(action)


def add_option(
    parser: argparse._ActionsContainer, name: str, of: type[Options] = Config, *, default: str | None = None
) -> None:
    """Add an option of a configuration. One that is not stated is absent from the namespace, see `stated`.

    Args:
        of: the configuration.
        default: what the help says of it; None: the option's own default.
    """
    option = of.options()[name]
    meta = option.metadata
    default = default or meta["by_data"] or str(option.default)
    settings: dict[str, Any] = {"default": argparse.SUPPRESS, "help": f"{meta['text']} (default: {default})"}
    if option.type is bool:
        settings["action"] = argparse.BooleanOptionalAction
    else:
        settings |= {"type": scalar_type(option.type), "choices": meta["choices"]}
        if "tuple" in str(option.type):
            names: tuple[str, ...] = meta["names"]
            settings["nargs"] = "+" if "..." in str(option.type) else len(names)
            settings["metavar"] = names if len(names) > 1 else names[0]
        elif not meta["choices"]:
            settings["metavar"] = name.upper()
    parser.add_argument(f"--{name.replace('_', '-')}", **settings)


def scalar_type(annotation: Any) -> type:
    """Return int for `int | None` and `tuple[int, ...] | None`, float for `tuple[float, float] | None`, and so on."""
    if isinstance(annotation, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is tuple else annotation


def in_words(annotation: Any) -> str:
    """Return what values of an option's type are, for a message."""
    if isinstance(annotation, types.UnionType):
        return " or ".join(map(in_words, typing.get_args(annotation)))
    if typing.get_origin(annotation) is tuple:
        first, *others = typing.get_args(annotation)
        count = "at least one value" if others[-1] is Ellipsis else f"{1 + len(others)} values"
        return f"{count}, each {in_words(first)}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", types.NoneType: "null"}
    return words[annotation]


def stated(options: argparse.Namespace, names: Collection[str]) -> dict[str, Any]:
    """Return the values of those options of a configuration that the command line states."""
    values = {name: value for name, value in vars(options).items() if name in names}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def flags_of(options: Mapping[str, Any]) -> list[str]:
    """Return options of a configuration as words of the command line."""
    words = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            words += [flag, *map(str, value)] if isinstance(value, tuple) else [f"{flag}={value}"]
    return words


def add_boxes(parser: argparse.ArgumentParser, default: str = "boxes.tsv in the data folder, if there") -> None:
    """Add the table of the objects' boxes; `default` says which one is read where none is stated."""
    parser.add_argument("--boxes", type=Path, metavar="FILE", help=f"table of the objects' boxes (default: {default})")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the finished run that a command works on."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run, or its best.pt")


def at_least(least: int, most: int = 10**9) -> Callable[[str], int]:
    """Return the type of an option that counts something."""

    def count(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}; got {text}")
        if value > most:
            raise argparse.ArgumentTypeError(f"must be a whole number of at most {most}; got {text}")
        return value

    return count


SEED = at_least(0, 2**63 - 1)  # the type of --seed


def check_writable(path: Path | None) -> None:
    """Raise UserError where a file cannot be written: before the work whose outcome it is to hold."""
    if path is None:
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UserError(f"{path}: there is no folder {folder} to write it in")
    if path.exists() and not path.is_file():  # opening a FIFO may never return, and a device would be replaced
        raise UserError(f"{path}: not a regular file; choose another name")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UserError(f"{path}: no permission to write it; choose another folder")


def names_of_methods() -> str:
    """Return the methods and policies, for the end of a help."""
    methods = "\n".join(f"  {name:<20} {entry.description}" for name, entry in METHODS.items())
    return f"methods:\n{methods}\n\npolicies: {', '.join(POLICIES)}"
