"""Advise which family of augmentation the data wants, from one trained run, with the numbers that say so.

On training and validation images, without augmentation: how well both are classified; where the maps are, whether in
the objects' boxes, in one place, or spread; what the accuracy loses behind a square in the common place, on each map's
peak and at random; how many predictions survive Cutout and RandAugment, and their forms that keep what is salient; and
how sure the network is. docs/advice.md defines every number and its threshold.

The best probe is a short run with --method none: with another method, the numbers show what is left to mend.
"""

import argparse
import dataclasses
import shlex
from pathlib import Path
from typing import Any

import torch

from dali_salaug import __version__
from pipelines import Dataset, find_dataset
from train.analysis.advice import picture, rules
from train.analysis.advice.signs import Measured, measure
from train.analysis.evaluation.images import Sample, Subject, draw_sample, load_subject, require_objects
from train.analysis.trained import OF_THE_METHOD, Trained, check_classes
from train.cli.parser import SEED, add_boxes, add_run, at_least, check_writable, flags_of
from train.config import Config
from train.data.loaders import absolute, data_folder, resolve_for_data, shares_images, training_images
from train.engine.files import write_json
from train.errors import UserError

PICTURE = "advice.png"  # in the run's folder
# Of a run, and not for another method: what has no effect on the network, and the options of method, map and losses.
_NOT_REPEATED = {"method", "seed", "validate_every", "warmup_epochs", *OF_THE_METHOD}
_NOT_REPEATED |= {name for name in Config.options() if name.startswith(("memory_", "early_", "consistency"))}


def load(run: Path, data: Path | None, val_data: Path | None) -> tuple[Subject, Subject]:
    """Return the best network of a run with its training images and with its validation images.

    Args:
        run: its folder, or its best.pt.
        data: the images, in any layout of `--data`; None: those of the run.
        val_data: the validation images; None: those that the run held out, or those of `data`, where it is stated, else
            of the run.

    Raises:
        UserError, DataError: the run or the images cannot be used.
    """
    validation = load_subject(run, val_data or data)
    trained = validation.trained
    if trained.config.task != Config.task:
        raise UserError(f"{run}: a run of {trained.config.task}; advice is for runs of {Config.task}")
    held_out = None if val_data else trained.config.held_out
    if held_out is not None and data is not None:
        validation = validation._replace(dataset=find_dataset(data).first(held_out))
        check_classes(trained, validation.dataset, run)
    training = training_images(trained.config, data)
    check_classes(trained, training, run)
    if held_out is None and shares_images(training, validation.dataset):  # those held out may be of one file with these
        raise UserError(
            f"{training.root}: its validation images are its training images, so that there is nothing to compare; pass"
            " --val-data"
        )
    return Subject(run, trained, training), validation


def command(trained: Trained, dataset: Dataset, method: str, data: Path | None, val_data: Path | None) -> str:
    """Return the command that trains as the run was trained, with another method.

    Args:
        dataset: the images of `--data`, of which the run may hold some out.
        data, val_data: in place of the run's.
    """
    config = trained.config
    places: dict[str, str | None] = {
        "data": config.data if data is None else absolute(str(data)),
        "val_data": (None if data else config.val_data) if val_data is None else absolute(str(val_data)),
    }
    stated: dict[str, Any] = {name: place for name, place in places.items() if place is not None} | {"method": method}
    plain = Config(**stated)
    left_out = _NOT_REPEATED.union(Config.free()) - {"epochs"}
    own = {name: getattr(config, name) for name in Config.options() if name not in left_out}
    own = {name: value for name, value in own.items() if value is not None}
    if places["val_data"] is not None:
        own.pop("held_out", None)
    stated |= {n: value for n, value in own.items() if value != getattr(plain, n) and getattr(plain, n) is not None}
    for name, value in own.items():  # one after the other, since the batch size decides the learning rate
        if getattr(plain, name) is None and value != getattr(resolve_for_data(Config(**stated), dataset), name):
            stated[name] = value
    return shlex.join(["python", "-m", "train", *flags_of(stated)])


def make_report(run: Path, trained: Trained, measured: Measured, advice: rules.Advice, try_first: str | None) -> dict:
    """Return what the JSON file holds."""
    return {
        "run": str(run),
        "trained_with": {name: getattr(trained.config, name) for name in ("model", "method", "epochs", "image_size")},
        "versions": {"dali_salaug": __version__, "torch": torch.__version__},
        "measured": dataclasses.asdict(measured.signs),
        "common_square": dict(zip(("top", "left", "bottom", "right"), measured.common.tolist(), strict=True)),
        "signs": [sign._asdict() for sign in advice.signs],
        "points": advice.points,
        "advice": {
            "family": advice.family,
            "method": advice.method,
            "reasons": advice.reasons,
            "command": try_first,
        },
    }


def as_text(report: dict[str, Any]) -> str:
    """Return the report for a terminal."""
    found = report["measured"]
    width = max(len(sign["name"]) for sign in report["signs"])
    lines = [
        f"{found['train_images']} training and {found['val_images']} validation images, trained with"
        f" {report['trained_with']['method']}: {_percent(found['train_accuracy'])} and"
        f" {_percent(found['val_accuracy'])} right, mean confidence {_percent(found['confidence'])}, calibration error"
        f" {_percent(found['calibration_error'])}; stability of the maps {found['stability']:.2f}",
        "",
        f"   {'sign':<{width}}  {'value':>7}  {'threshold':>9}  speaks for",
    ]
    for sign in report["signs"]:
        value = "–" if sign["value"] is None else f"{sign['value']:.3f}"
        threshold = f"{'>' if sign['above'] else '<'} {sign['threshold']:.2f}"
        mark = f"+{sign['points']}" if sign["given"] else "  "
        lines.append(f"{mark} {sign['name']:<{width}}  {value:>7}  {threshold:>9}  {sign['family']}")
    lines.append("")
    for family, points in report["points"].items():
        lines.append(f"{points} point{'' if points == 1 else 's'}: {rules.FAMILIES[family]}")
    advice = report["advice"]
    lines.append("")
    if advice["family"] is None:
        lines.append(f"The numbers do not favour any family: none has {rules.LEAST} points. Stay with what you have.")
    else:
        lines.append(f"Try {advice['method']}: {rules.FAMILIES[advice['family']]}.")
        lines += [f"- {reason[0].upper()}{reason[1:]}." for reason in advice["reasons"]]
        if advice["method"] == report["trained_with"]["method"]:
            lines.append("- The run has that method already: train longer, or a larger model.")
        lines.append(f"\n  {advice['command']}")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def add_options(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="the images, in any layout of training (default: the run's)"
    )
    parser.add_argument(
        "--val-data", type=Path, metavar="DIR", help="validation images of another folder (default: those of --data)"
    )
    add_boxes(parser)
    parser.add_argument(
        "--images", type=at_least(2), default=400, help="training and validation images, each at most (default: 400)"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="of all random numbers (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help=f"PNG to write (default: {PICTURE} in the run's folder)"
    )


def run(options: argparse.Namespace) -> int:
    """Advise as the command line states. Returns the exit status, 0.

    Raises:
        UserError, DataError: the run, the images or an option cannot be used.
    """
    training, validation = load(options.run, options.data, options.val_data)
    path = options.picture or (options.run if options.run.is_dir() else options.run.parent) / PICTURE
    for each in (options.json, path):
        check_writable(each)
    samples: list[Sample] = [draw_sample(subject, options.images, options.boxes) for subject in (training, validation)]
    require_objects(options.boxes, samples)
    measured = measure(training, validation, (samples[0], samples[1]), options.boxes, options.seed)
    advice = rules.advise(measured.signs)
    try_first = None
    if advice.method is not None:
        everything = find_dataset(options.data or data_folder(training.trained.config))
        try_first = command(training.trained, everything, advice.method, options.data, options.val_data)
    report = make_report(options.run, training.trained, measured, advice, try_first)
    print(as_text(report))
    if options.json:
        write_json(options.json, report)
    picture.draw(training, samples[0], measured, options.boxes, options.seed, path)
    print(f"\n{path}")
    return 0
