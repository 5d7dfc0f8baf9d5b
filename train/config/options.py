"""The options of a run, on the command line and in config.yaml: each with its default and its help in one place."""

import dataclasses
import importlib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml

from pipelines.readers.untrusted import read_bytes
from train.errors import UserError, first_line

T = TypeVar("T", bound="Options")

# By the command that starts them: the configuration of each task's runs once the data is known, and the task itself.
# They are imported where they are needed, for neither this room nor the engine knows the tasks.
TASKS = {
    "train": ("train.config.classification:ResolvedConfig", "train.tasks.classification.task:Classification"),
    "reid": ("train.tasks.reid.config:ResolvedReidConfig", "train.tasks.reid.task:Reidentification"),
    "semi": ("train.tasks.semi.config:ResolvedSemiConfig", "train.tasks.semi.task:SemiSupervised"),
    "detect": ("train.tasks.detection.config:ResolvedDetectionConfig", "train.tasks.detection.task:Detection"),
}


def option(
    default: Any,
    text: str,
    *,
    choices: tuple[str, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    by_data: str | None = None,
    names: tuple[str, ...] = ("N",),
    free: bool = False,
    path: bool = False,
) -> Any:
    """Return a field of a configuration.

    Args:
        text: the help.
        choices: the legal values; None: not restricted to a few.
        low, high: the legal range.
        by_data: what a default of None stands for, in words.
        names: of a tuple's values in the help, one for each, or one for any number of them.
        free: whether the option may change with --resume, since the result does not depend on it, or the user decides.
        path: whether the value is a path, which a run keeps absolute.
    """
    metadata = {"text": text, "choices": choices, "low": low, "high": high, "by_data": by_data, "names": names}
    metadata |= {"free": free, "path": path}
    return field(default=default, metadata=metadata)


def restated(of: type["Options"], name: str, **changes: Any) -> Any:
    """Return the same option of another configuration as a field, with these arguments of :func:`option` changed.

    Raises:
        TypeError: `changes` names no argument of :func:`option`.
    """
    inherited = of.options()[name]
    return option(**{"default": inherited.default, **inherited.metadata, **changes})


def required(of: type["Options"], name: str) -> Any:
    """Return the same option of another configuration without its default, as a field."""
    return field(metadata=of.options()[name].metadata)


def is_of(value: Any, annotation: Any) -> bool:
    """Return whether a value is of the type of an option; a whole number is a number too, but True is none."""
    if isinstance(annotation, types.UnionType):
        return any(is_of(value, part) for part in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        parts = typing.get_args(annotation)
        if not isinstance(value, tuple):
            return False
        if parts[-1] is Ellipsis:
            return len(value) > 0 and all(is_of(part, parts[0]) for part in value)
        return len(value) == len(parts) and all(map(is_of, value, parts))
    if isinstance(value, bool):
        return annotation is bool
    return isinstance(value, int | float if annotation is float else annotation)


@dataclass(kw_only=True)
class Options:
    """Options, each a field that :func:`option` makes.

    Attributes:
        task: the command that starts such runs, a key of TASKS.
    """

    task: ClassVar[str]

    @classmethod
    def options(cls) -> dict[str, dataclasses.Field]:
        """Return the options by name."""
        return {each.name: each for each in dataclasses.fields(cls)}

    def to_dict(self) -> dict[str, Any]:
        """Return plain types only, for YAML and checkpoints: "task", and the options."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        return {"task": self.task, **values}

    @classmethod
    def from_dict(cls: type[T], values: Any) -> T:
        """Return the configuration of :meth:`to_dict`.

        Raises:
            ValueError: `values` is of a run of a task that is no case of this one, lacks an option, or has one that
                does not exist or is of another type.
        """
        if not isinstance(values, dict):
            raise ValueError(f"its configuration is a {type(values).__name__}")
        if "task" not in values:
            return cls._of(values)
        task = values["task"]
        if task not in TASKS:
            raise ValueError(f"its configuration has task = {task!r:.50}, none of {', '.join(TASKS)}")
        of_task = of_name(TASKS[task][0])
        if not issubclass(of_task, cls):
            raise ValueError(f"it is of a run of the command {task}, which this command does not take")
        return of_task._of({name: value for name, value in values.items() if name != "task"})

    @classmethod
    def _of(cls: type[T], values: dict[str, Any]) -> T:
        options = cls.options()
        unknown = sorted(map(str, values.keys() - options.keys()))
        needed = [name for name, each in options.items() if each.default is dataclasses.MISSING]
        missing = [name for name in needed if name not in values]
        if unknown or missing:
            raise ValueError(
                f"its configuration {f'has an unknown {unknown[0]!r}' if unknown else f'lacks {missing[0]!r}'}"
            )
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        config = cls(**plain)
        wrong = config.of_wrong_type()
        if wrong is not None:
            raise ValueError(f"its configuration has {wrong} = {values[wrong]!r}")
        return config

    @classmethod
    def load(cls: type[T], path: Path) -> T:
        """Return the configuration in a run's config.yaml.

        Raises:
            UserError: the file cannot be read, or is none.
        """
        try:
            return cls.from_dict(yaml.safe_load(read_bytes(path)))
        except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{path}: not the configuration of a run: {first_line(error)}") from error

    @classmethod
    def free(cls) -> list[str]:
        """Return the names of the options that may change with --resume."""
        return [name for name, each in cls.options().items() if each.metadata["free"]]

    @classmethod
    def paths(cls) -> list[str]:
        """Return the names of the options whose values are paths."""
        return [name for name, each in cls.options().items() if each.metadata["path"]]

    def of_wrong_type(self) -> str | None:
        """Return the name of the first option whose value is of another type than stated; None where all are right."""
        return next((name for name, o in self.options().items() if not is_of(getattr(self, name), o.type)), None)


def of_name(place: str) -> Any:
    """Return what has a name in a module, see TASKS."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
