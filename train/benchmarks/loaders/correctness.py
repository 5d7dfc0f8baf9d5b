"""The same questions for all loaders: order, shards, resuming, bad files, memory."""

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from train.benchmarks.loaders import bad_files
from train.benchmarks.loaders.job import Job, Samples
from train.benchmarks.loaders.processes import Peer, PeerError

QUESTIONS = {
    "once per epoch": "each sample once in an epoch, over two processes",
    "full reshuffle": "each epoch in a new order, drawn over all samples and both processes",
    "resume after SIGKILL": "in mid-epoch, from a state: the same next batches, to the last bit",
    "resume with other processes": "a state of two processes, in one: the rest of the epoch, each sample once",
    "memory": "growth over the batches is at most 16 MiB",
}
APART = 0.28  # of an epoch; 1/3 in an order that is drawn over all samples
GROWTH = 16 * 2**20
HANG = 60.0  # seconds for four small files


class Sizes(NamedTuple):
    """How much is done.

    Attributes:
        samples: of the data set whose order is looked at; odd, and more than the buffers of loaders hold.
        batches: over which memory may grow.
        warm_up: batches before.
        kinds: of bad files.
    """

    samples: int = 4001
    batches: int = 1000
    warm_up: int = 300
    kinds: tuple[str, ...] = tuple(bad_files.KINDS)


QUICK = Sizes(samples=41, batches=20, warm_up=10, kinds=("truncated", "grey", "EXIF turned"))


class Suite:
    """The questions, for one peer.

    Args:
        start: starts a process of the peer.
        converts: whether the peer has a form of its own, into which it converts the samples.
        folder: for files.
        workers: of the loader.
    """

    def __init__(self, start: Callable[[], Peer], converts: bool, folder: Path, workers: int, sizes: Sizes) -> None:
        self.start, self.converts, self.folder, self.workers, self.sizes = start, converts, folder, workers, sizes
        folder.mkdir(parents=True, exist_ok=True)
        self.failed: PeerError | None = None  # to convert

    def run(self, tick: Callable[[], object]) -> dict[str, Any]:
        """Return "answers", (verdict, why) by question, and "bad files", (outcome, message) by kind."""
        answers: dict[str, tuple[str, str]] = {}
        try:
            self._list("numbers", write_numbers(self.folder / "numbers.json", self.sizes.samples))
            if self.converts:
                with self.start() as peer:
                    self._convert(peer, "numbers")
        except PeerError as error:
            self.failed = error
        parts: dict[str, Callable[[], tuple[str, str]]] = {
            "resume after SIGKILL": self.resume,
            "resume with other processes": self.elastic,
            "memory": self.memory,
        }
        answers |= self._orders()
        tick()
        for name, part in parts.items():
            answers[name] = self._answered(part)
            tick()
        bad = {}
        with ExitStack() as stack:
            peer = stack.enter_context(self.start())
            for kind in self.sizes.kinds:
                if peer.ended:
                    peer = stack.enter_context(self.start())
                bad[kind] = self.bad_file(kind, peer)
                tick()
        return {"answers": {name: answers[name] for name in QUESTIONS}, "bad files": bad}

    def _answered(self, part: Callable[[], Any]) -> Any:
        try:
            if self.failed is not None:
                raise self.failed
            return part()
        except PeerError as error:
            return _failure(error)

    def _list(self, name: str, samples: Samples) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(samples))

    def _convert(self, peer: Peer, name: str) -> None:
        peer.ask("convert", HANG * 5, listing=str(self.folder / f"{name}.json"), out=str(self.folder / name))

    def _job(self, name: str, **options: Any) -> dict[str, Any]:
        listing, converted = str(self.folder / f"{name}.json"), str(self.folder / name)
        job = Job(listing, converted, **{"batch_size": 16, "size": 16, "workers": self.workers, **options})
        return job.to_json()

    def _two(self) -> tuple[Peer, Peer]:
        """Return two processes that share the epochs, opened."""
        meeting = tempfile.mktemp(dir=self.folder)  # which the first to come makes
        peers = self.start(), self.start()
        try:
            for rank, peer in enumerate(peers):
                peer.begin("open", job=self._job("numbers", batch_size=8, rank=rank, world_size=2), meeting=meeting)
            for peer in peers:
                peer.answer()
        except BaseException:
            for peer in peers:
                peer.kill()
            raise
        return peers

    def _orders(self) -> dict[str, tuple[str, str]]:
        names = ("once per epoch", "full reshuffle")

        def both() -> dict[str, tuple[str, str]]:
            orders = self.epochs(3)
            return {names[0]: once(orders[0], self.sizes.samples), names[1]: reshuffled(orders, self.sizes.samples)}

        found = self._answered(both)
        return found if isinstance(found, dict) else dict.fromkeys(names, found)

    def epochs(self, count: int) -> list[list[list[int]]]:
        """Return the labels in their order, by epoch and process."""
        peers = self._two()
        try:
            epochs = []
            for epoch in range(count):
                for peer in peers:
                    peer.begin("take", epoch=epoch)
                epochs.append([flat(peer.answer(HANG * 5)) for peer in peers])
            return epochs
        finally:
            for peer in peers:
                peer.kill()

    def resume(self) -> tuple[str, str]:
        """Kill a process in mid-epoch, after a state was saved, and go on from it in a new one."""
        state, job = str(self.folder / "state"), self._job("numbers", augment=True, size=32, batch_size=4)
        took = min(40, self.sizes.samples // 12)  # of four images, so that less than half of the epoch is taken
        more = max(1, took // 2)
        peer = self.start()
        try:
            peer.ask("open", job=job)
            peer.ask("take", epoch=0, limit=took)
            peer.ask("save", path=state)
            expected = peer.ask("more", limit=more, checksums=True)
        finally:
            peer.kill()
        with self.start() as peer:
            peer.ask("open", job=job)
            peer.ask("load", path=state)
            found = peer.ask("take", epoch=0, limit=more, checksums=True)
        if found == expected:
            return "yes", "samples and pixels"
        if flat(found) == flat(expected):
            return "no", "the same samples, other crops and draws"
        return "no", f"{len(set(flat(found)) & set(flat(expected)))} of the next {len(flat(expected))} samples"

    def elastic(self) -> tuple[str, str]:
        """Continue an epoch of two processes in one, by the state of the first."""
        state, took = str(self.folder / "state-of-two"), min(40, self.sizes.samples // 40)
        peers = self._two()
        try:
            for peer in peers:
                peer.begin("take", epoch=0, limit=took)
            seen = [label for peer in peers for label in flat(peer.answer())]
            for rank, peer in enumerate(peers):
                peer.begin("save", path=state if rank == 0 else f"{state}-{rank}")
            for peer in peers:
                peer.answer()
        finally:
            for peer in peers:
                peer.kill()
        with self.start() as peer:
            peer.ask("open", job=self._job("numbers", batch_size=16))
            peer.ask("load", path=state)
            rest = flat(peer.ask("take", epoch=0))
        return once([seen, rest], self.sizes.samples)

    def memory(self) -> tuple[str, str]:
        with self.start() as peer:
            peer.ask("open", job=self._job("numbers", size=32, batch_size=8))
            before = peer.ask("grow", batches=self.sizes.warm_up)
            growth = peer.ask("grow", batches=self.sizes.batches) - before
        return "yes" if growth <= GROWTH else "no", f"{growth / 2**20:+.1f} MiB over {self.sizes.batches} batches"

    def bad_file(self, kind: str, peer: Peer) -> tuple[str, str]:
        """Return what became of a bad file among good ones: an outcome of `docs/loaders.md`, and the message."""
        name = kind.replace(" ", "-")
        samples, expected = bad_files.write(kind, self.folder / f"files-{name}")
        job, pixels = self._job(name, size=bad_files.SIDE, batch_size=2, train=False, workers=1), self.folder / "pixels"
        try:
            self._list(name, samples)
            if self.converts:
                self._convert(peer, name)
            peer.ask("open", HANG, job=job)
            if not peer.ask("pixels", HANG, label=1, path=str(pixels)):
                return "left out", "the epoch has no such sample, and no error"
            return "right pixels" if bad_files.is_right(torch.load(pixels), expected) else "wrong pixels", ""
        except PeerError as error:
            if error.how in ("hang", "crash"):
                return error.how, str(error)
            named = [line for line in error.text.splitlines() if bad_files.STEM in line]
            return "names the file" if named else "error", last_line(named[0] if named else str(error))


def write_numbers(listing: Path, count: int) -> Samples:
    """Write small images, each with its number as label, beside the listing, once."""
    folder = listing.with_suffix(".files")
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    samples = []
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
        samples.append((str(path), number))
    return samples


def flat(batches: Iterable[list[Any]]) -> list[int]:
    return [label for labels, *_ in batches for label in labels]


def once(parts: list[list[int]], count: int) -> tuple[str, str]:
    """Return whether the parts have each of `count` labels once, and which not."""
    counts = Counter(label for part in parts for label in part)
    missing, several = count - len(counts), sum(1 for number in counts.values() if number > 1)
    if not missing and not several:
        return "yes", ""
    return "no", ", ".join([f"{missing} missing"] * bool(missing) + [f"{several} more than once"] * bool(several))


def reshuffled(epochs: list[list[list[int]]], count: int) -> tuple[str, str]:
    """Return whether each epoch, labels by process, has an order of its own, drawn over all samples."""
    if any(a == b for a, b in itertools.pairwise(epochs)):
        return "no", "each epoch has the same order"
    fixed = [set(a[0]) == set(b[0]) for a, b in itertools.pairwise(epochs)]
    if all(fixed):
        return "no", "each process has the same samples in all epochs"
    in_files = [list(range(count))]
    before = [*itertools.pairwise([in_files, *epochs]), *((in_files, epoch) for epoch in epochs[1:])]
    apart = min(_apart(*orders, count) for orders in before)
    if apart < APART * (1 if count > 1000 else 0.6):  # few samples: the mean varies
        return "no", f"samples that followed one another are {apart:.2f} of an epoch apart, not 0.33"
    return "yes", ""


def _apart(before: list[list[int]], after: list[list[int]], count: int) -> float:
    """Return how much of an epoch lies between two samples, on average, that followed one another in the one before.

    In an order by blocks, the samples of a block stay together, although they move far.
    """
    places = _places(after, count)
    return float(np.nanmean(np.concatenate([np.abs(np.diff(places[labels])) for labels in before])))


def _places(epoch: list[list[int]], count: int) -> np.ndarray:
    """Return when each label comes, from 0 to 1; NaN: never."""
    places = np.full(count, np.nan)
    for labels in epoch:
        places[labels] = np.arange(len(labels)) / max(1, len(labels))
    return places


def _failure(error: PeerError) -> tuple[str, str]:
    if error.how == "not offered":
        return error.how, str(error)
    return "no", f"{error.how}: {last_line(str(error))}"


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    return lines[-1][:200]
