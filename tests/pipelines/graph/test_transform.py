"""The user's transforms: their pixels against SciPy and NumPy, their draws, resuming, and what is wrong by name."""

import gc
import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from nvidia.dali import fn
from nvidia.dali.data_node import DataNode
from PIL import Image
from scipy import ndimage

from pipelines import AugMix, DataError, Dataset, GraphBatch, GraphTransform, ImageLoader, draws, image_loader
from pipelines.graph.transform import Placed
from pipelines.graph.trial import construct
from pipelines.readers.pixels import Pixels

SIDE, COUNT, SEED = 12, 20, 5
FILL = (10.0, 20.0, 30.0)


@dataclass(frozen=True)
class Erase(GraphTransform):
    """A square at a drawn place."""

    uniforms = 2
    side: int = 5

    def draw(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        return {"corner": np.floor(numbers * (SIDE - self.side + 1))}

    def __call__(self, images: DataNode, batch: GraphBatch) -> DataNode:
        square = [float(self.side)] * 2
        return fn.erase(images, anchor=batch["corner"], shape=square, axis_names="HW", fill_value=FILL)


@dataclass(frozen=True)
class Blur(GraphTransform):
    """Of half of the images, of drawn width; what is not used may be drawn too."""

    uniforms: ClassVar[int] = 2
    most: float = 2.0

    def draw(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        sigma = 0.3 + self.most * numbers[:, 1]
        return {"applied": numbers[:, 0] < 0.5, "sigma": sigma, "unused": numbers}

    def __call__(self, images: DataNode, batch: GraphBatch) -> DataNode:
        if batch["applied"]:
            images = fn.gaussian_blur(images, sigma=batch["sigma"], window_size=9)
        return images


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    images = np.random.default_rng(4).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    return Dataset(["a"], np.zeros(COUNT, np.int64), "/data", Pixels(images, "/data"))


def _loader(dataset: Dataset | Path, **changes: Any) -> ImageLoader:
    options = {"batch_size": 8, "image_size": SIDE, "device": "cpu", "num_threads": 1, "seed": SEED, "dtype": "uint8"}
    return image_loader(dataset, **(options | changes))


def _numbers(stream: int, epoch: int, width: int) -> np.ndarray:
    return draws.uniforms(SEED, epoch, stream, 0, COUNT, width)


def _epoch(loader: ImageLoader, name: str = "images") -> np.ndarray:
    """Images in the order of an epoch, as they are before mirroring: (COUNT, SIDE, SIDE, 3)."""
    loader.set_epoch(1)
    images = torch.cat([getattr(batch, name) for batch in loader]).permute(0, 2, 3, 1).numpy()
    flips = draws.flips(_numbers(draws.VIEW, 1, draws.VIEW_UNIFORMS), (0.5, 0))[0]
    return np.where(flips[:, None, None, None] == 1, images[:, :, ::-1], images)


def _erased(images: np.ndarray, stream: int, side: int = 5) -> np.ndarray:
    images = images.copy()
    for image, (y, x) in zip(images, (_numbers(stream, 1, 2) * (SIDE - side + 1)).astype(int), strict=True):
        image[y : y + side, x : x + side] = FILL
    return images


def _blurred(images: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    result = images.astype(np.float64)
    for image, (chance, amount) in zip(result, numbers, strict=True):
        if chance < 0.5:
            image[:] = ndimage.gaussian_filter(image, 0.3 + 2 * amount, axes=(0, 1), radius=4, mode="mirror")
    return result


@pytest.mark.parametrize("policy", [None, "contrast"])
def test_before_the_policy_clean_and_augmented_are_of_one_transformed_picture(
    dataset: Dataset, policy: str | None, warned: Callable[[], list[str]]
) -> None:
    plain = _loader(dataset, color_jitter=0.4)  # which comes first
    loader = _loader(dataset, color_jitter=0.4, before_policy=Erase(), policy=policy)
    np.testing.assert_array_equal(_epoch(loader), _erased(_epoch(plain), draws.BEFORE_POLICY))
    if policy:
        marked = (_epoch(loader) == FILL).all(-1)  # a contrast makes one colour of one colour
        for image, square in zip(_epoch(loader, "augmented"), marked, strict=True):
            assert len(np.unique(image[square], axis=0)) == 1
    assert warned() == []


def test_a_drawn_blur_of_some_images_is_scipys(dataset: Dataset, warned: Callable[[], list[str]]) -> None:
    before = _epoch(_loader(dataset))
    got = _epoch(_loader(dataset, before_policy=Blur()))
    numbers = _numbers(draws.BEFORE_POLICY, 1, 2)
    assert np.abs(got - _blurred(before, numbers)).max() <= 1
    changed = (got != before).any((1, 2, 3))
    np.testing.assert_array_equal(changed, numbers[:, 0] < 0.5)
    assert 0 < changed.sum() < COUNT
    assert warned() == []  # of arrays that are drawn and not used


@pytest.mark.parametrize("policy", [None, "contrast", AugMix(width=2, depth=1)])
def test_after_the_policy_only_the_augmented_image_is_transformed(dataset: Dataset, policy: Any) -> None:
    plain, loader = _loader(dataset, policy=policy), _loader(dataset, policy=policy, after_policy=Erase())
    np.testing.assert_array_equal(_epoch(loader), _epoch(plain))
    before = _epoch(plain, "augmented" if policy else "images")
    np.testing.assert_array_equal(_epoch(loader, "augmented"), _erased(before, draws.AFTER_POLICY))


def test_after_a_mixture_transforms_see_whole_numbers_in_every_type(dataset: Dataset) -> None:
    options: dict[str, Any] = {"policy": AugMix(width=2, depth=1), "after_policy": Erase(1)}
    pixels, normalised = (_loader(dataset, dtype=dtype, **options) for dtype in ("uint8", "float32"))
    for one, other in zip(pixels, normalised, strict=True):
        assert (pixels.normalize(one.augmented) - other.augmented).abs().max() < 1e-5


def test_several_are_applied_in_their_order_each_with_draws_of_its_own(dataset: Dataset) -> None:
    got = _epoch(_loader(dataset, before_policy=[Blur(), Erase()]))
    numbers = _numbers(draws.BEFORE_POLICY, 1, 4)
    expected = _blurred(_epoch(_loader(dataset)), numbers[:, :2])
    for image, (y, x) in zip(expected, (numbers[:, 2:] * (SIDE - 4)).astype(int), strict=True):
        image[y : y + 5, x : x + 5] = FILL
    assert np.abs(got - expected).max() <= 1


def test_ranks_together_are_one_process_and_a_resumed_epoch_is_the_same(dataset: Dataset) -> None:
    options: dict[str, Any] = {"before_policy": Erase(), "after_policy": (Blur(), Erase(3))}
    whole = list(_loader(dataset, **options))
    ranks = [_loader(dataset, batch_size=4, world_size=2, rank=rank, **options) for rank in range(2)]
    resumed = [_loader(dataset, batch_size=4, world_size=2, rank=rank, **options) for rank in range(2)]
    for loader, stopped in zip(resumed, ranks, strict=True):
        next(iter(stopped))
        loader.load_state_dict(stopped.state_dict())
    for batch, *parts in zip(whole[1:], *resumed, strict=True):
        for name in ("images", "augmented", "indices"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name)), name


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"before_policy": Erase(4)}, r"before_policy: \['Erase\(side=5\)'\] in the state, \['Erase\(side=4\)'\] here"),
        ({}, r"before_policy: \['Erase\(side=5\)'\] in the state, \[\] here"),
        ({"before_policy": [Erase(), Blur()]}, r"before_policy: .*Blur\(most=2.0\).* here"),
        ({"after_policy": Erase()}, r"after_policy: \[\] in the state, .* here; before_policy: "),
    ],
)
def test_a_state_of_other_transforms_is_refused(dataset: Dataset, given: dict[str, Any], named: str) -> None:
    state = _loader(dataset, before_policy=Erase()).state_dict()
    with pytest.raises(ValueError, match=named):
        _loader(dataset, **given).load_state_dict(state)


@pytest.mark.parametrize("on_bad_file", ["raise", "replace"])
def test_bad_files_are_found_as_without(
    tmp_path: Path, make_photo: Callable[..., Image.Image], on_bad_file: str
) -> None:
    (tmp_path / "only").mkdir()
    for number in range(6):
        make_photo(30, 40, seed=number).save(tmp_path / "only" / f"{number}.jpg")
    (tmp_path / "only" / "3.jpg").write_bytes(b"nothing")
    loader = _loader(tmp_path, before_policy=[Blur(), Erase()], after_policy=Erase(), on_bad_file=on_bad_file,
                     max_bad_share=1)  # fmt: skip
    if on_bad_file == "raise":
        with pytest.raises(DataError, match=r"cannot decode image '.*3\.jpg'"):
            list(loader)
    else:
        [batch] = loader
        assert batch.replaced == (3,)
        assert ((batch.images.permute(0, 2, 3, 1).numpy() == FILL).all(-1).sum((1, 2)) == 25).all()


class _Wrong(GraphTransform):
    """What is written below, under another name."""

    def __init__(self, name: str, **members: Any) -> None:
        self.name = name
        self.__class__ = type(name, (_Wrong,), members)  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{self.name}()"

    def __call__(self, images: DataNode, batch: GraphBatch) -> DataNode:
        return images


def _drawing(name: str, draw: Callable[[np.ndarray], Any]) -> _Wrong:
    return _Wrong(name, uniforms=1, draw=lambda self, numbers: draw(numbers))


def _of(name: str, call: Callable[[DataNode, GraphBatch], Any]) -> _Wrong:
    def __call__(self: Any, images: DataNode, batch: GraphBatch) -> Any:
        return call(images, batch)

    return _Wrong(name, __call__=__call__)


def _raising(images: DataNode, batch: GraphBatch) -> DataNode:
    raise OSError("no such lens")


SHAPE = r"must return uint8 images of shape \(12, 12, 3\), returned"
WRONG: list[tuple[GraphTransform, str]] = [
    (_of("Raises", _raising), r"Raises\(\) fails: OSError: no such lens$"),
    (_of("Unknown", lambda images, batch: fn.gausian_blur(images)), r"Unknown\(\) fails: AttributeError: .*gausian"),
    (_of("Lacks", lambda images, batch: batch["x"]), r"Lacks\(\) fails: KeyError: .*draw must return an array 'x'"),
    (_of("Argument", lambda images, batch: fn.flip(images, horisontal=1)), r"Argument\(\) fails: .*horisontal"),
    (_of("Negative", lambda images, batch: fn.gaussian_blur(images, window_size=-3)), r"Negative\(\) fails: .*-3"),
    (_of("Sound", lambda images, batch: fn.audio_resample(images, scale=2.0)), r"Sound\(\) fails: .*time series"),
    (_of("Small", lambda images, batch: fn.resize(images, size=[8, 9])), rf"Small\(\) {SHAPE} uint8 of \(8, 9, 3\)$"),
    (_of("Turned", lambda images, batch: fn.transpose(images, perm=[2, 0, 1])), rf"Turned\(\) {SHAPE} .*\(3, 12, 12\)"),
    (_of("Float", lambda images, batch: images * 0.5), rf"Float\(\) {SHAPE} float of \(12, 12, 3\)$"),
    (_of("Nothing", lambda images, batch: None), r"Nothing\(\) must return images, a DataNode, returned None$"),
    (_of("Pair", lambda images, batch: (images, images)), r"Pair\(\) must return images, a DataNode, returned \("),
    (_of("Array", lambda images, batch: np.ones(3)), r"Array\(\) must return images, a DataNode, returned an array"),
    (_of("Noise", lambda images, batch: fn.noise.gaussian(images)), r"Noise\(\) must not draw .*noise\.Gaussian does"),
    (_of("Chance", lambda images, batch: fn.brightness(images, brightness=fn.random.uniform(range=[0.5, 1]))),
     r"Chance\(\) must not draw .*DALI's random\.Uniform does"),
    (_drawing("List", lambda numbers: [numbers]), r"List\(\): draw must return a dictionary of arrays, returned \["),
    (_drawing("Plain", lambda numbers: {"x": 3}), r"Plain\(\): draw must return as 'x' an array of .*returned 3$"),
    (_drawing("Short", lambda numbers: {"x": numbers[:1]}), r"Short\(\): .* for 2 images, returned an array of shape"),
    (_drawing("Texts", lambda numbers: {"x": numbers.astype(str)}), r"Texts\(\): draw must return as 'x'"),
    (_drawing("Large", lambda numbers: {"x": 2**31 + (numbers[:, 0] * 9).astype(int)}), r"Large\(\): .* of 32 bits"),
    (_drawing("Fails", lambda numbers: {"x": numbers[:, 7]}), r"Fails\(\): draw fails: IndexError: index 7"),
    (_drawing("Across", lambda numbers: {"x": numbers - numbers.mean()}), r"Across\(\): .*each row .* by itself"),
    (_drawing("Own", lambda numbers: {"x": np.random.default_rng().random(len(numbers))}), r"Own\(\): .*nothing else"),
    (_Wrong("Many", uniforms=65_537), r"Many\(\): uniforms must be an integer from 0 to 65536, got 65537$"),
    (_Wrong("Half", uniforms=0.5), r"Half\(\): uniforms must be an integer from 0 to 65536, got 0\.5$"),
    (_Wrong("Address", __repr__=object.__repr__), r"Address object at .*: repr must be the same in every process"),
    (_Wrong("Mute", __repr__=lambda self: 1 / 0), r"Mute .*: repr fails: ZeroDivisionError"),
]  # fmt: skip


@pytest.mark.parametrize(("transform", "message"), WRONG, ids=[type(transform).__name__ for transform, _ in WRONG])
@pytest.mark.filterwarnings("error")
def test_what_is_wrong_is_named_before_the_first_batch(
    dataset: Dataset, transform: GraphTransform, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^after_policy: .*{message}") as caught:
        _loader(dataset, after_policy=[Erase(), transform])
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Late(GraphTransform):
    """Goes wrong for some numbers only."""

    uniforms = 1
    what: str

    def draw(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        bad = numbers[:, 0] > 0.7  # none of the trial's
        if self.what == "names" and bad.any():
            return {}
        sides = np.where(bad & (self.what == "size"), SIDE - 2, SIDE).astype(np.float32)
        return {"sigma": np.where(bad & (self.what == "sigma"), -1, 1).astype(np.float32), "side": sides}

    def __call__(self, images: DataNode, batch: GraphBatch) -> DataNode:
        images = fn.gaussian_blur(images, sigma=batch["sigma"], window_size=3)
        return fn.resize(images, resize_x=batch["side"], resize_y=batch["side"])


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("sigma", RuntimeError, r"^before_policy: Late\(what='sigma'\) fails: .*must have non-negative values"),
        ("size", ValueError, r"must keep their shape \(12, 12, 3\), and have \(10, 10, 3\).* after .*policy: Late"),
        ("names", ValueError, r"^before_policy: Late\(what='names'\): draw must return the same arrays .*sigma"),
    ],
)
@pytest.mark.usefixtures("origins_of_operators")
def test_what_goes_wrong_later_is_named_too(dataset: Dataset, what: str, error: type[Exception], message: str) -> None:
    loader = _loader(dataset, before_policy=[Erase(), Late(what)])
    with pytest.raises(error, match=message):
        list(loader)
    bad = loader.state_dict()["batch"]
    with pytest.raises(error, match=message):  # again, and no other batch in its place
        list(loader)
    assert loader.state_dict()["batch"] == bad


def test_a_dropped_loader_frees_its_pipeline(dataset: Dataset) -> None:
    gc.collect()
    gc.disable()
    try:
        loader = _loader(dataset, before_policy=Blur(), after_policy=Erase())
        list(loader)
        held = [weakref.ref(each) for each in (loader, loader._pipeline, loader._source)]
        del loader
        assert [reference() for reference in held] == [None] * 3
    finally:
        gc.enable()


@dataclass(frozen=True)
class Fade(GraphTransform):
    """Arithmetic with a drawn number, on the images' device."""

    uniforms = 1
    on_host: bool = False

    def draw(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        return {"share": numbers[:, 0]}

    def __call__(self, images: DataNode, batch: GraphBatch) -> DataNode:
        assert batch.image_size == (SIDE, SIDE)
        faded = images * batch.on_device("share")
        return fn.cast_like(faded.cpu() if self.on_host else faded, images.cpu() if self.on_host else images)


def test_on_the_cpu_arrays_are_on_the_device(dataset: Dataset) -> None:
    got, before = (_epoch(_loader(dataset, before_policy=transforms)) for transforms in ([Fade()], []))
    share = _numbers(draws.BEFORE_POLICY, 1, 1).astype(np.float32)
    assert np.abs(got - before * share[:, :, None, None]).max() < 0.501


@pytest.mark.parametrize("transform", [Erase(), Blur(), Fade()], ids=str)
def test_the_trial_for_the_gpu_can_be_put_together(transform: GraphTransform) -> None:
    names = tuple(transform.draw(np.zeros((1, 2))))
    _, operators = construct(Placed("before_policy", 0, transform, names), (SIDE, SIDE), "gpu", None)
    assert operators[0].outputs[0].device == "gpu"


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (Fade(on_host=True), r"must return images on the gpu, returned them on the cpu"),
        (
            _of("Spectrum", lambda images, batch: fn.power_spectrum(images)),
            r"Spectrum\(\) fails: DALI's PowerSpectrum has no .* gpu$",
        ),
    ],
)
def test_what_has_no_form_for_the_gpu_is_named(transform: GraphTransform, message: str) -> None:
    names = tuple(transform.draw(np.zeros((1, 1))))
    with pytest.raises(ValueError, match=message) as caught:
        construct(Placed("before_policy", 0, transform, names), (SIDE, SIDE), "gpu", None)
    assert re.match(r"before_policy: \w+\(", str(caught.value))
