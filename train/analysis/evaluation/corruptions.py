"""Robustness to fifteen corruptions at five severities, generated for the validation images."""

import argparse
import itertools
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import torch

from train.analysis.evaluation.corrupting import CORRUPTIONS, GROUPS, LEAST, SEVERITIES, corrupt_all, start_process
from train.analysis.evaluation.drawing import Picture, colour, new_figure, picture
from train.analysis.evaluation.images import Sample, Subject
from train.analysis.evaluation.rows import Row
from train.engine.progress import Progress
from train.errors import UserError

PART = "corruptions"
AHEAD = 4  # batches for each process that are corrupted while the network computes


def check_library() -> None:
    """Raise UserError where the corruptions are not installed, or not in a version that works."""
    try:
        import imagecorruptions  # noqa: F401
    except ImportError as error:
        raise UserError(
            "--parts corruptions needs the package imagecorruptions-imaug (imagecorruptions itself no longer runs with"
            f" current versions of NumPy and scikit-image): pip install 'dali-salaug[evaluation]' ({error})"
        ) from error


def put_in_order(options: argparse.Namespace) -> None:
    """Keep each of the corruptions and severities that the command line chooses once, in one order."""
    options.corruptions = [name for name in CORRUPTIONS if name in options.corruptions]
    options.severities = sorted(set(options.severities))


def measure(
    subjects: Sequence[Subject], sample: Sample, seed: int, processes: int | None = None, *,
    names: Sequence[str] = CORRUPTIONS, severities: Sequence[int] = SEVERITIES,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return the accuracy of networks that see the same images, each image corrupted once for all of them.

    Args:
        subjects: with the same size of input.
        sample: the images.
        seed: of the corruptions' random numbers.
        processes: that corrupt images; 0: this one; None: one for each CPU, and with one CPU this one.
        names: of the corruptions.
        severities: of each.

    Returns:
        For each run: "images"; "severities"; "clean", the accuracy on the images themselves; "mean" over these
        corruptions and severities; "groups", of those that have a corruption, and "corruptions", means by name; and
        "accuracy", by the corruption's name a list, one for each severity. All from 0 to 1.
    """
    if processes is None:
        cores = len(os.sched_getaffinity(0))
        processes = 0 if cores == 1 else cores
    device, count = sample.pixels.device, len(sample)
    plan = list(itertools.product(names, severities))
    hits = torch.zeros(len(subjects), 1 + len(plan), dtype=torch.int64, device=device)
    work = f"{subjects[0].run}{f' and {len(subjects) - 1} more' if len(subjects) > 1 else ''}: corruptions"
    parts = list(sample.batches())
    batches = (1 + len(plan)) * len(parts)
    with torch.no_grad(), Progress(work, batches=batches, images=(1 + len(plan)) * count) as progress:
        done = 0

        def count_hits(place: int, images: torch.Tensor, part: slice) -> None:
            nonlocal done
            for row, subject in enumerate(subjects):
                predicted = subject.model(subject.normalised(images)).argmax(1)
                hits[row, place] += (predicted == sample.labels[part]).sum()
            done += 1
            progress.update(len(images), done)

        for part in parts:
            count_hits(0, sample.pixels[part], part)
        for place, part, made in _corrupted(plan, sample, seed, processes):
            images = torch.from_numpy(made).permute(0, 3, 1, 2).to(device, non_blocking=True)
            count_hits(1 + place, images, part)
    return [_summary(row, count, names, severities) for row in hits.tolist()]


def _corrupted(
    plan: list[tuple[str, int]], sample: Sample, seed: int, processes: int
) -> Iterator[tuple[int, slice, np.ndarray]]:
    """Yield the place in the plan, the part of the sample, and its corrupted images (B, H, W, 3), in order."""
    pixels = sample.pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    todo = [(place, part) for place in range(len(plan)) for part in sample.batches()]

    def arguments(place: int, part: slice) -> tuple[Any, ...]:
        name, severity = plan[place]
        return pixels[part], name, severity, seed, sample.indices[part].tolist()

    if processes == 0:
        for place, part in todo:
            yield place, part, corrupt_all(*arguments(place, part))
        return
    # Spawned, as threads of torch and DALI do not survive a fork; these processes import neither.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=start_process)
    try:
        begun: dict[int, Future[np.ndarray]] = {}
        for number, (place, part) in enumerate(todo):
            for later in range(len(begun) + number, min(len(todo), number + AHEAD * processes)):
                begun[later] = pool.submit(corrupt_all, *arguments(*todo[later]))
            yield place, part, begun.pop(number).result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process that corrupts images was ended from outside, perhaps for want of memory; run the command again,"
            " with fewer --corruption-images or without the part corruptions"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _summary(hits: list[int], count: int, names: Sequence[str], severities: Sequence[int]) -> dict[str, Any]:
    clean, *rest = (number / count for number in hits)
    each = {name: rest[i * len(severities) : (i + 1) * len(severities)] for i, name in enumerate(names)}
    means = {name: sum(values) / len(values) for name, values in each.items()}
    groups = {group: [means[name] for name in members if name in means] for group, members in GROUPS.items()}
    return {
        "images": count,
        "severities": list(severities),
        "clean": clean,
        "mean": sum(means.values()) / len(means),
        "groups": {group: sum(values) / len(values) for group, values in groups.items() if values},
        "corruptions": means,
        "accuracy": each,
    }


def refusal(subject: Subject) -> str | None:
    """Return why the images of a run cannot be corrupted; None where they can."""
    return f"the corruptions need images of at least {LEAST} pixels a side" if subject.side < LEAST else None


def rows(result: Mapping[str, Any]) -> list[Row]:
    names, severities = result["corruptions"], result["severities"]
    counts = [f"{len(values)} {word}" for values, word in ((names, "corruptions"), (severities, "severities"))]
    return [
        Row(PART, "the same images, not corrupted", result["clean"]),
        Row(PART, f"mean of {', '.join(counts)}", result["mean"]),
        *(Row(PART, f"mean of {group}", value) for group, value in result["groups"].items()),
        *(Row(PART, name.replace("_", " "), value) for name, value in names.items()),
    ]


def pictures(results: Mapping[str, Mapping[str, Any]]) -> list[Picture]:
    """Return the accuracy of runs, by their titles, at each severity of each corruption."""
    names = list(next(iter(results.values()))["accuracy"])
    figure, (ax,) = new_figure(1, width=11, height=4)
    for number, (title, result) in enumerate(results.items()):
        for place, name in enumerate(names):
            at = [place + 0.15 * (severity - 3) for severity in result["severities"]]
            values = [100 * value for value in result["accuracy"][name]]
            label = title if place == 0 else None
            ax.plot(at, values, marker="o", markersize=3, color=colour(number), label=label)
        ax.axhline(100 * result["clean"], color=colour(number), linestyle=":", linewidth=1)
    ax.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=8)
    ax.set(ylabel="accuracy, %", ylim=(0, 100), xlim=(-0.7, len(names) - 0.3))
    ax.grid(axis="y", alpha=0.3)
    for text in ax.legend(fontsize=8, ncols=3).get_texts():
        text.set_parse_math(False)
    severities = ", ".join(map(str, next(iter(results.values()))["severities"]))
    caption = f"Accuracy under each corruption at severities {severities}, from left to right; dotted: no corruption"
    return [picture(caption, figure)]
