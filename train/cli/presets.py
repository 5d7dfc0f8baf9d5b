"""Presets: the options of a recipe in a YAML file, by a name of `presets/` or by a path."""

from pathlib import Path
from typing import Any

import yaml

from pipelines.readers.untrusted import read_bytes
from train.cli.parser import OPTIONS, in_words, scalar_type
from train.config import is_of
from train.errors import UserError, did_you_mean, first_line

PRESETS = {path.stem: path for path in sorted((Path(__file__).parent / "presets").glob("*.yaml"))}


def read_preset(name: str) -> dict[str, Any]:
    """Return the options of a preset.

    Args:
        name: of PRESETS, or the path of a YAML file, such as the config.yaml of a run. The folder of that run is left
            out.

    Raises:
        UserError: there is no such file, or it does not hold options.
    """
    try:
        options = yaml.safe_load(read_bytes(PRESETS.get(name, Path(name))))
    except FileNotFoundError as error:
        raise UserError(f"--preset must be one of {', '.join(PRESETS)}, or a YAML file; got {name!r}") from error
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise UserError(f"--preset {name}: cannot be read: {reason}") from error
    if not isinstance(options, dict) or not options.keys() <= OPTIONS.keys():
        unknown = sorted(map(str, options.keys() - OPTIONS.keys())) if isinstance(options, dict) else "no mapping"
        names = ", ".join(list(OPTIONS)[:4])
        hint = did_you_mean(unknown[0], OPTIONS)
        raise UserError(f"--preset {name}: its keys must be options such as {names}; got {unknown}{hint}")
    options.pop("out", None)
    return {option: _typed(value, option, name) for option, value in options.items()}


def _typed(value: Any, option: str, preset: str) -> Any:
    """Return the value of an option as its type has it.

    YAML 1.1 reads 1e-3 as text and off as false.

    Raises:
        UserError: it is of another type.
    """
    annotation = OPTIONS[option].type
    typed = _read(value, scalar_type(annotation))
    if not is_of(typed, annotation):
        raise UserError(f"--preset {preset}: {option} must be {in_words(annotation)}; got {value!r}")
    return typed


def _read(value: Any, scalar: type) -> Any:
    if isinstance(value, list):
        return tuple(_read(part, scalar) for part in value)
    if value is False and scalar is str:
        return "off"
    if isinstance(value, str) and scalar in (int, float):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if scalar is int and number.is_integer() else number
    return value
