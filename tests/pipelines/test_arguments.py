"""Every argument at the boundary: an error that names it, the legal values and the value; or the right result."""

import inspect
import json
import os
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipelines import (
    POLICIES,
    Affine,
    AugMix,
    AutoAugment,
    Dataset,
    GraphTransform,
    ImageLoader,
    RandAugment,
    SimCLR,
    SubPolicies,
    TrivialAugment,
    find_policy,
    image_loader,
)  # fmt: skip

NAN, INF, HUGE = float("nan"), float("inf"), 10**400
NO_NUMBERS: list[Any] = [
    None,
    "3",
    b"3",
    [3],
    (3,),
    {},
    NAN,
    INF,
    -INF,
    HUGE,
    1j,
    True,
    np.True_,
    np.ones(3),
    object(),
    int,
]
NO_INTEGERS: list[Any] = [*NO_NUMBERS, 2.0, np.float32(2), 2.5]
NO_FLAGS: list[Any] = [None, 0, 1, 1.0, "test", "train", "False", [], [True], np.ones(3, bool), np.array(True), bool]
NO_TEXTS: list[Any] = [
    None,
    0,
    1.5,
    True,
    b"nearest",
    [],
    ["nearest"],
    ("nearest",),
    {},
    {"nearest"},
    np.ones(3),
    "",
    "x",
    str,
]
NO_PAIRS: list[Any] = [
    None, 0.5, "ab", "0.5", [], (0.5,), (0.2, 0.5, 1.0), (0.8, 0.2), (0, 1), (-0.1, 1), (0.1, 1.1), (NAN, 1),
    (0.1, NAN),
    (0.1, INF), (1e-300, 1), (0.1, HUGE), ("0.1", "1"), (False, True), ((0.1, 1),), {0.1, 1}, {0.1: 0, 1: 0},
    np.ones((1, 2)),
    [[0.1], [1]], [[0.1, 0.2], [1]], np.array([0.1, NAN]), range, object(),
]  # fmt: skip
NO_CHANNELS: list[Any] = [
    None, 0.5, "abc", (0.5,) * 2, (0.5,) * 4, (0.5, 0.5, NAN), (0.5, 0.5, INF), (0.5, 0.5, "0"), (True, True, True),
    (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), (0.5, 0.5, -0.1), [[0.5] * 3], np.ones((3, 1)), {0.1,
    0.2, 0.3}, 1j,
]  # fmt: skip


def _integers(least: int, most: int | None) -> list[Any]:
    outside = [least - 1, -(10**30), np.int64(least - 1)] if least else [-1, np.int8(-1), -(10**30)]
    return [*NO_INTEGERS, *outside, *([] if most is None else [most + 1, 10**30])]


LOADER: dict[str, list[Any]] = {
    "root": [None, 3, True, b"", "", "a\0b", ["a"], {}, np.ones(3), Path, Dataset],
    "batch_size": _integers(1, 2**31 - 1),
    "image_size": [
        *_integers(1, 16_384), (), (32,), (32, 32, 3), (32, 0), (32.0, 32), (True, 32), (32, 16_385), (None, 32),
        ((32, 32),), np.ones((2, 2), int), {32, 40}, "32",
    ],
    "train": NO_FLAGS,
    "images": _integers(1, 2**31 - 1)[1:],
    "shuffle": [*NO_FLAGS[1:], "False"],
    "sampler": [3, 1.5, True, "12", b"12", {1: 2}, {1, 2}, [], [100], [-1], [1.0], np.ones(100, bool), object(), list],
    "weights": [
        0, 1.5, True, "x", "", b"x" * 100, {}, {1}, [], [1] * 99, [1] * 101, [0] * 100, [-1] + [1] * 99, ["1"] * 100,
        [NAN] + [1] * 99, [INF] + [1] * 99, [HUGE] * 100, [None] * 100, [[1]] * 100, np.ones((100, 1)), [1j] * 100,
        np.ones(100, bool), [True] * 100, torch.ones(99), torch.tensor([NAN] * 100), list, iter([1] * 100), object(),
    ],
    "repeats": _integers(1, 2**31 - 1),
    "drop_last": NO_FLAGS,
    "policy": [
        0, 3, True, b"randaugment", "", "fancy", "x.yaml\0", "none.yaml", ["randaugment"], {}, object(), np.ones(3),
        RandAugment, AugMix, TrivialAugment, AutoAugment, SubPolicies, Affine, SimCLR, RandAugment().draw,
    ],
    **{
        name: [None, 0, "blur", b"", {}, object(), np.ones(3), GraphTransform, len, [None], [RandAugment()], ("a", "b")]
        for name in ("before_policy", "after_policy")
    },
    "device": [None, 0, True, "", "tpu", "gpu", "cuda:-1", "cuda:x", "meta", "cpu:x", ["cpu"], b"cpu", np.ones(3)],
    "seed": _integers(0, 2**64 - 1),
    "rank": [*_integers(0, 0), 7],
    "world_size": _integers(1, 2**31 - 1),
    "num_threads": _integers(1, 1024)[1:],
    "dtype": [*NO_TEXTS, "float64", "int8", "bfloat", torch.float64, torch.int8, np.float64, np.uint8],
    "interpolation": NO_TEXTS,
    "crop": [*NO_TEXTS, "none", "center"],
    "crop_scale": NO_PAIRS,
    "crop_ratio": [*NO_PAIRS[:10], *NO_PAIRS[11:], (0.1, 1001), (0.0009, 1)],
    "padding": _integers(0, 16_384),
    "horizontal_flip": [*NO_NUMBERS, -0.1, 1.1],
    "vertical_flip": [*NO_NUMBERS, -0.1, 1.1],
    "val_resize": _integers(1, 16_384)[1:],
    "crop_pct": [*NO_NUMBERS[1:], 0, 0.09, 1.1, -1],
    "val_crop": [*NO_TEXTS, "none", "pad"],
    "resize_interpolation": [*NO_TEXTS, "nearest", "linear"],
    "color_jitter": [*NO_NUMBERS, -0.1, 1.1, -1e-300],
    "mean": NO_CHANNELS,
    "std": [*NO_CHANNELS, (0, 0.5, 0.5), (1e-320, 0.5, 0.5)],
    "with_matrices": [*NO_FLAGS, True],
    "views": [*_integers(1, 32), 2],
    "with_views": NO_FLAGS,
    "on_bad_file": [*NO_TEXTS, "skip"],
    "max_bad_share": [*NO_NUMBERS, -0.1, 1.1],
    "max_pixels": _integers(1, 2**62),
    "hw_decoder_load": [*(value for value in NO_NUMBERS if value is not None), -0.1, 1.1],
    "decode_size_hint": [
        0, 640, "ab", (640,), (640, 480, 3), (640, 0), (-1, 5), (640.0, 480.0), (NAN, 5), (True, True), (65_536, 1),
        (HUGE, 1), [[640, 480]], np.ones((1, 2), int), {640, 480}, object(),
    ],
    "decode_region": [flag for flag in NO_FLAGS if flag is not None],
}  # fmt: skip


def test_the_table_has_every_argument() -> None:
    assert set(LOADER) == set(inspect.signature(image_loader).parameters)


@pytest.mark.parametrize("name", LOADER)
def test_arguments_of_image_loader(cifar: Path, name: str, refused: Callable) -> None:
    options: dict[str, Any] = {"root": cifar, "batch_size": 8, "image_size": 32, "device": "cpu"}
    for value in LOADER[name]:
        refused(partial(image_loader, **(options | {name: value})), name, value)  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers(cifar: Path) -> None:
    options: dict[str, Any] = {
        "batch_size": np.int32(8), "image_size": np.uint8(32), "train": np.True_, "images": np.int64(50),
        "shuffle": np.True_, "repeats": np.int8(2), "views": np.int64(2),
        "drop_last": np.False_, "policy": RandAugment(np.int64(2), np.uint8(9)),  # type: ignore[arg-type]
        "seed": np.uint64(2**64 - 1), "rank": np.int8(1), "world_size": np.int16(2), "num_threads": np.int64(1),
        "crop_scale": np.array([0.5, 1.0]), "crop_ratio": np.array([1, 2]), "horizontal_flip": np.float32(0.25),
        "vertical_flip": np.int8(1), "val_resize": np.int16(40),
        "color_jitter": np.float32(0.25), "mean": np.array([0.5] * 3, np.float32),
        "std": [np.float64(0.25), 1, 0.5], "with_matrices": np.True_, "max_bad_share": np.float16(0.5),
        "max_pixels": np.int32(100), "hw_decoder_load": np.int64(1), "decode_size_hint": np.array([640, 480]),
        "decode_region": np.True_,
    }  # fmt: skip
    loader = image_loader(cifar, device="cpu", **options)
    list(loader)
    state = loader.state_dict()
    assert json.loads(json.dumps(state)) == state
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in options.items()}
    other = image_loader(cifar, device="cpu", **(plain | {"policy": RandAugment(2, 9), "std": (0.25, 1.0, 0.5)}))
    other.load_state_dict(state)
    assert repr(RandAugment(np.int64(2), np.uint8(9))) == "RandAugment(n=2, m=9)"  # type: ignore[arg-type]


def test_right_results_at_the_edges(cifar: Path, folders: Path) -> None:
    options: dict[str, Any] = {"image_size": 32, "device": "cpu", "num_threads": 1}
    assert [len(batch.labels) for batch in image_loader(cifar, batch_size=2**31 - 1, **options)] == [100]
    assert len(list(image_loader(cifar, batch_size=99, seed=2**64 - 1, **options))) == 2
    assert image_loader(cifar, batch_size=1, **(options | {"device": "cpu:0"})).device == torch.device("cpu")
    assert image_loader(str(folders), batch_size=50, color_jitter=1, max_bad_share=0, crop_scale=[1, 1], **options)
    assert image_loader(cifar, batch_size=50, mean=(0, 0, 0), std=(1, 1, 1), dtype=torch.float16, **options)


POLICY_ARGUMENTS: list[tuple[Callable[..., object], dict[str, list[Any]]]] = [
    (RandAugment, {"n": _integers(1, 32), "m": _integers(0, 30)}),
    (AugMix, {
        "severity": _integers(1, 10), "width": _integers(1, 32),
        "depth": _integers(1, 32)[1:],
    }),
    (AutoAugment, {"learned_on": [*NO_TEXTS, "ImageNet", "v0"]}),
    (partial(Affine, horizontal_flip=True), {
        "horizontal_flip": NO_FLAGS, "vertical_flip": NO_FLAGS,
        "scale": [*NO_PAIRS[:10], *NO_PAIRS[12:], (0.4, 1), (1, 101)],
        "shear": [*NO_NUMBERS, -1, 90, 1e9], "degrees": [*NO_NUMBERS, -1, 180.1], "translate": [*NO_NUMBERS, -0.1, 1.1],
        "contrast": [None, 1, "ab", (1,), (-0.1, 1), (2, 1), (0, 101), (0, NAN), (0, INF), (False, True), (0, 1e39)],
        "probability": [*NO_NUMBERS, -0.1, 1.1],
    }),
    (SimCLR, {
        "area": NO_PAIRS,
        **{name: [*NO_NUMBERS, -0.1, 1.1] for name in ("strength", "horizontal_flip", "jitter", "grayscale")},
    }),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "arguments"), POLICY_ARGUMENTS, ids=["rand", "mix", "auto", "affine", "simclr"])
def test_arguments_of_policies(policy: Any, arguments: dict[str, list[Any]], refused: Callable) -> None:
    kind = policy.func if isinstance(policy, partial) else policy
    if hasattr(kind, "__dataclass_fields__"):
        assert set(arguments) == {field.name for field in fields(kind)}
    for name, values in arguments.items():
        for value in values:
            refused(lambda name=name, value=value: policy(**{name: value}), name, value)  # type: ignore[misc]


@pytest.mark.parametrize(
    "value", [None, 3, True, "", "abc", {}, [], [None], [[]], [[[]]], [["rotate", 0.5, 3]], np.ones(3)]
)
def test_what_is_no_list_of_sub_policies(value: Any, refused: Callable) -> None:
    refused(lambda: SubPolicies(value), "sub-policy|sub-policies", None)


@pytest.mark.parametrize(
    "operation",
    [(None, 0.5, 3), (3, 0.5, 3), (["rotate"], 0.5, 3), ("rotate", "0.5", 3), ("rotate", NAN, 3), ("rotate", HUGE, 3),
     ("rotate", True, 3), ("rotate", 0.5, True), ("rotate", 0.5, NAN), ("rotate", 0.5, INF), ("rotate", 0.5, HUGE),
     ("rotate", 0.5, "3"), ("rotate", 0.5, -1), ("rotate", 0.5, np.ones(3)), ("rotate", 0.5, 3, 4),
     ("rotate",), None, 7],
)  # fmt: skip
def test_what_is_no_operation(operation: Any, refused: Callable) -> None:
    refused(lambda: SubPolicies([[("equalize", 0.5), operation]]), "sub-policy 1, operation 2", None)


def test_numpys_numbers_in_sub_policies() -> None:
    given = SubPolicies([[("rotate", np.float32(0.5), np.int64(3))]])
    assert repr(given) == repr(SubPolicies([[("rotate", 0.5, 3)]]))


@pytest.mark.parametrize("policy", [None, 3, True, b"x.yaml", [], "", "a\0b", "a\0.yaml", np.ones(3), RandAugment])
def test_names_of_policies(policy: Any, refused: Callable) -> None:
    refused(lambda: find_policy(policy), "policy", None)
    refused(lambda: SubPolicies.from_file(policy), "path|policy file", None)


def test_policy_files_that_are_traps(tmp_path: Path, refused: Callable) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("pipe.yaml", "folder.yaml"):
        refused(lambda name=name: find_policy(tmp_path / name), "is no regular file", None)  # type: ignore[misc]
    (tmp_path / "deep.json").write_text("[" * 100_000)
    refused(lambda: find_policy(tmp_path / "deep.json"), "nested too deeply", None)
    lines = ["- &a0 [x, x]"] + [f"- &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    assert yaml.safe_load((tmp_path / "bomb.yaml").read_text())
    refused(lambda: find_policy(tmp_path / "bomb.yaml"), "sub-policy 1, operation 1", None)


@pytest.fixture
def loader(cifar: Path) -> ImageLoader:
    return image_loader(cifar, batch_size=30, image_size=32, device="cpu", num_threads=1)


def test_epochs(loader: ImageLoader, refused: Callable) -> None:
    for epoch in (*NO_INTEGERS, "a", -1, 2**61 + 1, 10**30):
        refused(lambda epoch=epoch: loader.set_epoch(epoch), "epoch", epoch)  # type: ignore[misc]
    loader.set_epoch(np.int64(2**61))  # type: ignore[arg-type]
    assert len(list(loader)) == 4
    assert json.loads(json.dumps(loader.state_dict()))["epoch"] == 2**61 + 1


def _changed(state: dict, path: tuple[str, ...], value: Any) -> dict:
    changed = json.loads(json.dumps(state))
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def test_states_that_are_none(loader: ImageLoader, refused: Callable) -> None:
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    for value in (None, 3, "x", b"x", [], [state], {}, {"epoch": 0}, {"model": {}}, np.ones(3), torch.nn.Linear(1, 1)):
        refused(lambda value=value: loader.load_state_dict(value), "state", None)  # type: ignore[misc]
    for key in state.keys() - {"image_size"}:  # which states did not always have
        refused(lambda: loader.load_state_dict({k: v for k, v in state.items() if k != key}), key, None)  # noqa: B023
    wrong: list[tuple[tuple[str, ...], list[Any]]] = [
        (("epoch",), [None, "0", 1.5, -1, True, [], 2**62]),
        (("batch",), [None, "0", 1.5, -1, 5, True, []]),
        (("indices",), ["x", 3, [], True]),
        (("bad_files",), [None, [], {}, 3]),
        (("bad_files", "known"), [None, {}, "ab", [1], [[1]], [[1, 2]], [["a", "b"]], [[-1, "b"]], [[100, "b"]]]),
        (("bad_files", "replaced"), [None, -1, "0", 1.5]),
        (("configuration",), [None, [], 3, "x"]),
        (("image_size",), [None, "32", 0, 1.5, [], [32], [32, 0], [[32, 32]], 10**9]),
        (("configuration", "image_size"), [None, "32", 0, 1.5, [], [32], [32, 0], [[32, 32]], 10**9]),
    ]
    for path, values in wrong:
        for value in values:
            refused(lambda: loader.load_state_dict(_changed(state, path, value)), "state|state's", None)  # noqa: B023
    with pytest.raises(
        ValueError, match=r"^the state is of another loader\. seed: \[0, 0, .*\.\.\.\] in the state, 0 here"
    ):
        loader.load_state_dict(_changed(state, ("configuration", "seed"), [0] * 100_000))
    assert loader.state_dict() == state  # none of these was taken, in part or whole
    assert len(list(iterator)) == 3


def test_a_policy_class_in_place_of_a_policy_says_what_to_write(cifar: Path) -> None:
    with pytest.raises(ValueError, match=r"policy object, such as RandAugment\(\), got the class RandAugment"):
        image_loader(cifar, batch_size=1, policy=RandAugment)  # type: ignore[arg-type]


def test_means_of_bytes_name_the_units(cifar: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^mean must be three numbers from 0 to 1, .*in \[0, 1\] units .*got \(123.675"
    ):
        image_loader(cifar, batch_size=1, mean=(123.675, 116.28, 103.53))


def test_large_values_are_not_printed_whole(cifar: Path) -> None:
    for name, value in {"mean": np.zeros(10**6), "batch_size": torch.zeros(10**6), "seed": "9" * 10**6}.items():
        with pytest.raises(ValueError, match=f"^{name} must be") as caught:
            image_loader(cifar, **({"batch_size": 1} | {name: value}))  # type: ignore[arg-type]
        assert len(str(caught.value)) < 250


def test_the_policies_by_name_are_unchanged_by_their_checks() -> None:
    assert repr(POLICIES["affine"]) == (
        "Affine(horizontal_flip=False, vertical_flip=False, scale=(0.8, 1.2), shear=10, degrees=30, translate=0.1, "
        "contrast=(1, 1), probability=0.5)"
    )
