"""The GPU form: rehearsed without one by building its graph, run where there is one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode

from pipelines import (
    POLICIES,
    AugMix,
    GraphBatch,
    GraphTransform,
    ImageLoader,
    Policy,
    RandAugment,
    SubPolicies,
    build,
    image_loader,
)
from pipelines.graph import pipeline as graph
from pipelines.graph.pipeline import image_pipeline

CUTOUT = SubPolicies([[["Cutout", 0.9, 0.8], ["ShearX", 0.5, 0.8]], [["Cutout", 0.9, 0.3]]])


class _Darker(GraphTransform):
    """Some images, by a named argument on the host and by arithmetic on the device."""

    uniforms = 2

    def __repr__(self) -> str:
        return "_Darker()"

    def draw(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        bits = 255 - 2 ** (3 * numbers[:, 1])
        return {"applied": numbers[:, 0] < 0.5, "factor": numbers[:, 1], "bits": bits.astype(np.uint8)}

    def __call__(self, images: DataNode, batch: GraphBatch) -> DataNode:
        if batch["applied"]:
            images = fn.brightness(images, brightness=batch["factor"])
        return images & batch.on_device("bits")


def _outputs(root: Path, **options: Any) -> tuple[DataNode, ...]:
    """The outputs of the graph for the GPU, put together but not built."""
    loader = image_loader(root, **({"batch_size": 4, "image_size": 48, "device": "cpu"} | options))
    recipe = replace(loader.recipe, device="gpu")
    pipeline = image_pipeline(recipe, lambda: (), batch_size=4, num_threads=1, device_id=None)
    return pipeline._graph_out


@pytest.mark.parametrize("layout", ["folders", "cifar"])
@pytest.mark.parametrize("policy", [None, *POLICIES, CUTOUT], ids=str)
@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_the_graph_for_the_gpu_can_be_put_together(
    layout: str, policy: str | Policy | None, interpolation: str, request: pytest.FixtureRequest
) -> None:
    outputs = _outputs(
        request.getfixturevalue(layout), policy=policy, interpolation=interpolation,
        with_matrices=policy not in (None, "augmix"), with_views=True,
    )  # fmt: skip
    assert [node.device for node in outputs] == ["gpu"] * (3 if policy is None else 4 if policy == "augmix" else 5)


@pytest.mark.parametrize(("policy", "with_matrices"), [(RandAugment(n=1), True), (AugMix(width=2, depth=1), False)])
def test_the_graph_for_the_gpu_of_several_views(cifar: Path, policy: Policy, with_matrices: bool) -> None:
    outputs = _outputs(cifar, policy=policy, views=3, with_matrices=with_matrices)
    assert [node.device for node in outputs] == ["gpu"] * (8 if with_matrices else 5)


def test_sharpness_kernels_are_taken_to_the_gpu(cifar: Path) -> None:
    # DALI puts a filter with its kernel on the host together without a word, and fails when it runs.
    outputs = _outputs(cifar, policy="randaugment")
    filters, todo, seen = [], list(outputs), set()
    while todo:
        operator = todo.pop().source
        if operator.id not in seen:
            seen.add(operator.id)
            todo += operator.inputs
            if "Filter" in operator.name:
                filters.append([node.device for node in operator.inputs])
    assert filters == [["gpu", "gpu"]] * 2


@pytest.mark.parametrize(
    ("given", "decoder"),
    [({}, "image"), ({"decode_region": True}, "image_slice"), ({"crop": "pad", "decode_region": True}, "image")],
)
def test_how_a_gpu_decodes_is_told_to_its_decoder(
    given: dict[str, Any], decoder: str, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    real = getattr(graph.fn.decoders, decoder)

    def decoding(*inputs: DataNode, **options: Any) -> DataNode:
        told.append(options)
        return real(*inputs, **options)

    monkeypatch.setattr(graph.fn.decoders, decoder, decoding)
    for options in ({"hw_decoder_load": 0.65}, {"hw_decoder_load": 0.9, "decode_size_hint": (640, 480)}):
        _outputs(folders, **given, **options)
    names = ("device", "hw_decoder_load", "preallocate_width_hint", "preallocate_height_hint")
    assert [tuple(options[name] for name in names) for options in told] == [
        ("mixed", 0.65, 0, 0),
        ("mixed", 0.9, 640, 480),
    ]


@pytest.mark.parametrize(("capability", "load"), [((8, 0), 0.65), ((9, 0), 1.0), ((10, 3), 1.0)])
def test_the_share_of_the_hardware_decoder_is_that_of_the_gpu(
    capability: tuple[int, int], load: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert build.hardware_share(torch.device("cuda", 0)) == load
    assert build.hardware_share(torch.device("cpu")) == 0


def test_how_a_gpu_decodes_may_change_before_resuming(folders: Path) -> None:
    def loader(**options: Any) -> ImageLoader:
        return image_loader(folders, batch_size=4, image_size=48, device="cpu", seed=1, **options)

    plain, other = loader(), loader(hw_decoder_load=0.0, decode_size_hint=(640, 480))
    batches = iter(plain)
    next(batches)
    other.load_state_dict(plain.state_dict())
    assert torch.equal(next(iter(other)).images, next(batches).images)


@pytest.mark.parametrize("layout", ["folders", "cifar"])
@pytest.mark.parametrize(
    "options",
    [
        {"train": False}, {"crop": "pad"}, {"crop": "random_resized"}, {"crop": "pad", "color_jitter": 0.3},
        {"train": False, "crop_pct": 0.9, "resize_interpolation": "bicubic", "image_size": (48, 40)},
        {"vertical_flip": 0.5, "resize_interpolation": "bicubic", "image_size": (48, 40)},
    ],
)  # fmt: skip
def test_each_crop_for_the_gpu_can_be_put_together(layout: str, options: dict, request: pytest.FixtureRequest) -> None:
    outputs = _outputs(request.getfixturevalue(layout), **options)
    assert [node.device for node in outputs] == ["gpu", "gpu"]


@pytest.mark.parametrize(
    ("dtype", "made"), [("float16", types.FLOAT16), ("bfloat16", types.FLOAT), ("uint8", types.UINT8)]
)
def test_types_and_transforms_for_the_gpu_can_be_put_together(cifar: Path, dtype: str, made: Any) -> None:
    options: dict[str, Any] = {"before_policy": [_Darker(), _Darker()], "after_policy": _Darker(), "dtype": dtype}
    for policy in (None, "flips"):
        images, _, augmented = _outputs(cifar, policy=policy, **options)
        assert (images.device, augmented.device) == ("gpu", "gpu")
        assert {images.dtype, augmented.dtype} <= {made, None}  # None: known when it is built


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "uint8"])
@pytest.mark.parametrize("policy", [None, "augmix"])
def test_gpu_batches_of_each_type_with_transforms_are_the_cpus(cifar: Path, dtype: str, policy: str | None) -> None:
    options: dict[str, Any] = {
        "batch_size": 8, "image_size": 32, "policy": policy, "dtype": dtype, "before_policy": _Darker(),
        "after_policy": [_Darker(), _Darker()],
    }  # fmt: skip
    loaders = [image_loader(cifar, device=device, **options) for device in ("cpu", "cuda")]
    full = image_loader(cifar, device="cuda", **(options | {"dtype": "float32"}))
    for one, other, normalised in zip(*loaders, full, strict=True):
        for name in ("images", "augmented"):
            images, expected = getattr(other, name), getattr(normalised, name)
            assert images.is_cuda
            assert images.is_contiguous(memory_format=torch.channels_last)
            difference = (getattr(one, name).float() - images.cpu().float()).abs()
            assert difference.mean() < (1 if dtype == "uint8" else 0.05)
            if dtype == "bfloat16":
                assert torch.equal(images, expected.bfloat16())
            else:
                assert (loaders[1].normalize(images) - expected).abs().max() < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["folders", "cifar"])
@pytest.mark.parametrize("policy", [*POLICIES, CUTOUT], ids=str)
def test_gpu_batches_are_the_cpus(layout: str, policy: str | Policy, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(layout)
    with_matrices = policy != "augmix"
    options: dict[str, Any] = {"batch_size": 8, "image_size": 64, "policy": policy, "with_matrices": with_matrices}
    options["with_views"] = True
    loaders = [image_loader(root, device=device, **options) for device in ("cpu", "cuda")]
    for one, other in zip(*loaders, strict=True):
        assert other.augmented is not None
        for tensor in (other.images, other.augmented, other.labels, other.indices):
            assert tensor.is_cuda
        assert other.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(one.indices, other.indices.cpu())
        assert torch.equal(one.labels, other.labels.cpu())
        if with_matrices:
            assert torch.equal(one.matrices, other.matrices.cpu())
        assert torch.equal(one.views, other.views.cpu())
        # Normalised units. Another decoder; and an equalized or posterized pixel may leap.
        assert (one.images - other.images.cpu()).abs().mean() < 0.05
        assert (one.augmented - other.augmented.cpu()).abs().mean() < 0.15


@pytest.mark.gpu
@pytest.mark.parametrize("policy", ["randaugment", "augmix"])
def test_views_of_the_gpu_are_the_cpus(folders: Path, policy: str) -> None:
    options: dict[str, Any] = {"batch_size": 8, "image_size": 64, "policy": policy, "views": 3, "repeats": 2}
    loaders = [image_loader(folders, device=device, **options) for device in ("cpu", "cuda")]
    alone = image_loader(folders, device="cuda", **(options | {"views": 1}))
    for one, other, first in zip(*loaders, alone, strict=True):
        assert torch.equal(one.indices, other.indices.cpu())
        assert torch.equal(other.augmented[0], first.augmented)
        assert torch.equal(other.images, first.images)
        for mine, theirs in zip(one.augmented, other.augmented, strict=True):
            assert theirs.is_cuda
            assert (mine - theirs.cpu()).abs().mean() < 0.15
        assert (other.augmented[0] != other.augmented[1]).flatten(1).any(1).float().mean() > 0.3


@pytest.mark.gpu
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("layout", ["folders", "cifar"])
def test_gpu_sizes_and_flips_are_the_cpus(layout: str, train: bool, request: pytest.FixtureRequest) -> None:
    options: dict[str, Any] = {
        "batch_size": 8, "image_size": (48, 72), "resize_interpolation": "bicubic", "vertical_flip": 0.5,
        "crop_pct": 0.9, "train": train, "policy": "flips_rotation", "with_matrices": True,
    }  # fmt: skip
    root = request.getfixturevalue(layout)
    for one, other in zip(*(image_loader(root, device=device, **options) for device in ("cpu", "cuda")), strict=True):
        assert other.images.is_cuda
        assert torch.equal(one.matrices, other.matrices.cpu())
        assert (one.images - other.images.cpu()).abs().mean() < 0.05
        assert (one.augmented - other.augmented.cpu()).abs().mean() < 0.15


@pytest.mark.gpu
@pytest.mark.parametrize("train", [True, False])
def test_gpu_reads_and_resumes(folders: Path, train: bool) -> None:
    options: dict[str, Any] = {
        "batch_size": 8, "image_size": 64, "train": train, "device": "cuda", "dtype": "float16",
    }  # fmt: skip
    loader = image_loader(folders, **options)
    batches = [(batch.images.clone(), batch.indices.clone()) for batch in loader]
    resumed = image_loader(folders, **options)
    resumed.load_state_dict({**loader.state_dict(), "epoch": 0, "batch": 2})
    for (images, indices), batch in zip(batches[2:], resumed, strict=True):
        assert batch.images.dtype == torch.float16
        assert torch.equal(indices, batch.indices)
        torch.testing.assert_close(images, batch.images)
