"""Measure loaders beside this project's, for speed and for correctness, each in an environment of its own.

What pip installs for them is kept in the cache folder. Without a network, peers that are not installed yet are left
out, and the table says so.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipelines import DataError, find_dataset
from pipelines.build import usable_cores
from train.benchmarks.loaders import bad_files, correctness, environments, speed
from train.benchmarks.loaders.job import Job, Samples
from train.benchmarks.loaders.peers import NAMES
from train.benchmarks.loaders.processes import Peer, PeerError
from train.benchmarks.measuring import place_of, spread, summary
from train.cli.parser import at_least
from train.data.shapes import embedded_data

HELP = "speed and correctness of this loader beside other libraries, each in an environment of its own"
PARTS = ("speed", "neighbour", "correctness")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peers", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME",
        help=f"loaders to measure, of {', '.join(NAMES)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
        help=f"what to find out, of {', '.join(PARTS)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--data", metavar="DIR", help="image files on this machine, for the speed (default: the embedded data set)"
    )
    parser.add_argument("--image-size", type=at_least(8, 16384), help="side in pixels (default: 224; embedded data 48)")
    parser.add_argument("--batch-size", type=at_least(1), default=64, help="images in a batch")
    parser.add_argument("--repeats", type=at_least(1), default=5, help="interleaved turns")
    parser.add_argument("--batches", type=at_least(1), default=20, help="batches in a turn")
    parser.add_argument("--workers", type=at_least(1, 1024), help="threads or processes (default: the usable cores)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where batches are wanted")
    parser.add_argument("--quick", action="store_true", help="tiny and short: to see that everything runs")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return "settings"; "peers": of each its title, form, versions' requirements, and "left out", why it was, or None;
    and by part what was found.

    Raises:
        DataError: `--data` is no folder of image files on this machine.
    """
    if options.quick:
        options.image_size, options.batch_size, options.repeats, options.batches = 32, 8, 1, 2
    chosen = [name for name in NAMES if name in options.peers]
    modules = {name: import_module(f"train.benchmarks.loaders.peers.{name}") for name in chosen}
    with tempfile.TemporaryDirectory(prefix="loaders-") as name:
        return Board(options, modules, Path(name)).run()


class Board:
    """A run of the command; `folder` is for its files, and is removed after it."""

    def __init__(self, options: argparse.Namespace, modules: dict[str, Any], folder: Path) -> None:
        self.options, self.modules, self.folder = options, modules, folder
        self.workers = options.workers or usable_cores()
        self.device = place_of(options.device).type
        self.skip = 2 if options.quick else 8 + 4 * self.workers  # batches that may have been made ahead
        self.sizes = correctness.QUICK if options.quick else correctness.Sizes()
        self.starts: dict[str, Callable[[], Peer]] = {}
        self.timed: dict[str, Callable[[], Peer]] = {}  # those whose own form of the data there is
        self.facts = {
            name: {"title": peer.TITLE, "form": peer.FORM, "pip": list(peer.PIP), "left out": None}
            for name, peer in modules.items()
        }

    def run(self) -> dict[str, Any]:
        options, parts = self.options, self.options.parts
        samples = self._samples() if {"speed", "neighbour"} & set(parts) else []
        self._install()
        found: dict[str, Any] = {}
        if samples:
            found["conversion"] = self._convert(samples)
        if "speed" in parts:
            found["speed"] = {work: self._speed(work, augment) for work, augment in speed.WORK.items()}
        if "neighbour" in parts:
            found["neighbour"] = self._neighbour()
        if "correctness" in parts:
            found["correctness"] = self._correctness()
        names = ("image_size", "batch_size", "repeats", "batches")
        settings = {
            "data": options.data or "embedded",
            **{name: getattr(options, name) for name in names},
            "workers": self.workers,
            "device": self.device,
        }
        return {"settings": settings, "peers": self.facts, **found}

    def _samples(self) -> Samples:
        """Return the images of --data, repeated so that no epoch ends more than once in a turn."""
        options = self.options
        dataset = find_dataset(options.data or embedded_data())
        if dataset.reader.kind != "files" or any("://" in path for path in dataset.reader.files):
            raise DataError(f"--data must be image files on this machine; got {options.data}")
        options.image_size = options.image_size or (48 if options.data is None else 224)
        samples = list(zip(map(os.fspath, dataset.reader.files), dataset.class_indices.tolist(), strict=True))
        least = (self.skip + options.batches) * options.batch_size
        return samples * -(-least // len(samples))

    def _install(self) -> None:
        for name, peer in tqdm(self.modules.items(), desc="environments", leave=False, disable=None):
            try:
                python = environments.interpreter(name, peer.PIP)
            except environments.NotInstalled as error:
                self.facts[name]["left out"] = f"not installed: {error}"
                continue
            self.starts[name] = partial(Peer, name, python, self.folder / f"{name}.log")

    def _convert(self, samples: Samples) -> dict[str, Any]:
        """Return seconds and bytes of the peers' own forms. A peer that cannot convert is left out of the speeds."""
        listing = self.folder / "samples.json"
        listing.write_text(json.dumps(samples))
        found: dict[str, Any] = {}
        for name in tqdm(self._converting(), desc="conversions", leave=False, disable=None):
            with self.starts[name]() as peer:
                try:
                    out = str(self.folder / f"samples-{name}")
                    found[name] = {"images": len(samples), **peer.ask("convert", listing=str(listing), out=out)}
                except PeerError as error:
                    found[name] = {"failed": f"{error.how}: {error}"[:300]}
        self.timed = {name: start for name, start in self.starts.items() if "failed" not in found.get(name, {})}
        return found

    def _converting(self) -> list[str]:
        return [name for name in self.starts if hasattr(self.modules[name], "convert")]

    def _jobs(self, augment: bool) -> dict[str, Job]:
        options = self.options
        return {
            name: Job(
                str(self.folder / "samples.json"),
                str(self.folder / f"samples-{name}"),
                batch_size=options.batch_size,
                size=options.image_size,
                augment=augment,
                workers=self.workers,
                device=self.device,
            )
            for name in self.timed
        }

    def _bar(self, what: str, total: int) -> tqdm:
        return tqdm(desc=what, total=total, leave=False, disable=None)

    def _speed(self, work: str, augment: bool) -> dict[str, Any]:
        options = self.options
        total = len(self.timed) * (options.repeats + 1)
        with self._bar(work, total) as bar, speed.Turns(self.timed, self._jobs(augment)) as turns:
            runs = speed.speeds(turns, options.repeats, self.skip, options.batches, bar.update)
        found: dict[str, Any] = {name: {"images/s": summary(values)} for name, values in runs.items()}
        for name, values in runs.items() if "ours" in runs else ():
            found[name]["over ours"] = summary([a / b for a, b in zip(values, runs["ours"], strict=True)])
        return {**found, **{name: {"failed": why} for name, why in turns.failed.items()}}

    def _neighbour(self) -> dict[str, Any]:
        options = self.options
        total = len(self.timed) * (options.repeats + 1)
        side = 32 if options.quick else 224 if self.device == "cuda" else 64  # of the step's images
        with self._bar("neighbour", total) as bar, speed.Turns(self.timed, self._jobs(True)) as turns:
            runs = speed.neighbours(turns, options.repeats, self.skip, options.batches, side, bar.update)
        found: dict[str, Any] = {
            name: {what: summary(values) for what, values in rows.items()} for name, rows in runs.items()
        }
        return {**found, **{name: {"failed": why} for name, why in turns.failed.items()}}

    def _correctness(self) -> dict[str, Any]:
        total = len(self.starts) * (4 + len(self.sizes.kinds))
        found = {}
        with self._bar("correctness", total) as bar:
            for name, start in self.starts.items():
                bar.set_postfix_str(name)
                begun = time.perf_counter()
                converts, folder = hasattr(self.modules[name], "convert"), self.folder / f"correctness-{name}"
                suite = correctness.Suite(start, converts, folder, min(self.workers, 2), self.sizes)
                found[name] = {**suite.run(bar.update), "took": time.perf_counter() - begun}
        return found


def table(result: dict[str, Any]) -> str:
    facts, lines = result["peers"], []
    width = max(len(peer["title"]) for peer in facts.values()) + 2
    for work, rows in result.get("speed", {}).items():
        lines += ["", f"{work + ', images/s':<{width + 18}} {'median (range)':<26} over ours, same turn"]
        lines += [_speed_line(facts[name]["title"], row, width + 18) for name, row in rows.items()]
    if rows := result.get("conversion"):
        lines += ["", "conversion"]
        lines += [f"{facts[name]['title']:<{width}} {_conversion(row)}" for name, row in rows.items()]
    if rows := result.get("neighbour"):
        lines += ["", f"{'beside a training step':<{width}} {'step slower by':<24} {'step alone, ms':<26} images/s"]
        lines += [_neighbour_line(facts[name]["title"], row, width) for name, row in rows.items()]
    if rows := result.get("correctness"):
        lines += _answers(rows, facts, width)
    left_out = {name: peer for name, peer in facts.items() if peer["left out"]}
    lines += [""] * bool(left_out) + [f"{peer['title']:<{width}} {peer['left out']}" for peer in left_out.values()]
    lines += ["", *(f"{peer['title']:<{width}} {peer['form']}" for peer in facts.values())]
    return "\n".join(lines).strip("\n")


def _speed_line(title: str, row: dict[str, Any], width: int) -> str:
    if "failed" in row:
        return f"{title:<{width}} {row['failed'].splitlines()[0]}"
    over = spread(row["over ours"]["runs"], 2) if "over ours" in row else ""
    return f"{title:<{width}} {spread(row['images/s']['runs'], 0):<26} {over}".rstrip()


def _conversion(row: dict[str, Any]) -> str:
    if "failed" in row:
        return row["failed"].splitlines()[0]
    return f"{row['images']} images in {row['seconds']:.1f} s, {row['bytes'] / 2**20:.0f} MiB"


def _neighbour_line(title: str, row: dict[str, Any], width: int) -> str:
    if "failed" in row:
        return f"{title:<{width}} {row['failed'].splitlines()[0]}"
    slower, step, images = (row[what]["runs"] for what in ("slower", "step", "images/s"))
    return f"{title:<{width}} {spread(slower, 2):<24} {spread(step, 1, 1e3):<26} {spread(images, 0)}"


def _answers(rows: dict[str, Any], facts: dict[str, Any], width: int) -> list[str]:
    lines = []
    for question, meaning in correctness.QUESTIONS.items():
        lines += ["", f"{question}: {meaning}"]
        for name, row in rows.items():
            verdict, why = row["answers"][question]
            lines.append(f"{facts[name]['title']:<{width}} {verdict:<12} {why}".rstrip())
    lines += ["", "bad files: right pixels, or an error that names the file"]
    for name, row in rows.items():
        bad = row["bad files"]
        good = sum(outcome in bad_files.GOOD for outcome, _ in bad.values())
        others = "; ".join(f"{kind}: {outcome}" for kind, (outcome, _) in bad.items() if outcome not in bad_files.GOOD)
        lines.append(f"{facts[name]['title']:<{width}} {good} of {len(bad):<4} {others}".rstrip())
    return lines
