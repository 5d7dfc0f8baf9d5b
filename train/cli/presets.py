"""Presets: the options of a recipe in a YAML file, by a name of `presets/` or by a path."""

from pathlib import Path
from typing import Any

import yaml

from pipelines.readers.untrusted import read_bytes
from train.cli.parser import in_words, scalar_type
from train.config import Config
from train.config.options import TASKS, Options, is_of, of_name
from train.errors import UserError, did_you_mean, first_line

PRESETS = {path.stem: path for path in sorted((Path(__file__).parent / "presets").glob("*.yaml"))}


def presets_of(of: type[Options]) -> list[str]:
    """Return the names of the presets of a configuration's own task."""
    tasks = {name: yaml.safe_load(path.read_bytes()).get("task", Config.task) for name, path in PRESETS.items()}
    return [name for name, task in tasks.items() if task == of.task]


def read_preset(name: str, of: type[Options] = Config) -> dict[str, Any]:
    """Return the options of a preset.

    Args:
        name: of PRESETS, or the path of a YAML file, such as the config.yaml of a run. The folder of that run is left
            out.
        of: the configuration that has the options.

    Raises:
        UserError: there is no such file, or it does not hold options, or those of another command.
    """
    try:
        options = yaml.safe_load(read_bytes(PRESETS.get(name, Path(name))))
    except FileNotFoundError as error:
        raise UserError(f"--preset must be one of {', '.join(presets_of(of))}, or a YAML file; got {name!r}") from error
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise UserError(f"--preset {name}: cannot be read: {reason}") from error
    legal = of.options()
    task = options.pop("task", of.task) if isinstance(options, dict) else of.task
    if task != of.task and not (task in TASKS and of_name(TASKS[task][0]).options().keys() <= legal.keys()):
        raise UserError(f"--preset {name} is for the command {task}; got {of.task}")
    if not isinstance(options, dict) or not options.keys() <= legal.keys():
        unknown = sorted(map(str, options.keys() - legal.keys())) if isinstance(options, dict) else "no mapping"
        names = ", ".join(list(legal)[:4])
        hint = did_you_mean(unknown[0], legal)
        raise UserError(f"--preset {name}: its keys must be options such as {names}; got {unknown}{hint}")
    options.pop("out", None)
    return {option: _typed(value, option, legal[option].type, name) for option, value in options.items()}


def _typed(value: Any, option: str, annotation: Any, preset: str) -> Any:
    """Return the value of an option as its type has it.

    YAML 1.1 reads 1e-3 as text and off as false.

    Raises:
        UserError: it is of another type.
    """
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
