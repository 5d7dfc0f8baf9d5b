"""The parts of `benchmark gpu` that no other benchmark has: is a GPU's loader right, and who waits for the device?

Each runs in a process of its own, `python -m train.benchmarks.card PART`, since a fault of a decoder ends the process.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dali_salaug import METHODS, KeepPaste, SaliencyMemory, SaliencyStage
from pipelines import Batch, ImageLoader, find_dataset, image_loader
from train.benchmarks.loader import endless, images_per_second
from train.benchmarks.measuring import place_of, seconds_of, spread, summary, wait
from train.data.shapes import embedded_data
from train.models.registry import build_model

CLASSES = 1000
DELAY = 200_000_000  # cycles of other work on torch's stream in front of each batch's use: about 0.1 s
HARDWARE_SHARES = (0.0, 0.65, 1.0)
LOADERS: dict[str, dict[str, Any]] = {
    "clean": {},
    "clean, region": {"decode_region": True},
    "randaugment": {"policy": "randaugment"},
    "augmix": {"policy": "augmix"},
}
TURNS = 5


def _loader(options: argparse.Namespace, **changes: Any) -> ImageLoader:
    """Return a loader of `options.batches` full batches an epoch, which draws images with replacement."""
    dataset = find_dataset(options.data or embedded_data())
    count = options.batches * options.batch_size

    def sampler(epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(epoch)
        return torch.randint(len(dataset), (count,), generator=generator).tolist()

    given: dict[str, Any] = {
        "batch_size": options.batch_size, "image_size": options.image_size, "device": options.device, "seed": 1,
        "num_threads": options.workers, "sampler": sampler,
    }  # fmt: skip
    return image_loader(dataset, **(given | changes))


def _tensors(batch: Batch) -> Iterator[Tensor]:
    for value in (batch.images, batch.augmented, batch.labels, batch.indices, batch.matrices, batch.views):
        if value is not None:
            yield value


def _sums(options: argparse.Namespace, *, delay: int = 0, hold: bool = False, **changes: Any) -> list[list[float]]:
    """Return the sums of each tensor of an epoch's batches.

    Args:
        delay: cycles of other work on torch's stream in front of them. The sums then read a batch long after the user
            has dropped it.
        hold: keep all batches until the end.
        changes: of the loader.
    """
    sums, held, place = [], [], place_of(options.device)
    for batch in _loader(options, **changes):
        if delay and place.type == "cuda":
            torch.cuda._sleep(delay)
        sums.append(torch.stack([tensor.double().sum() for tensor in _tensors(batch)]))
        if hold:
            held.append(batch)
        elif not delay:
            wait(place)
        del batch
    return torch.stack(sums).tolist()


def decode(options: argparse.Namespace, *, turns: int = 3, **changes: Any) -> dict[str, Any]:
    """Decode the same photographs again and again, with each share of the hardware decoder.

    Returns:
        For each share: "repeats", whether all turns give the same pixels; "difference", of the clean images from those
        of the CUDA kernels alone: the largest and mean absolute difference, in pixel values from 0 to 255.
    """
    found: dict[str, Any] = {}
    plain: list[Tensor] = []
    for share in HARDWARE_SHARES:
        runs = []
        for _ in range(turns):
            loader = _loader(options, hw_decoder_load=share, dtype="uint8", **changes)
            runs.append([batch.images.clone() for batch in loader])
        plain = plain or runs[0]
        same = all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))
        apart = [(a.int() - b.int()).abs() for a, b in zip(plain, runs[0], strict=True)]
        largest, mean = max(int(d.max()) for d in apart), sum(float(d.double().mean()) for d in apart) / len(apart)
        found[str(share)] = {"repeats": same, "difference": {"largest": largest, "mean": mean}}
    return {"shares": found, "passed": all(row["repeats"] for row in found.values())}


def decode_table(result: dict[str, Any]) -> str:
    lines = [f"{'hardware share':<16} {'twice the same':<16} difference from share 0 (largest, mean; of 255)"]
    for share, row in result["shares"].items():
        apart = row["difference"]
        lines.append(f"{share:<16} {'yes' if row['repeats'] else 'NO':<16} {apart['largest']}, {apart['mean']:.4f}")
    return "\n".join(lines)


def region(options: argparse.Namespace) -> dict[str, Any]:
    """Do what `decode` does, decoding of each photograph no more than the crop."""
    return decode(options, decode_region=True)


def handoff(options: argparse.Namespace) -> dict[str, Any]:
    """Read batches long after they were dropped, or while they are held, and compare with reading at once.

    Returns:
        "batches"; and of their tensors' sums, how many are wrong for "dropped" and for "held" ones.
    """
    changes: dict[str, Any] = {
        "policy": "randaugment",
        "with_matrices": True,
        "with_views": True,
        "hw_decoder_load": 0.0,
    }
    calm = _sums(options, **changes)
    wrong = {}
    for name, hold in (("dropped", False), ("held", True)):
        late = _sums(options, delay=DELAY, hold=hold, **changes)
        wrong[name] = sum(
            a != b for row, other in zip(calm, late, strict=True) for a, b in zip(row, other, strict=True)
        )
    return {"batches": len(calm), "sums": sum(map(len, calm)), "wrong": wrong, "passed": not any(wrong.values())}


def handoff_table(result: dict[str, Any]) -> str:
    wrong = result["wrong"]
    return (
        f"of {result['sums']} sums of {result['batches']} batches, {wrong['dropped']} are wrong where the batch was"
        f" dropped, {wrong['held']} where it was held"
    )


def waiting(options: argparse.Namespace) -> dict[str, Any]:
    """Run the whole stage of every method, and every price of the map, as in training; on a GPU as a CUDA graph too.

    Returns:
        "step", seconds of a plain training step in each turn. For each part: "waits", the error of CUDA's guard against
        waiting, None if there is none; "host", seconds until all work is queued; "all", seconds until it is done.
    """
    place, size = place_of(options.device), (options.batch_size, 3, options.image_size, options.image_size)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    model = build_model(options.model, CLASSES, options.image_size).to(place).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    images = torch.randn(size, device=place).to(memory_format=torch.channels_last)
    augmented, labels = images.flip(3), torch.randint(CLASSES, size[:1], device=place)
    views = torch.eye(2, 3, device=place).repeat(size[0], 1, 1)
    indices, memory = torch.arange(size[0], device=place), SaliencyMemory(size[0]).to(place)
    stages = {
        "map, full": partial(SaliencyStage, KeepPaste(), scale=1.0),
        "map, half": partial(SaliencyStage, KeepPaste(), scale=0.5),
        "map, memory": partial(SaliencyStage, KeepPaste(), saliency="memory", memory=memory),
    }
    for name, entry in METHODS.items():
        stages[name] = partial(SaliencyStage, entry.build(CLASSES), warmup_epochs=0)
        if place.type == "cuda":
            stages[f"{name}, graph"] = partial(stages[name], cuda_graph=True)

    def step() -> None:
        with torch.autocast(place.type, dtype=torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    found: dict[str, Any] = {"step": [], "parts": {}}
    for _ in range(TURNS + 2):
        found["step"].append(seconds_of(step, place))
    del found["step"][:2]
    for name, build in stages.items():  # one at a time: a graph keeps its memory
        call = _call(build(), model, images, labels, augmented, indices, views)
        try:
            found["parts"][name] = {"waits": _first_wait(call, place), **_host_and_all(call, place)}
        except RuntimeError as error:  # the others are of interest too
            found["parts"][name] = {"waits": f"failed: {str(error).splitlines()[0]}", "host": [], "all": []}
    found["passed"] = all(part["waits"] is None for part in found["parts"].values())
    return found


def _call(stage: SaliencyStage, model: Any, *batch: Tensor) -> Callable[[], object]:
    images, labels, augmented, indices, views = batch
    where = {"indices": indices, "views": views} if stage.memory is not None else {}

    def call() -> object:
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            return stage(model, images, labels, augmented, **where)

    return call


def _first_wait(call: Callable[[], object], place: torch.device) -> str | None:
    """Return the message of CUDA's guard, None where it has none."""
    for _ in range(3):
        call()  # the first makes the generator, and buffers; a graph is made from the second on
    if place.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


def _host_and_all(call: Callable[[], object], place: torch.device) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"host": [], "all": []}
    for _ in range(TURNS):
        wait(place)
        start = time.perf_counter()
        call()
        seconds["host"].append(time.perf_counter() - start)
        wait(place)
        seconds["all"].append(time.perf_counter() - start)
    return seconds


def waiting_table(result: dict[str, Any]) -> str:
    step = result["step"]
    lines = [
        f"a plain step of training: {spread(step, 1, 1e3)} ms",
        f"{'stage':<28} {'host, ms':<24} {'in all, ms':<24} {'of a step':<10} waits for the device",
    ]
    middle = sorted(step)[len(step) // 2]
    for name, part in result["parts"].items():
        if not part["all"]:
            lines.append(f"{name:<28} {part['waits']}")
            continue
        share = 100 * sorted(part["all"])[len(part["all"]) // 2] / middle
        host, whole = (spread(part[key], 2, 1e3) for key in ("host", "all"))
        lines.append(f"{name:<28} {host:<24} {whole:<24} {share:>6.1f} %   {part['waits'] or 'no'}")
    return "\n".join(lines)


def hardware(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the loaders by the share that the hardware decoder takes, in interleaved turns.

    Returns:
        Under "speeds", by the name in `LOADERS` and then by share, images/s: "median", "min", "max", "runs".
    """
    batches = {
        (name, share): endless(_loader(options, hw_decoder_load=share, **changes))
        for name, changes in LOADERS.items()
        for share in HARDWARE_SHARES
    }
    runs: dict[Any, list[float]] = {key: [] for key in batches}
    for turn in range(3):
        for key, made in batches.items():
            speed = images_per_second(made, options.batches, options.batch_size)
            if turn:  # the first one warms up
                runs[key].append(speed)
    speeds = {name: {str(share): summary(runs[name, share]) for share in HARDWARE_SHARES} for name in LOADERS}
    return {"speeds": speeds, "passed": True}


def hardware_table(result: dict[str, Any]) -> str:
    lines = [f"{'images/s':<14}" + "".join(f"{f'hardware {share}':<28}" for share in HARDWARE_SHARES)]
    for name, row in result["speeds"].items():
        lines.append(f"{name:<14}" + "".join(f"{spread(cell['runs'], 0):<28}" for cell in row.values()))
    return "\n".join(lines)


PARTS: dict[str, tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], str]]] = {
    "decode": (decode, decode_table),
    "region": (region, decode_table),
    "handoff": (handoff, handoff_table),
    "waiting": (waiting, waiting_table),
    "hardware": (hardware, hardware_table),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--json", type=Path, required=True)


def main(words: list[str]) -> int:
    """Run one part and write what it found. Returns the exit status: 1 where a check failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    add_options(parser)
    options = parser.parse_args(words)
    measure, table = PARTS[options.part]
    result = measure(options)
    options.json.write_text(json.dumps(result))
    print(table(result))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
