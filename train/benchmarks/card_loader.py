"""Is a GPU's loader right, and how fast is it?"""

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pipelines import Batch, ImageLoader, find_dataset, image_loader
from train.benchmarks.loader import endless, images_per_second
from train.benchmarks.measuring import place_of, spread, summary, wait
from train.data.shapes import embedded_data

DELAY = 200_000_000  # cycles of other work on torch's stream in front of each batch's use: about 0.1 s
HARDWARE_SHARES = (0.0, 0.65, 1.0)
LOADERS: dict[str, dict[str, Any]] = {
    "clean": {},
    "clean, region": {"decode_region": True},
    "randaugment": {"policy": "randaugment"},
    "augmix": {"policy": "augmix"},
}


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
