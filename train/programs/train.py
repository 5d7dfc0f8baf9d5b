"""Train an image classifier with saliency-guided augmentation, or resume a run.

The run's folder gets a log, TensorBoard events, pictures of augmented samples, the last and the best checkpoint, and
config.yaml, which is a preset for further runs.
"""

import argparse
import functools
import logging
import shlex
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dali_salaug import METHODS
from train.cli.checks import check, check_effect
from train.cli.parser import add_option, names_of_methods, stated
from train.cli.presets import presets_of, read_preset
from train.config import Config
from train.config.run import ResolvedRun, RunConfig
from train.data.loaders import absolute
from train.distributed import World, joined, may_restart
from train.engine import checkpoint
from train.engine.checkpoint import LAST
from train.engine.files import lock_folder, remove_unfinished, write_yaml
from train.engine.log import WIDTH
from train.engine.loop import PICTURE, best_of, fit, print_finished, restore
from train.engine.memory import is_out_of_memory, out_of_memory
from train.engine.run import Run
from train.engine.stopping import Interrupted
from train.engine.task import task_of
from train.errors import UserError, system_error
from train.models.published import Source


def add_training_options(
    parser: argparse._ActionsContainer, defaults: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Add the options of Config, and those that say where they come from.

    Args:
        defaults: what the help says of some defaults in place of their own.
    """
    for name in Config.options():
        add_option(parser, name, default=defaults.get(name))
    add_common_options(parser)


def add_common_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that each command that trains has beside those of its configuration."""
    parser.add_argument(
        "--preset",
        metavar="NAME",
        default=None,
        help="take the options of a recipe by its name, see below, or of a YAML file such as another run's config.yaml;"
        " options on the command line come first (default: none)",
    )
    parser.add_argument("--resume", action="store_true", help="resume the run in --out (default: a new run)")
    parser.add_argument(
        "--list-methods", action="store_true", help="print the methods with their sources and stop (default: train)"
    )


def add_options(parser: argparse.ArgumentParser, defaults: Mapping[str, str] = MappingProxyType({})) -> None:
    add_training_options(parser, defaults)
    parser.usage = "%(prog)s [OPTION ...]"
    parser.epilog = f"{names_of_methods()}\n\npresets: {', '.join(presets_of(Config))}"


def methods_table() -> str:
    """Return the methods as text, one a line: name, kind, the saliency that it uses, source, description."""
    rows = [("method", "kind", "saliency", "source", "what the network receives")]
    for name, entry in METHODS.items():
        rows.append((name, entry.kind, ", ".join(entry.maps) or "none", entry.source, entry.description))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def stated_options(options: argparse.Namespace, of: type[RunConfig] = Config) -> dict[str, Any]:
    """Return the options of a configuration that the preset and the command line state; the command line wins.

    Raises:
        UserError: the preset cannot be read.
    """
    chosen = stated(options, of.options())
    preset = {} if options.preset is None else read_preset(options.preset, of)
    for one, other in (("lr", "lr_per_256"), ("lr_per_256", "lr")):  # each takes the place of the other
        if one in chosen:
            preset.pop(other, None)
    return preset | chosen


def run(options: argparse.Namespace) -> int:
    """Train as the command line states. Returns the exit status: 0, or 130 when interrupted.

    Raises:
        UserError, DataError: the options or the data cannot be used.
    """
    return start(options, Config, dict)


def start(
    options: argparse.Namespace, of: type[RunConfig], completed: Callable[[dict[str, Any]], dict[str, Any]]
) -> int:
    """Train as the command line states. Returns the exit status, as `run`.

    Args:
        of: the configuration of the command's task.
        completed: returns the options of a new run with the command's own defaults.
    """
    if options.list_methods:
        print(methods_table())
        return 0
    chosen = stated_options(options, of)
    if not options.resume:
        chosen = completed(chosen)
        config = of(**chosen)
        check(config)
        if isinstance(config, Config):
            check_effect(stated(options, of.options()), config)
    return main(chosen, options.resume, of)


def main(chosen: dict[str, Any], resuming: bool, of: type[RunConfig] = Config) -> int:
    """Train by the options of a configuration that are stated, and the defaults. Returns the exit status, as `run`.

    Raises:
        UserError, DataError: the options or the data cannot be used.
    """
    for name in of.paths():
        value = chosen.get(name)  # a run can be resumed from another working directory
        if isinstance(value, str):
            chosen[name] = absolute(value)
        elif isinstance(value, tuple):
            chosen[name] = tuple(map(absolute, value))
    if may_restart() and "out" not in chosen:
        raise UserError("torchrun --max-restarts needs --out here: a restarted run finds its last checkpoint there")
    if may_restart() and (Path(chosen["out"]) / LAST).is_file():
        resuming = True
    if resuming:
        if "out" not in chosen:
            raise UserError("--resume needs --out, the folder of the run to resume")
        folder = Path(chosen["out"])
        if not (folder / LAST).is_file():
            raise UserError(
                f"{folder / LAST}: no such checkpoint; name the folder of a run that has one, or omit --resume to start"
                " a new run"
            )
        state, stored = checkpoint.load_any_run(folder / LAST)
        stored = config_to_resume(stored, chosen)
        check(stored)
        with joined(stored.device) as world:
            return train(resume(stored, state, folder, world), folder, resuming=True)
    config = of(**chosen)
    check(config)
    with joined(config.device) as world:
        source = task_of(config).read_source(config, chosen, world)
        return train(*begin(config, world, source), resuming=False)


def begin(config: RunConfig, world: World, source: Source | None = None) -> tuple[Run, Path]:
    """Return a new run and its folder, which has no checkpoint of another. Together.

    Args:
        config: checked.
        source: the weights to start from; None: random ones.

    Raises:
        UserError: the folder already has a run, or the weights are not those of the model.
    """
    folder = Path(config.out or f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{config.title}")
    if world.is_main:
        # A run that was killed before its first checkpoint starts again.
        if (folder / LAST).exists():
            raise UserError(f"{folder} already has a run: resume it with --resume, or choose another --out")
        task_of(config).prepare(config)  # one process generates the embedded data
    folder = Path(world.broadcast(str(folder)))
    _print_listing(config, world)
    resolved = task_of(config).resolve(config, source, world)
    resolved.out = str(folder)
    check_share(resolved, world)
    run = Run(resolved, world)
    loaded = None if source is None else run.network.start_from(source, run.classes)
    if world.is_main:
        if loaded is not None:
            print(loaded)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {folder}: the folder cannot be made: {error.strerror}") from error
    return run, folder


def resume(config: ResolvedRun, state: dict[str, Any], folder: Path, world: World) -> Run:
    """Return the run of a configuration as its last checkpoint has it. Together.

    Raises:
        UserError: the images have changed since.
    """
    check_share(config, world)
    _print_listing(config, world)
    progress = state.get("progress")
    finished = isinstance(progress, dict) and progress.get("epoch") == config.epochs
    with _unwarned() if finished else nullcontext():  # its first start has warned
        run = Run(config, world)
    restore(run, state, folder)
    return run


@contextmanager
def _unwarned() -> Iterator[None]:
    """Silence the warnings of the data's logger."""
    logger = logging.getLogger("pipelines")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _print_listing(config: RunConfig, world: World) -> None:
    """Print that the images are listed, which takes minutes for many on a slow disk; the main process does."""
    if world.is_main:
        print(f"listing the images of {config.data or 'the embedded data set'}", flush=True)


def check_share(config: ResolvedRun, world: World) -> None:
    """Raise UserError where the processes cannot share the batch evenly."""
    parts = world.size * config.accumulate
    if config.batch_size % parts:
        raise UserError(
            "--batch-size, the images of a step, must be a multiple of the processes times --accumulate,"
            f" {world.size} × {config.accumulate}; got {config.batch_size}"
        )


def train(run: Run, folder: Path, *, resuming: bool) -> int:
    """Train, write config.yaml, and print where the run starts and how it ends. Together. Returns the exit status."""
    if run.world.is_main:
        print_start(run, folder, resuming=resuming)
    if run.epoch >= run.config.epochs:
        print_finished(run, folder)
        return 0
    start = time.perf_counter()
    try:
        train_in(run, folder)
    except OSError as error:
        report = system_error(error)
        if report is None:
            raise
        raise UserError(f"{report}. The checkpoints in {folder} are intact: resume with --resume") from error
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(error, run.config, run.device) from error
        raise
    except Interrupted:
        if run.world.is_main:
            command = f"dali-salaug --resume --out {shlex.quote(str(folder))}"
            print(f"\nInterrupted; the state is in {folder / LAST}. To resume:\n  {command}", file=sys.stderr)
        return 130
    if run.world.is_main:
        best = f"best {best_of(run)}" if run.best >= 0 else "not validated"  # resumed for fewer epochs
        print(f"done in {time.perf_counter() - start:.0f} s: {best}, see {folder / PICTURE}")
    return 0


def train_in(run: Run, folder: Path) -> None:
    """Train in the folder of the run, which no other process may use meanwhile. Together."""
    if not run.world.is_main:
        fit(run, folder)
        return
    with lock_folder(folder):
        for name in [*remove_unfinished(folder), *remove_unfinished(folder / checkpoint.KEPT)]:
            print(f"removed {name}, left by a process that was killed while it wrote")
        write_yaml(folder / "config.yaml", run.config.to_dict())
        fit(run, folder)


def print_start(run: Run, folder: Path, *, resuming: bool) -> None:
    """Print what is trained on which images."""
    processes = f", {run.world.size} processes" if run.world.size > 1 else ""
    *lines, last = run.task.describe(run.network, run.objective)
    lines.append(f"{last} on {run.device}{processes}")
    fill = functools.partial(textwrap.fill, width=WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    print(*(fill(line, break_long_words=False) for line in lines), f"run folder: {folder}", sep="\n", flush=True)
    if resuming and run.epoch < run.config.epochs:
        print(f"resuming in epoch {run.epoch + 1} after step {run.step} of {run.steps}", flush=True)


def config_to_resume(stored: ResolvedRun, chosen: dict[str, Any]) -> ResolvedRun:
    """Return the configuration of the checkpoint with the options that may change as the command line states them.

    Raises:
        UserError: the command line states another value of an option that may not change; the message names it.
    """
    for name, value in chosen.items():
        if name in stored.free():
            setattr(stored, name, value)
    differs = [
        f"--{name.replace('_', '-')} is {getattr(stored, name)} in the checkpoint, {value} on the command line"
        for name, value in chosen.items()
        if getattr(stored, name) != value
    ]
    if differs:
        raise UserError(
            f"cannot resume: {'; '.join(differs)}. Leave the option out, or start a new run in another --out"
        )
    return stored
