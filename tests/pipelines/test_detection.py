"""The loader of images with boxes: sizes, pixels and boxes by oracles, order, states, bad files, the GPU's graph."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision.transforms.v2 import functional

from pipelines import Batch, DataError, Dataset, ImageLoader, Objects, detection_loader, image_loader
from pipelines.graph.pipeline import image_pipeline
from pipelines.labels.objects import CROWD, DIFFICULT
from pipelines.readers.files import files_reader

COUNT = 11
SHORT, LONG = (48, 72), 110
PLAIN: dict[str, Any] = {"mean": (0, 0, 0), "std": (1, 1, 1)}
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]  # of a class's rectangles


def _loader(dataset: Dataset, **changes: Any) -> ImageLoader:
    options: dict[str, Any] = {
        "batch_size": 4, "short_side": SHORT, "long_side": LONG, "device": "cpu", "num_threads": 1, "seed": 3,
    }  # fmt: skip
    return detection_loader(dataset, **(options | changes))


def _objects(boxes: list[list[tuple[float, ...]]], sizes: list[tuple[int, int]], kinds: Any = None) -> Objects:
    total = sum(map(len, boxes))
    return Objects(
        boxes=np.array([box for each in boxes for box in each], dtype=np.float64).reshape(-1, 4),
        classes=np.array([number % 3 for each in boxes for number in range(len(each))], dtype=np.int64),
        kinds=np.zeros(total, dtype=np.uint8) if kinds is None else np.array(kinds, dtype=np.uint8),
        starts=np.cumsum([0, *map(len, boxes)]),
        sizes=np.array(sizes, dtype=np.int64),
    )


@pytest.fixture(scope="module")
def rectangles(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Black pictures of unlike sizes, each with up to three rectangles of as many colours, which do not overlap."""
    root, generator = tmp_path_factory.mktemp("rectangles"), np.random.default_rng(5)
    files, boxes, sizes = [], [], []
    for index in range(COUNT):
        height, width = map(int, generator.integers(50, 200, 2))
        picture = Image.new("RGB", (width, height))
        own = []
        for number in range(index % 4):
            left = width * number // 3 + int(generator.integers(0, width // 12))
            right = width * (number + 1) // 3 - int(generator.integers(1, width // 12 + 2))
            top, bottom = sorted(generator.choice(height // 4, 2, replace=False) * 4)
            own.append((left, int(top), right, int(bottom)))
            ImageDraw.Draw(picture).rectangle((left, int(top), right - 1, int(bottom) - 1), fill=COLOURS[number])
        files.append(str(root / f"{index:02}.png"))
        picture.save(files[-1])
        boxes.append(own)
        sizes.append((height, width))
    return Dataset(["red", "green", "blue"], _objects(boxes, sizes), str(root), files_reader(files))


def _fitted(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """Detectron2's ResizeShortestEdge."""
    scale = short / min(height, width)
    new_height, new_width = (short, scale * width) if height < width else (scale * height, short)
    if max(new_height, new_width) > long:
        scale = long / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return int(new_height + 0.5), int(new_width + 0.5)


def test_boxes_are_where_the_rectangles_are_drawn(rectangles: Dataset) -> None:
    seen = 0
    for batch in _loader(rectangles, vertical_flip=0.5, **PLAIN):
        assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
        for image, boxes, classes in zip(batch.images, *batch.labels, strict=True):
            assert boxes.dtype == torch.float32
            assert classes.dtype == torch.int64
            for box, label in zip(boxes.tolist(), classes.tolist(), strict=True):
                lit = image[label] > 0.5
                rows, columns = lit.any(1).nonzero()[:, 0], lit.any(0).nonzero()[:, 0]
                found = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
                assert np.abs(np.array(box) - found).max() <= 1
                seen += 1
    assert seen == sum(index % 4 for index in range(COUNT))


def test_boxes_sizes_and_pixels_are_those_of_loops(rectangles: Dataset) -> None:
    objects = rectangles.labels
    assert isinstance(objects, Objects)
    shorts, flips = set(), set()
    for batch in _loader(rectangles, vertical_flip=0.5, **PLAIN):
        assert batch.views is not None
        for row, index in enumerate(batch.indices.tolist()):
            whole = Image.open(rectangles.reader.files[index])
            sizes = {short: _fitted(whole.height, whole.width, short, LONG) for short in SHORT}
            height, width = batch.sizes[row]
            short = min(short for short in SHORT if sizes[short] == (height, width))
            across, down = batch.views[row, 0, 0] < 0, batch.views[row, 1, 1] < 0
            shorts.add(short)
            flips.add((bool(across), bool(down)))
            pixels = functional.resize(functional.pil_to_tensor(whole), [height, width], antialias=True)
            pixels = pixels.flip(2) if across else pixels
            pixels = pixels.flip(1) if down else pixels
            assert (batch.images[row, :, :height, :width] * 255 - pixels).abs().max() <= 1
            assert batch.images[row, :, height:].eq(0).all()
            assert batch.images[row, :, :, width:].eq(0).all()
            expected = []
            for left, top, right, bottom in objects.boxes[objects.starts[index] : objects.starts[index + 1]]:
                xs = [left * width / whole.width, right * width / whole.width]
                ys = [top * height / whole.height, bottom * height / whole.height]
                xs = [width - xs[1], width - xs[0]] if across else xs
                ys = [height - ys[1], height - ys[0]] if down else ys
                expected.append([xs[0], ys[0], xs[1], ys[1]])
            assert batch.labels.boxes[row].numpy() == pytest.approx(np.array(expected).reshape(-1, 4), abs=1e-4)
    assert shorts == set(SHORT)
    assert len(flips) > 2


def test_sizes_are_detectron2s(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    sizes = [(int(height), int(width)) for height, width in generator.integers(1, 90, (60, 2))]
    files = [str(tmp_path / f"{index:02}.png") for index in range(len(sizes))]
    for file, (height, width) in zip(files, sizes, strict=True):
        Image.new("L", (width, height)).save(file)
    dataset = Dataset(["a"], _objects([[] for _ in sizes], sizes), str(tmp_path), files_reader(files))
    for short, long in ((40, 60), (33, 1000), (7, 7)):
        loader = _loader(dataset, short_side=(5, short), long_side=long, train=False, batch_size=60)
        ((height, width), found) = next((batch.images.shape[2:], batch.sizes) for batch in loader)
        assert list(found) == [tuple(max(1, side) for side in _fitted(*size, short, long)) for size in sizes]
        greatest = np.max(found, axis=0)
        assert [height, width] == [32 * -(-side // 32) for side in greatest]  # padded to the next multiple alone


def _assert_same(one: Batch, other: Batch) -> None:
    assert torch.equal(one.indices, other.indices)
    assert one.sizes == other.sizes
    for left, right, (height, width) in zip(one.images, other.images, one.sizes, strict=True):
        assert torch.equal(left[:, :height, :width], right[:, :height, :width])  # the padding may differ
    for mine, theirs in zip(one.labels, other.labels, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(mine, theirs, strict=True))


def test_shards_together_are_one_process(rectangles: Dataset) -> None:
    whole = list(_loader(rectangles, batch_size=6))
    parts = [list(_loader(rectangles, batch_size=3, rank=rank, world_size=2)) for rank in range(2)]
    for one, first, second in zip(whole, *parts, strict=True):
        sides = [max(part.images.shape[side] for part in (first, second)) for side in (2, 3)]
        pads = [(0, sides[1] - part.images.shape[3], 0, sides[0] - part.images.shape[2]) for part in (first, second)]
        images = [torch.nn.functional.pad(part.images, pad) for part, pad in zip((first, second), pads, strict=True)]
        joined = Batch(
            images=torch.cat(images),
            augmented=None,
            labels=tuple(a + b for a, b in zip(first.labels, second.labels, strict=True)),
            indices=torch.cat([first.indices, second.indices]),
            sizes=first.sizes + second.sizes,
        )
        _assert_same(joined, one)


def test_resuming_in_mid_epoch_is_exact(rectangles: Dataset) -> None:
    loader = _loader(rectangles)
    loader.set_epoch(2)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    rest = list(batches)
    other = _loader(rectangles)
    other.load_state_dict(state)
    for one, again in zip(rest, other, strict=True):
        _assert_same(one, again)
    with pytest.raises(ValueError, match=r"short_sides: \[48, 72\] in the state, \[48\] here"):
        _loader(rectangles, short_side=48).load_state_dict(state)
    changed = replace(rectangles, labels=replace(rectangles.labels, boxes=rectangles.labels.boxes / 2))
    with pytest.raises(ValueError, match="dataset: "):
        _loader(changed).load_state_dict(state)


def test_a_bad_file_is_named_or_replaced_with_its_boxes(rectangles: Dataset, tmp_path: Path) -> None:
    files = list(rectangles.reader.files)
    files[3] = str(tmp_path / "cut.png")
    Path(files[3]).write_bytes(Path(rectangles.reader.files[3]).read_bytes()[:60])
    bad = replace(rectangles, reader=files_reader(files))
    with pytest.raises(DataError, match=r"cannot decode image '.*cut\.png'"):
        list(_loader(bad))
    batches = list(_loader(bad, on_bad_file="replace", max_bad_share=1.0, horizontal_flip=0, short_side=50))
    assert [index for batch in batches for index in batch.replaced] == [3]
    objects = rectangles.labels
    for batch in batches:
        for row, index in enumerate(batch.indices.tolist()):
            assert index != 3
            mine = objects.boxes[objects.starts[index] : objects.starts[index + 1]]
            scale = batch.sizes[row][1] / objects.sizes[index][1]
            assert batch.labels.boxes[row][:, 0].numpy() == pytest.approx(mine[:, 0] * scale, abs=1e-4)


def test_an_image_of_another_size_than_annotated_is_named(rectangles: Dataset) -> None:
    sizes = rectangles.labels.sizes.copy()
    sizes[4] = sizes[4][::-1] + 1
    wrong = replace(rectangles, labels=replace(rectangles.labels, sizes=sizes))
    height, width = rectangles.labels.sizes[4].tolist()
    with pytest.raises(DataError, match=rf"04\.png' has {width}×{height} pixels, .* states {height + 1}×{width + 1}"):
        list(_loader(wrong, train=False))


def test_crowds_are_for_validation_alone_and_difficult_objects_are_trained_on(rectangles: Dataset) -> None:
    kinds = np.resize(np.array([0, CROWD, DIFFICULT], dtype=np.uint8), len(rectangles.labels.kinds))
    objects = replace(rectangles.labels, kinds=kinds)
    dataset = replace(rectangles, labels=objects)
    assert objects.counts(with_crowds=True).tolist() == [index % 4 for index in range(COUNT)]
    for train in (True, False):
        counts = objects.counts(with_crowds=not train)
        for batch in _loader(dataset, train=train):
            for row, index in enumerate(batch.indices.tolist()):
                own = slice(objects.starts[index], objects.starts[index + 1])
                kept = [kind for kind in kinds[own].tolist() if kind != CROWD or not train]
                assert len(batch.labels.boxes[row]) == len(batch.labels.classes[row]) == len(kept) == counts[index]


def test_some_of_the_images_have_their_own_objects(rectangles: Dataset) -> None:
    places = [7, 2, 7, 0]
    some = rectangles.take(places)
    objects, own = rectangles.labels, some.labels
    for place, index in enumerate(places):
        mine, all_of_it = (
            each.boxes[each.starts[at] : each.starts[at + 1]] for each, at in ((own, place), (objects, index))
        )
        assert np.array_equal(mine, all_of_it)
    assert own.sizes.tolist() == objects.sizes[places].tolist()
    assert some.digest != rectangles.digest == replace(rectangles).digest
    assert len(rectangles.first(5)) == 5


def test_of_images_in_memory(tmp_path: Path) -> None:
    from pipelines.readers.pixels import Pixels

    pixels = np.zeros((3, 20, 30, 3), dtype=np.uint8)
    pixels[:, 5:10, 6:18] = 255
    dataset = Dataset(["a"], _objects([[(6, 5, 18, 10)]] * 3, [(20, 30)] * 3), "memory", Pixels(pixels, "memory"))
    (batch,) = _loader(dataset, short_side=40, train=False, **PLAIN)
    assert batch.sizes == ((40, 60),) * 3
    assert [boxes.tolist() for boxes in batch.labels.boxes] == [[[12.0, 10.0, 36.0, 20.0]]] * 3


def test_other_loaders_refuse_boxes_and_this_one_refuses_others(rectangles: Dataset, folders: Path) -> None:
    with pytest.raises(ValueError, match=r"root must be without boxes; detection_loader loads them"):
        image_loader(rectangles, batch_size=2, device="cpu")
    with pytest.raises(ValueError, match=r"dataset must be a Dataset with boxes, of find_detection, got"):
        _loader(folders)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="have sizes of their own"):
        _loader(rectangles).set_image_size(32)
    with pytest.raises(DataError, match=r"must be class indices here, .* got boxes"):
        rectangles.require_class_indices()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"short_side": 0}, "short_side must be an integer from 1 to 16384, or several, got 0"),
        ({"short_side": ()}, "short_side must be an integer from 1 to 16384, or several, got"),
        ({"short_side": (3, 2.5)}, "short_side must be .*, got 2.5"),
        ({"short_side": "wide"}, "short_side must be .*, got 'wide'"),
        ({"long_side": 40}, "long_side must be an integer from the least short_side, 48, to 16384, got 40"),
        ({"horizontal_flip": 2}, "horizontal_flip must be from 0 to 1, got 2"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"rank": 1}, "rank must be an integer from 0 to world_size - 1 = 0, got 1"),
        ({"shuffle": True, "sampler": [0]}, "shuffle must be None or False with a sampler"),
        ({"on_bad_file": "skip"}, "on_bad_file must be one of raise, replace"),
    ],
)
def test_arguments_are_checked(rectangles: Dataset, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _loader(rectangles, **given)
    with pytest.raises(TypeError, match=r"detection_loader.* has no argument 'policy'"):
        _loader(rectangles, policy="randaugment")


@pytest.mark.parametrize("vertical_flip", [0.0, 0.5])
def test_the_graph_for_the_gpu_can_be_put_together(rectangles: Dataset, vertical_flip: float) -> None:
    recipe = replace(_loader(rectangles, vertical_flip=vertical_flip).recipe, device="gpu")
    pipeline = image_pipeline(recipe, lambda: (), batch_size=4, num_threads=1, device_id=None)
    assert [node.device for node in pipeline._graph_out] == ["gpu", "gpu", "gpu", "cpu"]


@pytest.mark.gpu
def test_on_a_gpu_batches_are_those_of_the_cpu(tmp_path: Path, make_photo: Callable[..., Image.Image]) -> None:
    files, sizes = [], []
    for index in range(6):
        files.append(str(tmp_path / f"{index}.jpg"))
        sizes.append((90 + 10 * index, 140 - 7 * index))
        make_photo(*sizes[-1], seed=index).save(files[-1], quality=95)
    boxes: Any = [[(4.0, 8.0, 30.0 + 5 * index, 40.0)] * (index % 3) for index in range(6)]
    dataset = Dataset(["a", "b", "c"], _objects(boxes, sizes), str(tmp_path), files_reader(files))
    for one, other in zip(_loader(dataset, device="cuda"), _loader(dataset), strict=True):
        assert one.images.device.type == "cuda"
        assert one.images.shape == other.images.shape
        assert one.sizes == other.sizes
        assert (one.images.cpu() - other.images).abs().mean() < 0.1
        for mine, theirs in zip(one.labels.boxes, other.labels.boxes, strict=True):
            assert mine.device.type == "cuda"
            assert torch.allclose(mine.cpu(), theirs, atol=1e-3)
