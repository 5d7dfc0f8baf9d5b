"""Presets: the options of a recipe in a YAML file, by a name of `presets/` or by a path."""

from pathlib import Path
from typing import Any

import yaml

from pipelines.readers.untrusted import read_bytes
from train.cli.parser import OPTIONS
from train.errors import UserError, first_line

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
        raise UserError(f"--preset {name}: its keys must be options such as {names}; got {unknown}")
    options.pop("out", None)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
