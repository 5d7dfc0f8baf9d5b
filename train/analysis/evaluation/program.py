"""Evaluate finished runs: accuracy, calibration, robustness, explanation and occlusion, in one table and one page.

The folder of the evaluation gets evaluation.html, a page with all pictures in it, and evaluation.json, all numbers.
Several runs become columns beside one another. Where some differ in the seed alone, a column has their mean and its
95 % t interval.

Accuracy and calibration are of all validation images. The other parts take some of them, in equal shares of each class.
The corruptions are generated here, by imagecorruptions-imaug: they are not the published files of ImageNet-C.
docs/evaluation.md defines every number.
"""

import argparse
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from dali_salaug import __version__
from train.analysis.evaluation import accuracy, attacks, calibration, corruptions, explanation, occlusion, page
from train.analysis.evaluation.corrupting import CORRUPTIONS, SEVERITIES
from train.analysis.evaluation.drawing import Picture
from train.analysis.evaluation.images import Sample, Subject, draw_sample, load_subject, require_objects
from train.analysis.evaluation.rows import Group, Row, mean_over_seeds
from train.cli.parser import SEED, add_boxes, at_least, check_writable
from train.engine.files import write_json
from train.errors import UserError

MODULES: dict[str, Any] = {
    module.PART: module for module in (accuracy, calibration, corruptions, attacks, explanation, occlusion)
}
PARTS = tuple(MODULES)
PAGE, NUMBERS = "evaluation.html", "evaluation.json"  # in the folder of the evaluation


def evaluate(
    subjects: Mapping[str, Subject], parts: Sequence[str], *, images: int, corruption_images: int, seed: int,
    boxes: Path | None, names: Sequence[str] = CORRUPTIONS, severities: Sequence[int] = SEVERITIES,
) -> tuple[list[dict[str, Any]], list[Picture]]:  # fmt: skip
    """Return the results of each run, by the part's name, None where its images do not allow it; and maps of each.

    Args:
        subjects: the runs, by their titles.
        parts: of PARTS.
        images: for the attacks, the explanation and the occlusion, at most.
        corruption_images: for the corruptions, at most.
        seed: of all random numbers.
        boxes: see `draw_sample`.
        names: of the corruptions.
        severities: of each.
    """
    results: list[dict[str, Any]] = [dict.fromkeys(parts) for _ in subjects]
    examples = []
    sampled = [name for name in ("attacks", "explanation", "occlusion") if name in parts]
    samples = {title: draw_sample(subject, images, boxes) for title, subject in subjects.items()} if sampled else {}
    require_objects(boxes, samples.values())
    for (title, subject), result in zip(subjects.items(), results, strict=True):
        if {"accuracy", "calibration"} & set(parts):
            logits, labels = accuracy.predict(subject)
            if "accuracy" in parts:
                result["accuracy"] = accuracy.measure(logits, labels, subject.trained.classes)
            if "calibration" in parts:
                result["calibration"] = calibration.measure(logits, labels)
        for name in sampled:
            result[name] = MODULES[name].measure(subject, samples[title], seed)
        if "explanation" in parts:
            examples.append(explanation.draw_examples(subject, samples[title], seed, title))
    if "corruptions" in parts:
        every = list(subjects.values())
        able = [place for place, subject in enumerate(every) if corruptions.refusal(subject) is None]
        corrupted = {place: draw_sample(every[place], corruption_images, None) for place in able}
        for places in _seeing_the_same(corrupted):
            runs = [every[place] for place in places]
            found = corruptions.measure(runs, corrupted[places[0]], seed, names=names, severities=severities)
            for place, values in zip(places, found, strict=True):
                results[place]["corruptions"] = values
    return results, examples


def _seeing_the_same(samples: Mapping[int, Sample]) -> list[list[int]]:
    """Return the places of the runs, those together whose images are equal to the last bit."""
    groups: list[list[int]] = []
    for place, sample in samples.items():
        for group in groups:
            first = samples[group[0]]
            same = first.pixels.shape == sample.pixels.shape and first.pixels.device == sample.pixels.device
            if same and torch.equal(first.pixels, sample.pixels) and torch.equal(first.labels, sample.labels):
                group.append(place)
                break
        else:
            groups.append([place])
    return groups


def rows_of(results: Sequence[Mapping[str, Any]], parts: Sequence[str]) -> list[list[Row]]:
    """Return the rows of each run, the same in all but for the values; without those that no run has."""
    tables: list[list[Row]] = [[] for _ in results]
    for part in parts:
        known = next((result[part] for result in results if result[part] is not None), None)
        if known is None:
            continue
        empty = [row._replace(value=None) for row in MODULES[part].rows(known)]
        for table, result in zip(tables, results, strict=True):
            table += empty if result[part] is None else MODULES[part].rows(result[part])
    kept = [place for place in range(len(tables[0])) if any(table[place].value is not None for table in tables)]
    return [[table[place] for place in kept] for table in tables]


def notes_of(subjects: Mapping[str, Subject], results: Sequence[Mapping[str, Any]], seed: int) -> list[str]:
    """Return in words what was measured on what, and what was left out and why."""
    notes, parts = [], list(results[0])
    for (title, subject), result in zip(subjects.items(), results, strict=True):
        counts = [f"{result[part]['images']} for {part}" for part in parts if result[part] and "images" in result[part]]
        size = f"{subject.side}×{subject.side} pixels"
        notes.append(f"{title}: images of {size}, in float32 on {subject.trained.device}; {', '.join(counts)}.")
        if "corruptions" in parts and result["corruptions"] is None:
            notes.append(f"{title}: no corruptions, since {corruptions.refusal(subject)}.")
        if result.get("explanation"):
            objects = result["explanation"]["objects"]
            notes.append(f"{title}: {objects} images have the box of their object." if objects else
                         f"{title}: no box of an object, so neither pointing game nor energy.")  # fmt: skip
            for name, why in result["explanation"]["unsupported"].items():
                notes.append(f"{title}: the model does not support the map {name}: {why}.")
    if "corruptions" in parts:
        notes.append(
            "Corruptions: generated by imagecorruptions-imaug from the validation images at this size, before the"
            " normalisation; they are not the published files of ImageNet-C or CIFAR-10-C."
        )
    if {"corruptions", "attacks", "explanation", "occlusion"} & set(parts):
        notes.append(f"Random numbers: seed {seed}. The images: the first of each class, then the second, and so on.")
    return notes


def titles_of(runs: Sequence[Path]) -> list[str]:
    """Return a short name of each run: the last part of its path, or all of it where that is not unique."""
    folders = [run if run.is_dir() else run.parent for run in runs]
    names = [folder.resolve().name for folder in folders]
    return [name if names.count(name) == 1 else str(run) for name, run in zip(names, runs, strict=True)]


def versions() -> dict[str, str]:
    """Return the versions of what the numbers depend on, as far as it is installed, and the device."""
    found = {"dali_salaug": __version__, "python": platform.python_version()}
    for name in ("torch", "torchvision", "torchmetrics", "imagecorruptions-imaug", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def make_report(
    options: argparse.Namespace, subjects: Mapping[str, Subject], results: Sequence[Mapping[str, Any]],
    tables: Sequence[Sequence[Row]], groups: Sequence[Group],
) -> dict[str, Any]:  # fmt: skip
    """Return all that evaluation.json holds.

    Args:
        options: of the command.
        subjects: the runs, by their titles.
        results: of each run, from `evaluate`.
        tables: the rows of each run.
        groups: the means over seeds.
    """
    parts, titles = list(results[0]), list(subjects)
    device = next(iter(subjects.values())).trained.device
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    runs = [
        {"run": str(subject.run), "title": title, "config": subject.trained.config.to_dict(), **result}
        for (title, subject), result in zip(subjects.items(), results, strict=True)
    ]
    return {
        "command": options.line,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions() | {"device": card},
        "parts": parts,
        "images": options.images,
        "corruption_images": options.corruption_images,
        "corruptions": list(options.corruptions),
        "severities": list(options.severities),
        "seed": options.seed,
        "notes": notes_of(subjects, results, options.seed),
        "runs": runs,
        "groups": [_group(group, tables[0], titles) for group in groups],
    }


def _group(group: Group, rows: Sequence[Row], titles: Sequence[str]) -> dict[str, Any]:
    means = [
        {"part": row.part, "name": row.name, "mean": mean[0], "half_ci95": mean[1]}
        for row, mean in zip(rows, group.means, strict=True)
        if mean is not None
    ]
    return {"runs": [titles[place] for place in group.runs], "seeds": group.seeds, "means": means}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="folder of a finished run, or its best.pt; one or more"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="validation images, in any layout of training (default: the run's)"
    )
    add_boxes(parser)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
        help=f"of {', '.join(PARTS)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=at_least(1), default=200,
        help="images at most for attacks, explanation and occlusion (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--corruption-images", type=at_least(1), default=400,
        help="images at most for the corruptions, each in 75 forms unless some are chosen (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--corruptions", nargs="+", choices=CORRUPTIONS, default=list(CORRUPTIONS), metavar="NAME",
        help=f"of {', '.join(CORRUPTIONS)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--severities", type=int, nargs="+", choices=SEVERITIES, default=list(SEVERITIES), metavar="N",
        help="of each corruption, from 1 to 5 (default: all)",
    )  # fmt: skip
    parser.add_argument("--seed", type=SEED, default=0, help="of all random numbers (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help=f"of {PAGE} and {NUMBERS} (default: evaluation in the first RUN)"
    )


def run(options: argparse.Namespace) -> int:
    """Evaluate as the command line states. Returns the exit status, 0.

    Raises:
        UserError, DataError: a run, the images or an option cannot be used.
    """
    check_writable(options.json)
    corruptions.put_in_order(options)
    if "corruptions" in options.parts:
        corruptions.check_library()
    if "calibration" in options.parts:
        calibration.check_library("--parts calibration")
    if options.boxes is not None and not {"explanation", "occlusion"} & set(options.parts):
        raise UserError(f"--boxes is for the parts explanation and occlusion; got --parts {' '.join(options.parts)}")
    runs = [load_subject(path, options.data) for path in options.runs]
    subjects = dict(zip(titles_of(options.runs), runs, strict=True))
    if len(subjects) < len(runs):
        raise UserError(f"each RUN may be stated once; got {', '.join(map(str, options.runs))}")
    if options.parts == ["corruptions"] and all(map(corruptions.refusal, runs)):
        raise UserError(f"nothing to measure: {corruptions.refusal(runs[0])}")
    first = options.runs[0]
    folder = options.out or (first if first.is_dir() else first.parent) / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PAGE, NUMBERS):
        check_writable(folder / name)
    parts = [part for part in PARTS if part in options.parts]
    results, examples = evaluate(
        subjects, parts, images=options.images, corruption_images=options.corruption_images, seed=options.seed,
        boxes=options.boxes, names=options.corruptions, severities=options.severities,
    )  # fmt: skip
    tables = rows_of(results, parts)
    groups = mean_over_seeds(tables, [subject.trained.config for subject in runs])
    report = make_report(options, subjects, results, tables, groups)
    columns = page.columns_of(list(subjects), tables, groups)
    print(page.as_text(columns, tables[0]))
    drawn: dict[str, list[Picture]] = {}
    for part in parts:
        known = {title: values[part] for title, values in zip(subjects, results, strict=True) if values[part]}
        if known:
            drawn[part] = MODULES[part].pictures(known) + (examples if part == "explanation" else [])
    for path in (folder / NUMBERS, options.json):
        if path is not None:
            write_json(path, report)
    page.write_page(folder / PAGE, report, columns, tables[0], drawn)
    print(f"\n{folder / PAGE}")
    return 0
