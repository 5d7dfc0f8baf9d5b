"""Labels of every kind: in batches as in the data set, in its hash, its parts and its copies; and what is no label."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch

import pipelines.labels
from pipelines import DataError, Dataset, image_loader
from pipelines.labels import LabelTable
from pipelines.readers.pixels import Pixels

N = 10
GENERATOR = np.random.default_rng(0)
KINDS: dict[str, tuple[Any, Any]] = {  # as given, and as they must be
    "int32": (np.arange(N, dtype=np.int32) % 3, np.arange(N) % 3),
    "uint64": (np.arange(N, dtype=np.uint64) % 3, np.arange(N) % 3),
    "soft": (rows := GENERATOR.random((N, 3)), rows.astype(np.float32)),
    "half": (rows.astype(np.float16), rows.astype(np.float16).astype(np.float32)),
    "bool": (rows > 0.5, (rows > 0.5).astype(np.float32)),
    "zeros and ones": ((rows > 0.5).astype(np.uint8), (rows > 0.5).astype(np.float32)),
    "list": ((rows > 0.5).astype(int).tolist(), (rows > 0.5).astype(np.float32)),
    "tensor": (torch.from_numpy(rows), rows.astype(np.float32)),
    "scalar": (rows[:, 0] * 90, (rows[:, 0] * 90).astype(np.float32)),
    "reversed": (rows[::-1, ::-1], rows[::-1, ::-1].astype(np.float32)),
    "dictionary": (
        {"kind": np.arange(N, dtype=np.int8), "words": np.arange(2 * N).reshape(N, 2), "age": rows[:, 0].tolist()},
        {"kind": np.arange(N), "words": np.arange(2 * N).reshape(N, 2), "age": rows[:, 0].astype(np.float32)},
    ),
    "none": ({}, {}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def _dataset(labels: Any, classes: Any = None, **options: Any) -> Dataset:
    images = np.arange(N * 12, dtype=np.uint8).reshape(N, 2, 2, 3)
    if classes is None:
        classes = [*"abc"] if np.ndim(labels) == 1 and np.asarray(labels).dtype.kind in "iu" else []
    return Dataset(classes, labels, "/data", Pixels(images, "/data"), **options)


def _equal(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(_equal(found[name], expected[name]) for name in expected)
    found = np.asarray(found)
    return found.dtype == expected.dtype and np.array_equal(found, expected)


def _at(labels: Any, places: Any) -> Any:
    return {name: labels[name][places] for name in labels} if isinstance(labels, dict) else labels[places]


@every_kind
@pytest.mark.parametrize("train", [True, False])
def test_batches_have_the_labels_of_their_images(kind: str, train: bool, no_waiting: Any) -> None:
    given, expected = KINDS[kind]
    dataset = _dataset(given)
    assert _equal(dataset.labels, expected)
    loader = image_loader(dataset, batch_size=4, image_size=2, train=train, device="cpu", crop="random_resized")
    seen: list[int] = []
    for batch in loader:
        assert _equal(batch.labels, _at(expected, batch.indices.numpy()))
        seen += batch.indices.tolist()
    assert sorted(seen) == list(range(N))
    with no_waiting():
        LabelTable(dataset.labels, torch.device("cpu"))(batch.indices, batch.indices.numpy())


@every_kind
def test_labels_are_not_written_to(kind: str) -> None:
    given, expected = KINDS[kind]
    before = pickle.dumps(given)
    dataset = _dataset(given)
    [batch] = image_loader(dataset, batch_size=N, image_size=2, train=False, device="cpu")
    for tensor in batch.labels.values() if isinstance(batch.labels, dict) else [batch.labels]:
        tensor.zero_()
    assert pickle.dumps(given) == before
    assert _equal(dataset.labels, expected)


@every_kind
def test_parts_and_copies_keep_the_labels(kind: str) -> None:
    given, expected = KINDS[kind]
    dataset = _dataset(given)
    places = np.array([7, 0, 7, 3])
    assert _equal(dataset.take(places).labels, _at(expected, places))
    assert _equal(dataset.take(np.arange(N) % 2 == 0).labels, _at(expected, np.arange(0, N, 2)))
    nothing = dataset.take([])
    assert len(nothing) == 0
    assert _equal(nothing.labels, _at(expected, slice(0)))
    copy = pickle.loads(pickle.dumps(dataset))
    assert _equal(copy.labels, expected)
    assert copy.digest == dataset.digest
    assert len(dataset) == N
    if dataset.has_class_indices:
        assert _equal(dataset.class_indices, expected)
        return
    assert _equal(dataset.first(4).labels, _at(expected, np.arange(4)))
    for count in (0, N + 1):
        with pytest.raises(DataError, match=rf"has 10 images: .* must be from 1 to 10, got {count}"):
            dataset.first(count)
    with pytest.raises(DataError, match=r"labels of '/data' must be class indices here, .* got (a dict|float32 of)"):
        _ = dataset.class_indices


def test_the_digest_follows_every_target() -> None:
    digests = [_dataset(expected).digest for _, expected in KINDS.values()]
    # The same labels, given in other types.
    same = [["int32", "uint64"], ["soft", "tensor"], ["bool", "zeros and ones", "list"]]
    assert len(set(digests)) == len(KINDS) - sum(len(names) - 1 for names in same)
    soft, several = KINDS["soft"][1], KINDS["dictionary"][1]
    for change in range(3 * N):
        changed = soft.copy()
        changed.flat[change] += 0.125
        assert _dataset(changed).digest != _dataset(soft).digest
    changed = several | {"words": several["words"].copy()}
    changed["words"][-1, -1] += 1
    assert _dataset(changed).digest != _dataset(several).digest
    assert _dataset(dict(reversed(several.items()))).digest == _dataset(several).digest
    renamed = {f"{name}s": value for name, value in several.items()}
    assert _dataset(renamed).digest != _dataset(several).digest
    assert _dataset(soft.reshape(N, 3)).digest == _dataset(soft).digest != _dataset(soft[:, :2]).digest
    assert _dataset(soft, [*"abc"]).digest != _dataset(soft, [*"abd"]).digest


def test_the_digest_of_class_indices_is_that_of_older_states() -> None:
    assert _dataset(np.arange(N) % 3).digest == "0532bc35388e8408"


def test_a_state_is_of_its_targets() -> None:
    soft = KINDS["soft"][1]
    loaders = [
        image_loader(_dataset(labels), batch_size=4, image_size=2, device="cpu", crop="random_resized")
        for labels in (soft, soft + 1)
    ]
    state = loaders[0].state_dict()
    loaders[0].load_state_dict(state)
    with pytest.raises(ValueError, match=r"the state is of another loader\. dataset:"):
        loaders[1].load_state_dict(state)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((N, 2, 2)), r"labels must be \(n,\) integers, .* got an array of shape \(10, 2, 2\)"),
        (np.full((N, 2), 2), r"\(n, K\) integers must be 0 or 1, got an array of shape \(10, 2\)"),
        (np.full((N, 2), -1), r"\(n, K\) integers must be 0 or 1"),
        (["a"] * N, r"labels must be \(n,\) integers"),
        (np.zeros(N, complex), r"labels must be \(n,\) integers"),
        (np.zeros(N, object), r"labels must be \(n,\) integers"),
        (np.float32(3), r"labels must be \(n,\) integers"),
        ([[1.0], [1.0, 2.0]] * 5, r"labels must be \(n,\) integers"),
        ({0: np.zeros(N)}, r"labels must be .* a dictionary of arrays"),
        ({"age": ["a"] * N}, r"labels\['age'\] must be an array \(n, \.\.\.\) of numbers"),
        ({"age": 3.0}, r"labels\['age'\] must be an array \(n, \.\.\.\) of numbers, got 3\.0"),
        ({"age": np.full(N, 2**64 - 1, np.uint64)}, r"labels\['age'\] must be"),
        (np.zeros(N - 1), "there must be one label for each image, got 9 for 10 images"),
        ({"age": np.zeros(N), "x": np.zeros(11)}, r"one label for each image, got 11 in labels\['x'\] for 10 images"),
        ([np.nan] * N, "labels must be finite, got nan for 'image 0 of '/data''"),
        (np.full(N, 1e300), "labels must be finite, got inf"),
    ],
)
def test_what_is_no_label(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _dataset(labels, [])


def test_classes_are_of_the_labels() -> None:
    assert _dataset(KINDS["soft"][0], [*"abc"]).classes == [*"abc"]
    for labels in (KINDS["soft"][0], KINDS["scalar"][0]):
        with pytest.raises(ValueError, match=r"labels must be class indices, or rows \(n, 2\), as there are 2 classes"):
            _dataset(labels, [*"ab"])
    with pytest.raises(ValueError, match=r"classes must be empty where the labels are a dictionary, got \['a'\]"):
        _dataset({}, ["a"])


def test_numbers_that_are_not_known_are_not_trained_on() -> None:
    labels = np.array(KINDS["soft"][0])
    labels[3, 1] = np.nan
    dataset = _dataset(labels, unlabelled=True)
    [batch] = image_loader(dataset, batch_size=N, image_size=2, train=False, device="cpu")
    assert batch.labels.isnan().any(1).nonzero().flatten().tolist() == [3]
    for call in (lambda: image_loader(dataset, batch_size=4, image_size=2, device="cpu"), lambda: dataset.first(2)):
        with pytest.raises(DataError, match="the label of 'image 3 of '/data'' is not known; it is not finite"):
            call()


def test_large_arrays_stay_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU's memory need not hold; on the CPU both ways must give the same."""
    table = KINDS["dictionary"][1]
    monkeypatch.setattr(pipelines.labels, "_LARGEST_ON_DEVICE", N * 4)
    places = np.array([3, 3, 9, 0])
    labels = LabelTable(table, torch.device("cpu"))
    assert list(labels._there) == ["age"]
    assert _equal(labels(torch.from_numpy(places), places), _at(table, places))


@pytest.mark.gpu
@pytest.mark.parametrize("limit", [0, 2**28])
def test_on_a_gpu_they_are_there_without_a_wait(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(pipelines.labels, "_LARGEST_ON_DEVICE", limit)
    table, device = KINDS["dictionary"][1], torch.device("cuda", 0)
    labels, places = LabelTable(table, device), np.array([3, 3, 9, 0])
    there = torch.from_numpy(places).to(device)
    labels(there, places)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = labels(there, places)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(tensor.device == device for tensor in found.values())  # type: ignore[union-attr]
    assert _equal({name: tensor.cpu() for name, tensor in found.items()}, _at(table, places))  # type: ignore[union-attr]
