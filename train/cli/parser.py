"""The command line of `python -m train`: the options of Config, presets, and what the help says."""

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dali_salaug import METHODS, __version__
from pipelines import POLICIES
from train.config import Config
from train.errors import UserError

PRESETS = Path(__file__).parent / "presets"


def _scalar_type(annotation: Any) -> type:
    """int for `int | None` and `tuple[int, ...] | None`, float for `tuple[float, float] | None`, and so on."""
    if isinstance(annotation, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is tuple else annotation


def add_option(parser: argparse.ArgumentParser, option: dataclasses.Field, *, default: str) -> None:
    """Let the parser take one option of Config; `default` is what its help says of it."""
    meta, flag = option.metadata, "--" + option.name.replace("_", "-")
    if option.type is bool:
        action = argparse.BooleanOptionalAction
        parser.add_argument(flag, action=action, help=f"{meta['text']} (default: {default})")
        return
    parser.add_argument(
        flag,
        type=_scalar_type(option.type),
        choices=meta["choices"],
        nargs=_count(option),
        metavar=_metavar(option),
        help=f"{meta['text']} (default: {default})",
    )


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that counts something."""

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
    """Raise UserError where a file of that name has no folder: before the work whose outcome it is to hold."""
    if path is not None and not path.absolute().parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.absolute().parent} to write it in")


def names_of_methods() -> str:
    """Return the methods and policies, for the end of a help."""
    methods = "\n".join(f"  {name:<20} {entry.description}" for name, entry in METHODS.items())
    return f"methods:\n{methods}\n\npolicies: {', '.join(POLICIES)}"


def methods_table() -> str:
    """Return the methods as text, one a line: name, kind, the saliency that it uses, source, description."""
    rows = [("method", "kind", "saliency", "source", "what the network is given")]
    for name, entry in METHODS.items():
        rows.append((name, entry.kind, ", ".join(entry.maps) or "none", entry.source, entry.description))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line. Options that are not given are absent from the namespace; defaults are Config's."""
    presets = ", ".join(path.stem for path in sorted(PRESETS.glob("*.yaml")))
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description="Train an image classifier with saliency-guided augmentation. python -m train show --help: what a"
        " method does to your own images. python -m train export --help: the trained weights, for use elsewhere."
        " python -m train check-data --help: are all images whole.",
        epilog=f"{names_of_methods()}\n\npresets: {presets}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    for option in dataclasses.fields(Config):
        add_option(parser, option, default=str(option.metadata["by_data"] or option.default))
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="options by the name of a recipe, see below, or from a YAML file such as another run's config.yaml; those"
        " given here as well come first (default: none)",
    )
    parser.add_argument(
        "--list-methods", action="store_true", help="print the methods with their sources and stop (default: train)"
    )
    parser.add_argument(
        "--version", action="version", version=f"dali_salaug {__version__}", help="print the version and stop"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out (default: a new run)")
    return parser


def _metavar(option: dataclasses.Field) -> str | tuple[str, ...] | None:
    if option.metadata["choices"]:
        return None
    if "tuple" not in str(option.type):
        return option.name.upper()
    names: tuple[str, ...] = option.metadata["names"]
    return names if len(names) > 1 else names[0]


def _count(option: dataclasses.Field) -> str | int | None:
    if "tuple" not in str(option.type):
        return None
    return "+" if "..." in str(option.type) else len(option.metadata["names"])


def parse(arguments: list[str] | None = None) -> tuple[dict[str, Any], bool]:
    """The options given on the command line and by its preset, and whether to resume.

    Prints and exits as argparse does, for --list-methods too.

    Raises:
        UserError: the preset cannot be read.
    """
    given = vars(build_parser().parse_args(arguments))
    if given.pop("list_methods", False):
        print(methods_table())
        raise SystemExit
    resume, preset = given.pop("resume", False), given.pop("preset", None)
    chosen = {} if preset is None else _read_preset(preset)
    for one, other in (("lr", "lr_per_256"), ("lr_per_256", "lr")):  # each in place of the other
        if one in given:
            chosen.pop(other, None)
    return {k: tuple(v) if isinstance(v, list) else v for k, v in (chosen | given).items()}, resume


def _read_preset(name: str) -> dict[str, Any]:
    """The options in a file of PRESETS or in any YAML file; the place of a run, in its config.yaml, is left out."""
    path = PRESETS / f"{name}.yaml" if "/" not in name and not name.endswith(".yaml") else Path(name)
    try:
        options = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        names = ", ".join(p.stem for p in sorted(PRESETS.glob("*.yaml")))
        raise UserError(f"--preset must be one of {names}, or a YAML file; got {name!r}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--preset {name}: cannot be read: {error}") from error
    legal = [option.name for option in dataclasses.fields(Config)]
    if not isinstance(options, dict) or not set(options) <= set(legal):
        unknown = sorted(map(str, set(options).difference(legal))) if isinstance(options, dict) else "no mapping"
        raise UserError(f"--preset {name}: its keys must be options such as {', '.join(legal[:4])}; got {unknown}")
    options.pop("out", None)
    return options
