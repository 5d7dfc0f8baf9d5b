"""Threads read the images of one batch more than the pipeline has taken; nothing else changes."""

import io
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import DataError, image_loader
from pipelines.loading.loader import PREFETCH
from pipelines.readers.records import ByteRanges

IMAGES, BATCH, BAD = 40, 4, 13
OPTIONS: dict[str, Any] = {"batch_size": BATCH, "image_size": 16, "device": "cpu", "num_threads": 1, "seed": 5}


def _shard(root: Path, write_shard: Callable, make_photo: Callable, bad: bool) -> Path:
    samples = []
    for index in range(IMAGES):
        buffer = io.BytesIO()
        make_photo(20 + index % 5, 24, seed=index).save(buffer, "JPEG")
        content = b"no image" if bad and index == BAD else buffer.getvalue()
        samples.append((f"{index:02}.jpg", index % 2, content))
    write_shard("tar", root / "train-0.tar", samples)
    return root


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory, write_shard: Callable, make_photo: Callable) -> Path:
    return _shard(tmp_path_factory.mktemp("shard"), write_shard, make_photo, bad=False)


@pytest.fixture(scope="module")
def bad_shard(tmp_path_factory: pytest.TempPathFactory, write_shard: Callable, make_photo: Callable) -> Path:
    return _shard(tmp_path_factory.mktemp("bad"), write_shard, make_photo, bad=True)


class _Reads:
    """Which images were read, in `counts`, and by which threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[int] = Counter()
        self.threads: set[str] = set()
        real = ByteRanges.encoded

        def encoded(reader: ByteRanges, index: int) -> bytes:
            self.counts[index] += 1
            self.threads.add(threading.current_thread().name)
            return real(reader, index)

        monkeypatch.setattr(ByteRanges, "encoded", encoded)

    def settle(self) -> set[int]:
        """Return what has been read, once nothing more is."""
        before = -1
        while before != self.counts.total():
            before = self.counts.total()
            time.sleep(0.1)
        return set(self.counts)


def test_one_batch_is_read_ahead_by_threads_and_each_image_once(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = _Reads(monkeypatch)
    loader = image_loader(shard, train=True, **OPTIONS)
    order = np.concatenate([batch.indices.numpy() for batch in image_loader(shard, **OPTIONS)]).tolist()
    reads.counts.clear()
    batches = iter(loader)
    for number in range(1, 4):
        next(batches)
        taken = number + PREFETCH - 1  # batches that the pipeline has
        assert reads.settle() == set(order[: (taken + 1) * BATCH])
    for _ in batches:
        pass
    reads.settle()
    assert all(reads.counts[index] >= 1 for index in range(IMAGES))
    # Of the next epoch, the pipeline has taken the first batches, and of those one more is read.
    assert reads.counts.total() <= IMAGES + (PREFETCH + 1) * BATCH
    assert all(name.startswith("read-images") for name in reads.threads)


def test_batches_are_those_of_a_loader_that_resumes_there(bad_shard: Path) -> None:
    """Its first batch was not read ahead. One sample is replaced, and the next epoch knows that it will be."""
    options = OPTIONS | {"on_bad_file": "replace"}
    loader = image_loader(bad_shard, **options)
    replaced = 0
    for _ in range(2):
        state = loader.state_dict()
        for batch in loader:
            resumed = image_loader(bad_shard, **options)
            resumed.load_state_dict(state)
            again = next(iter(resumed))
            assert torch.equal(batch.indices, again.indices)
            assert torch.equal(batch.images, again.images)
            assert batch.replaced == again.replaced
            replaced += len(batch.replaced)
            state = loader.state_dict()
    assert replaced == 2


def test_an_unreadable_image_is_named_with_its_own_batch(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = np.concatenate([batch.indices.numpy() for batch in image_loader(shard, **OPTIONS)]).tolist()
    real = ByteRanges.encoded

    def encoded(reader: ByteRanges, index: int) -> bytes:
        if index == order[4 * BATCH]:
            raise OSError(5, "Input/output error", "train-0.tar")
        return real(reader, index)

    monkeypatch.setattr(ByteRanges, "encoded", encoded)
    batches = iter(image_loader(shard, **OPTIONS))
    assert [next(batches).indices.tolist() for _ in range(4)] == np.reshape(order, (-1, BATCH))[:4].tolist()
    with pytest.raises(DataError, match=rf"train-0.tar/photos/{order[4 * BATCH]:06}.*Input/output error"):
        next(batches)


def test_a_break_and_a_jump_drop_what_was_read_ahead(shard: Path) -> None:
    expected = [[batch.images for batch in epoch] for epoch in _epochs(image_loader(shard, **OPTIONS), 3)]
    loader = image_loader(shard, **OPTIONS)
    for epoch, stop in ((0, 2), (2, 1), (1, 5), (2, 10), (0, 1)):
        loader.set_epoch(epoch)
        for number, batch in enumerate(loader, start=1):
            assert torch.equal(batch.images, expected[epoch][number - 1])
            if number == stop:
                break


def _epochs(loader: Any, count: int) -> list[list[Any]]:
    return [list(loader) for _ in range(count)]


_ENDING = """
import os, sys, time
from pipelines import image_loader
from pipelines.readers.records import ByteRanges

real, count = ByteRanges.encoded, 0

def encoded(reader, index):
    global count
    count += 1
    os.write(1, b".")
    if count > 2 * 200:  # those that are read ahead
        time.sleep(0.15)
    return real(reader, index)

ByteRanges.encoded = encoded
options = {"sampler": list(range(40)) * 40, "batch_size": 200, "image_size": 16, "device": "cpu", "num_threads": 1}
batches = iter(image_loader(sys.argv[1], **options))
next(batches)
"""


def test_a_process_ends_without_reading_to_the_end(shard: Path) -> None:
    command = [sys.executable, "-c", _ENDING, str(shard)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert 2 * 200 < done.stdout.count(".") < 3 * 200 - 50  # 16 threads begin a few each


FORKING = """
import faulthandler, os, sys
import numpy as np
from pipelines import find_dataset

reader = find_dataset(sys.argv[1]).reader
for _ in range(5):
    under_way = reader.begin(np.arange(len(reader)), 10**6)
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(40, exit=True)
        try:
            os._exit(len(reader.begin(np.arange(len(reader)), 10**6)()))
        finally:
            os._exit(255)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    under_way()
"""


def test_a_forked_child_reads_with_threads_of_its_own(shard: Path) -> None:
    """Forked while threads of the parent read. Without a pipeline, whose own threads DALI does not expect to lose."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING, str(shard)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.stdout.split() == [str(IMAGES)] * 5, done.stderr
