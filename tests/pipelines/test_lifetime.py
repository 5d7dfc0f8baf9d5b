"""What a loader leaves behind, and what is left of it in a forked child."""

import contextlib
import gc
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import DataError, ImageLoader, find_dataset, image_loader
from pipelines.readers.base import READ_THREADS, reading_threads

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
OPTIONS: dict[str, Any] = {"batch_size": 8, "image_size": 32, "device": "cpu", "num_threads": 2}


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.fixture
def by_reference_counts(folders: Path) -> Iterator[None]:
    """No garbage collection, after the start of the threads that all loaders share."""
    list(image_loader(folders, policy="randaugment", with_matrices=True, **OPTIONS))
    together = threading.Barrier(READ_THREADS)
    list(reading_threads().map(lambda _: together.wait(), range(READ_THREADS)))
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def spoiled(folders: Path, tmp_path: Path) -> Path:
    """The same images, one of them cut short."""
    root = tmp_path / "spoiled"
    shutil.copytree(folders, root)
    (root / "bee/01.jpg").write_bytes((root / "bee/01.jpg").read_bytes()[:400])
    return root


def _unused(loader: ImageLoader) -> None:
    len(loader)


def _whole(loader: ImageLoader) -> None:
    list(loader)


def _two_epochs(loader: ImageLoader) -> None:
    list(loader)
    list(loader)


def _broken_off(loader: ImageLoader) -> None:
    for _ in loader:
        break


def _failing_in_the_loop(loader: ImageLoader) -> None:
    with contextlib.suppress(KeyError):
        for batch in loader:
            raise KeyError(batch)


def _failing_in_the_policy(loader: ImageLoader) -> None:
    object.__setattr__(loader.options, "policy", None)  # `Inputs` then lacks what the pipeline takes
    with pytest.raises(KeyError):
        list(loader)


def _resumed(loader: ImageLoader) -> None:
    next(iter(loader))
    loader.load_state_dict(loader.state_dict())
    next(iter(loader))


def _resized(loader: ImageLoader) -> None:
    for size in (24, (16, 40)):
        pipelines = [weakref.ref(loader._pipeline)] if loader._pipeline else []
        loader.set_image_size(size)
        assert [reference() for reference in pipelines] == [None] * len(pipelines)
        list(loader)


USES = [_unused, _whole, _two_epochs, _broken_off, _failing_in_the_loop, _failing_in_the_policy, _resumed, _resized]


@pytest.mark.usefixtures("by_reference_counts")
@pytest.mark.parametrize("layout", ["folders", "cifar"])
@pytest.mark.parametrize("use", USES)
def test_a_dropped_loader_frees_its_pipeline_and_threads_at_once(
    layout: str, use: Callable[[ImageLoader], None], request: pytest.FixtureRequest
) -> None:
    before = _threads()
    loader = image_loader(request.getfixturevalue(layout), policy="randaugment", with_matrices=True, **OPTIONS)
    use(loader)
    held = [weakref.ref(each) for each in (loader, loader.dataset, loader._source, loader._pipeline) if each]
    del loader
    assert [reference() for reference in held] == [None] * len(held)
    assert _threads() == before


@pytest.mark.usefixtures("by_reference_counts")
@pytest.mark.parametrize("on_bad_file", ["raise", "replace"])
def test_a_loader_that_met_a_bad_file_frees_the_probes_pipeline_too(spoiled: Path, on_bad_file: str) -> None:
    def use() -> list[weakref.ref]:
        loader = image_loader(spoiled, on_bad_file=on_bad_file, **OPTIONS)
        probe = loader._source._substitutes.probe.args[0]  # type: ignore[attr-defined]
        try:
            assert sum(len(batch.labels) for batch in loader) == 37
            assert loader.bad_files
            assert probe._pipeline is not None
        except DataError:
            assert on_bad_file == "raise"
        return [weakref.ref(each) for each in (loader, probe, probe._pipeline) if each]

    before = _threads()
    assert [reference() for reference in use()] in ([None] * 2, [None] * 3)
    assert _threads() == before


@pytest.mark.usefixtures("by_reference_counts")
def test_an_iterator_keeps_its_loader(folders: Path) -> None:
    iterator = iter(image_loader(folders, **OPTIONS))
    assert sum(len(batch.labels) for batch in iterator) == 37


@pytest.mark.usefixtures("by_reference_counts")
def test_batches_outlive_their_loader(folders: Path) -> None:
    kept = next(iter(image_loader(folders, policy="randaugment", **OPTIONS)))
    copy = [tensor.clone() for tensor in kept[:4] if tensor is not None]
    for _ in range(3):
        list(image_loader(folders, policy="augmix", **OPTIONS))
    assert all(map(torch.equal, copy, kept[:4]))


def test_twenty_loaders_leave_no_threads_and_no_memory(folders: Path) -> None:
    dataset = find_dataset(folders)
    for number in range(25):
        if number == 5:
            gc.collect()
            threads, megabytes = _threads(), _megabytes()
        for _ in image_loader(dataset, policy="randaugment", **OPTIONS):
            break
    assert _threads() == threads
    gc.collect()  # of DALI's description of a graph, half a megabyte in circles of its own
    assert _megabytes() - megabytes < 8


def _epoch_in_child(loader: ImageLoader, results: Any) -> None:
    try:
        results.put(sum(len(batch.labels) for batch in loader))
    except RuntimeError as error:
        results.put(str(error))


def _own_loader_in_child(root: Path, results: Any) -> None:
    try:
        results.put(sum(len(batch.labels) for batch in image_loader(root, policy="randaugment", **OPTIONS)))
    except RuntimeError as error:
        results.put(str(error))


def _in_forked_child(target: Callable[..., None], argument: Any) -> Any:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=target, args=(argument, results))
    child.start()
    child.join(60)
    if child.is_alive():
        child.kill()
        pytest.fail("the child hangs")
    assert child.exitcode == 0
    assert not results.empty()
    return results.get()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_started_loader_says_so_in_a_forked_child_and_goes_on_in_its_parent(folders: Path) -> None:
    loader = image_loader(folders, **OPTIONS)
    iterator = iter(loader)
    next(iterator)
    said = _in_forked_child(_epoch_in_child, loader)
    assert "this loader was started in another process" in said
    assert "Make the loader in the process that uses it, or start processes by multiprocessing's method 'spawn'" in said
    assert sum(len(batch.labels) for batch in iterator) == 37 - 8


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.usefixtures("by_reference_counts")
def test_a_forked_child_has_loaders_unless_one_was_at_work(folders: Path) -> None:
    """Where one was, a new one hangs in some children of many: all are told so."""
    fresh = image_loader(folders, **OPTIONS)
    assert _in_forked_child(_epoch_in_child, fresh) == 37
    started = image_loader(folders, policy="randaugment", **OPTIONS)
    next(iter(started))
    for target, argument in ((_own_loader_in_child, folders), (_epoch_in_child, fresh)):
        said = _in_forked_child(target, argument)
        assert "forked from one in which a loader was at work, and DALI may hang in it" in said
    del started
    assert _in_forked_child(_own_loader_in_child, folders) == 37


def test_a_forked_child_drops_its_parents_loader_and_exits(spoiled: Path) -> None:
    """DALI's own clean-up at exit, or the last reference, waits for threads that the child does not have."""
    program = f"""
import os, sys
from pipelines import image_loader
loader = image_loader({str(spoiled)!r}, on_bad_file="replace", **{OPTIONS})
for _ in loader: pass
pid = os.fork()
if pid == 0:
    del loader
    sys.exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_dataset_goes_to_a_spawned_process_with_its_loader_made_there(folders: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    child = context.Process(target=_own_loader_in_child, args=(find_dataset(folders), results))
    child.start()
    child.join(120)
    assert results.get() == 37
