"""How batches pass from DALI to torch on a GPU: nothing is read before it is there, or written while it is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import Dataset, ImageLoader, image_loader
from pipelines.loading import batch as handoff

LATE = 100_000_000  # cycles, about a twentieth of a second, that torch's stream is behind
OPTIONS: dict[str, Any] = {"batch_size": 5, "image_size": 64, "device": "cuda", "seed": 3, "hw_decoder_load": 0.0}


def _tensors(batch: Any) -> Iterator[torch.Tensor]:
    """All tensors of a batch."""
    for field in batch:
        parts = field.values() if isinstance(field, dict) else field if isinstance(field, tuple) else (field,)
        yield from (part for part in parts if isinstance(part, torch.Tensor))


def _sums(loader: ImageLoader, *, epochs: int = 2, late: int = 0, hold: bool = False) -> torch.Tensor:
    """Return the weighted sums of all that some epochs return, read before torch's stream is done with other work
    (`late`), and after the user has dropped the batch, or held it to the end (`hold`)."""
    sums, held = [], []
    for _ in range(epochs):
        for batch in loader:
            if late:
                torch.cuda._sleep(late)
            for tensor in _tensors(batch):
                flat = tensor.permute(0, 2, 3, 1).flatten() if tensor.ndim == 4 else tensor.flatten()
                sums.append((flat.double() * torch.arange(1, len(flat) + 1, device=flat.device)).sum())
            if hold:
                held.append(batch)
            elif not late:
                torch.cuda.synchronize()
    if hold:
        return torch.stack(sums + [tensor.double().sum() for batch in held for tensor in _tensors(batch)]).cpu()
    return torch.stack(sums).cpu()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, make_photo: Any) -> Dataset:
    """40 JPEGs with labels of several kinds."""
    root = tmp_path_factory.mktemp("labelled")
    paths = [root / f"{index:02}.jpg" for index in range(40)]
    for index, path in enumerate(paths):
        photo: Image.Image = make_photo(150 + index, 250 - index, seed=index)
        photo.save(path, quality=92)
    labels = {"row": np.random.default_rng(0).random((40, 7), np.float32), "number": np.arange(40)}
    return Dataset.from_samples(paths, labels)


@pytest.mark.gpu
@pytest.mark.parametrize("hw_decoder_load", [0.0, 0.65, 1.0])
@pytest.mark.parametrize(
    "given",
    [
        {"policy": "randaugment", "with_matrices": True, "with_views": True},
        {"policy": "augmix", "dtype": "bfloat16", "views": 2},
        {"dtype": "uint8", "crop": "pad"},
    ],
    ids=str,
)
def test_a_late_reader_reads_what_a_calm_one_does(
    labelled: Dataset, given: dict[str, Any], hw_decoder_load: float
) -> None:
    options = OPTIONS | given | {"hw_decoder_load": hw_decoder_load}
    calm = _sums(image_loader(labelled, **options))
    assert torch.equal(_sums(image_loader(labelled, **options)), calm), "two calm runs differ"
    assert torch.equal(_sums(image_loader(labelled, **options), late=LATE), calm), "dropped batches differ"
    held = _sums(image_loader(labelled, **options), epochs=1, hold=True)
    late = _sums(image_loader(labelled, **options), epochs=1, late=LATE, hold=True)
    assert torch.equal(late, held), "held batches differ"


@pytest.mark.gpu
@pytest.mark.parametrize("hw_decoder_load", [0.65, 1.0])
def test_a_gpus_jpeg_decoder_decodes_as_its_kernels(labelled: Dataset, hw_decoder_load: float) -> None:
    """Beside other work for the whole GPU. nvJPEG has written into memory that was still read (pytorch/vision 9606)."""
    options = OPTIONS | {"crop": "pad", "dtype": "uint8"}
    kernels = [batch.images.cpu().float() for batch in image_loader(labelled, **options)]
    loader = image_loader(labelled, **(options | {"hw_decoder_load": hw_decoder_load}))
    first = [batch.images.cpu() for batch in loader]
    work = torch.randn(4096, 4096, device="cuda")
    for _ in range(3):
        loader.set_epoch(0)
        again = []
        for batch in loader:
            for _ in range(20):
                work = torch.nn.functional.normalize(work @ work)
            again.append(batch.images)
        for one, other, expected in zip(first, again, kernels, strict=True):
            assert torch.equal(one, other.cpu())
            assert (one.float() - expected).abs().mean() < 2
            assert (one.float() - expected).flatten(1).abs().mean(1).max() < 6


@pytest.mark.gpu
def test_batches_are_torchs_memory_on_the_current_stream(labelled: Dataset) -> None:
    calm = _sums(image_loader(labelled, **OPTIONS))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LATE)
        assert torch.equal(_sums(image_loader(labelled, **OPTIONS), late=LATE), calm)
    # Taken on one stream and read on another, which waits for it, as torch documents for its allocator.
    sums = []
    for _ in range(3):
        loader = image_loader(labelled, **OPTIONS)
        for batch in loader:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                torch.cuda._sleep(LATE // 10)
                sums.append(batch.images.double().sum())
            batch.images.record_stream(stream)
    torch.cuda.synchronize()
    expected = [batch.images.double().sum() for _ in range(3) for batch in image_loader(labelled, **OPTIONS)]
    assert torch.equal(torch.stack(sums), torch.stack(expected))


@pytest.mark.gpu
def test_taking_a_batch_does_not_wait_for_torchs_stream(labelled: Dataset) -> None:
    loader = image_loader(labelled, **OPTIONS)
    batches = iter(loader)
    next(batches)
    torch.cuda.synchronize()
    torch.cuda._sleep(20 * LATE)
    next(batches)
    assert not torch.cuda.current_stream().query()


@pytest.mark.gpu
def test_a_graph_may_be_captured_while_batches_are_dropped(labelled: Dataset) -> None:
    loader = image_loader(labelled, **OPTIONS)
    static = torch.zeros(8, device="cuda")
    (static + 1).sum()  # loads the kernels
    for batch in loader:
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            total = (static + 1).sum()
            del batch
        graph.replay()
        assert total.item() == 8


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_held_gpu_batches_are_never_overwritten(cifar: Path, dtype: str) -> None:
    loader = image_loader(cifar, batch_size=5, image_size=32, policy="randaugment", device="cuda", dtype=dtype)
    held = list(loader)
    copies = [(batch.images.clone(), batch.augmented.clone()) for batch in held]
    for _ in range(3):
        list(loader)
    for batch, (images, augmented) in zip(held, copies, strict=True):
        assert torch.equal(batch.images, images)
        assert torch.equal(batch.augmented, augmented)


class _OfDali:
    """What `_in_torch` takes of a tensor of DALI's on a GPU, in the host's memory."""

    def __init__(self, array: np.ndarray, dtype: Any) -> None:
        self.array, self.dtype = array, dtype

    def shape(self) -> list[int]:
        return list(self.array.shape)


def test_the_copy_is_made_on_torchs_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rehearsed without a GPU: what is asked of DALI's own function."""
    asked: list[Any] = []

    def feed(source: Any, target: torch.Tensor, cuda_stream: Any) -> torch.Tensor:
        asked.append(cuda_stream)
        return target.copy_(torch.from_numpy(source.array))

    monkeypatch.setattr(handoff, "feed_ndarray", feed)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"current stream of {device}")
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, dtype, device: empty(*shape, dtype=dtype))
    for dtype, kind in handoff.to_torch_type.items():
        if kind in (torch.float32, torch.uint8, torch.int64):
            array = np.arange(6).reshape(2, 3).astype(str(kind).removeprefix("torch."))
            copy = handoff._in_torch(_OfDali(array, dtype), torch.device("cuda", 1))
            assert copy.dtype == kind
            assert torch.equal(copy, torch.from_numpy(array))
    assert asked == ["current stream of cuda:1"] * 3
