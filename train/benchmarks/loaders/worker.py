"""The process of a peer: `python -m train.benchmarks.loaders.worker NAME`.

Reads a command a line from its input, as JSON, and writes an answer a line: {"value": ...}, or {"error": TEXT,
"offered": BOOL}, where "offered" is false if the library does not offer what was asked for. What a library prints goes
to the process's error stream. It runs in the peer's own interpreter, and imports nothing of this project but this room
(and what the peer does).
"""

import contextlib
import importlib
import itertools
import json
import os
import pickle
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.benchmarks.loaders.job import Job, read_samples
from train.benchmarks.loaders.peers.base import Loader, NotOffered

_MOMENT = 0.25  # seconds in which a loader at rest uses next to no processor time


class Session:
    """The commands, each a method; its arguments are the command's."""

    def __init__(self, peer: str) -> None:
        self.peer = importlib.import_module(f"train.benchmarks.loaders.peers.{peer}")
        self.job: Job
        self.loader: Loader
        self.stream: Iterator[tuple[Tensor, ...]] = iter(())
        self.step: Callable[[], object] | None = None

    def convert(self, listing: str, out: str) -> dict[str, float]:
        """Write the peer's own form of the samples. Returns its seconds and bytes."""
        start = time.perf_counter()
        Path(out).mkdir(parents=True, exist_ok=True)
        self.peer.convert(read_samples(listing), Path(out))
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "bytes": sum(p.stat().st_size for p in Path(out).rglob("*") if p.is_file())}

    def open(self, job: dict[str, Any], meeting: str = "") -> None:
        """Open a loader. Several ranks meet in the file `meeting`, as torchrun's processes do at an address."""
        self.job = Job(**job)
        if self.job.world_size > 1 and not torch.distributed.is_initialized():
            rank, world = str(self.job.rank), str(self.job.world_size)
            os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, LOCAL_WORLD_SIZE=world)
            torch.distributed.init_process_group(
                "gloo", init_method=f"file://{meeting}", rank=self.job.rank, world_size=self.job.world_size
            )
        torch.manual_seed(self.job.seed)
        self.loader = self.peer.open_loader(self.job)
        self.stream = self._endless()

    def _endless(self) -> Iterator[tuple[Tensor, ...]]:
        for epoch in itertools.count():
            count = 0
            for batch in self.loader.epoch(epoch):
                count += 1
                yield batch
            if not count:
                raise RuntimeError(f"epoch {epoch} is empty")

    def _take(self, count: int) -> int:
        """Take batches, onto the device. Returns the images in them."""
        images = 0
        for batch in itertools.islice(self.stream, count):
            images += len(batch[-1])
            if self.job.device == "cuda":
                batch = tuple(tensor.to("cuda", non_blocking=True) for tensor in batch)
        if self.job.device == "cuda":
            torch.cuda.synchronize()
        return images

    def speed(self, skip: int, batches: int) -> float:
        """Return images/s, after `skip` batches that may have been made ahead."""
        self._take(skip)
        start = time.perf_counter()
        images = self._take(batches)
        return images / (time.perf_counter() - start)

    def neighbour(self, skip: int, batches: int, side: int) -> dict[str, Any]:
        """Train beside the loader. Returns the seconds of each step, and images/s of the loop as a whole.

        A step is on images that are there already: it waits for no batch, and what slows it is the loader's work.
        """
        step = self._training_step(side)
        for _ in range(skip):
            self._take(1)
            step()
        seconds, images, start = [], 0, time.perf_counter()
        for _ in range(batches):
            images += self._take(1)
            before = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - before)
        return {"steps": seconds, "images/s": images / (time.perf_counter() - start)}

    def alone(self, steps: int, side: int) -> list[float]:
        """Return the seconds of each step, but for the first two, while nobody asks the open loader for a batch."""
        step, seconds = self._training_step(side), []
        for _ in range(2 + steps):
            before = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - before)
        return seconds[2:]

    def _training_step(self, side: int) -> Callable[[], object]:
        if self.step is None:
            self.step = training_step(self.job.device, self.job.batch_size, side)
        return self.step

    def rest(self, limit: float = 10.0) -> float:
        """Wait until the loader has made what it makes ahead, which would slow the next peer's turn. Returns the
        seconds that it took; `limit` where it works on."""
        start, used = time.perf_counter(), cpu_seconds_of(os.getpid())
        while (waited := time.perf_counter() - start) < limit:
            time.sleep(_MOMENT)
            before, used = used, cpu_seconds_of(os.getpid())
            if abs(used - before) < 0.1 * _MOMENT:  # less than before: a process has ended
                break
        return waited

    def take(self, epoch: int, limit: int | None = None, checksums: bool = False) -> list[list[Any]]:
        """Return the labels of an epoch's batches, with `checksums` also one of the pixels of each batch."""
        self.stream = self.loader.epoch(epoch)
        return self.more(limit, checksums)

    def more(self, limit: int | None = None, checksums: bool = False) -> list[list[Any]]:
        """Return the next batches of the epoch that `take` began."""
        found = []
        for batch in itertools.islice(self.stream, limit):
            pixels = [zlib.crc32(view.contiguous().cpu().numpy().tobytes()) for view in batch[:-1]] if checksums else []
            found.append([batch[-1].tolist(), *pixels])
        return found

    def save(self, path: str) -> None:
        state = self.loader.state_dict()
        Path(path).write_bytes(pickle.dumps(state))

    def load(self, path: str) -> None:
        self.loader.load_state_dict(pickle.loads(Path(path).read_bytes()))  # our own file

    def pixels(self, label: int, path: str) -> bool:
        """Write the image of a label to a file, as it came, and return whether the epoch had it."""
        found = False
        for images, *_, labels in self.loader.epoch(0):
            for image in images[labels == label]:
                torch.save(image.contiguous().cpu().clone(), path)
                found = True
        return found

    def grow(self, batches: int) -> float:
        """Take batches, and return the bytes of memory that this process and its own then have."""
        self._take(batches)
        return memory_of(os.getpid())


def training_step(device: str, batch_size: int, side: int) -> Callable[[], object]:
    """Return a step on images of this side: of ResNet-50 on a GPU, of ResNet-18 with at most 32 images on the CPU."""
    from torchvision.models import resnet18, resnet50

    model = (resnet50() if device == "cuda" else resnet18()).to(device, memory_format=torch.channels_last)
    count = batch_size if device == "cuda" else min(batch_size, 32)
    images = torch.randn(count, 3, side, side, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (count,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def memory_of(process: int) -> float:
    """Return the bytes in memory of a process and all that it has started; shared pages count once (Linux's PSS)."""
    total = 0
    for rollup in _files_of_family(process, "smaps_rollup"):
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return 1024.0 * total


def cpu_seconds_of(process: int) -> float:
    """Return the processor time of a process and all that it has started and that still runs."""
    ticks = 0
    for stat in _files_of_family(process, "stat"):
        ticks += sum(map(int, _fields(stat)[11:13]))  # of the user and of the system
    return ticks / os.sysconf("SC_CLK_TCK")


def _files_of_family(process: int, name: str) -> Iterator[str]:
    """Yield the text of a file in /proc of a process and of all that it has started."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(folder.name)] = int(_fields((folder / "stat").read_text())[1])
    family = {process}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    for member in family:
        with contextlib.suppress(OSError):
            yield Path(f"/proc/{member}/{name}").read_text()


def _fields(stat: str) -> list[str]:
    """Return the fields of /proc's `stat` after the process's name, which may have blanks and parentheses in it."""
    return stat.rpartition(")")[2].split()


def main(peer: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    session = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            session = session or Session(peer)
            answer = {"value": getattr(session, command.pop("do"))(**command)}
        except NotOffered as error:
            answer = {"error": str(error), "offered": False}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}", "offered": True, "trace": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # whatever a library still waits for


if __name__ == "__main__":
    main(sys.argv[1])
