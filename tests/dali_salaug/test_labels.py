"""Labels of any kind: mixed, left or refused, and those out of range refused without a wait for the device."""

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dali_salaug import (
    METHODS,
    CutMix,
    Cutout,
    KeepCutout,
    KeepPaste,
    Mixup,
    SaliencyConsistency,
    SaliencyStage,
    saliency_map,
)
from dali_salaug.methods.mixing import MixingMethod

MIXING = [name for name, entry in METHODS.items() if entry.kind == "two images"]


def test_they_are_the_methods_with_soft_targets(small_net):
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    for name, entry in METHODS.items():
        _, targets = SaliencyStage(entry.build(5), warmup_epochs=0)(small_net, images, labels, images)
        assert (targets.ndim == 2) == (name in MIXING) == entry.build(5).mixes_labels


@pytest.mark.parametrize("target", ["label", "max"])
@pytest.mark.parametrize("label", [5, 7, -1, -100])
@pytest.mark.parametrize("name", MIXING)
def test_every_one_refuses(small_net, name, label, target):
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, label, 1, 2])
    stage = SaliencyStage(METHODS[name].build(5), target=target, warmup_epochs=0)
    with pytest.raises(ValueError, match=rf"labels must be in \[0, 5\), .*; got {label}$"):
        stage(small_net, images, labels)


@pytest.mark.parametrize("name", MIXING)
def test_legal_ones_give_targets_whose_rows_hold_all_the_mass(small_net, name, no_waiting):
    images, labels = torch.randn(5, 3, 16, 16), torch.arange(5)
    stage = SaliencyStage(METHODS[name].build(5), target="max", warmup_epochs=0)
    with no_waiting():
        _, targets = stage(small_net, images, labels)
    if name != "snapmix":  # its weights are shares of evidence, of two images
        torch.testing.assert_close(targets.sum(1), torch.ones(5))


@pytest.mark.usefixtures("fake_gpu")
def test_on_a_gpu_it_is_an_assertion_on_the_device():
    with FakeTensorMode():
        labels = torch.full((4,), 9, device="cuda")
        for entry in METHODS.values():
            method = entry.build(5)
            if isinstance(method, MixingMethod):
                drawn = method.draw(torch.empty(4, 3, 16, 16, device="cuda"), torch.empty(4, 8, 8, device="cuda"), None)
                assert method.targets(labels, drawn, (16, 16)).device.type == "cuda"


def _rows(kind: str, batch: int = 6, columns: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    rows = torch.rand(batch, columns, generator=generator)
    return {
        "soft": rows / rows.sum(1, keepdim=True),
        "several": (rows > 0.5).float(),
        "regression": 100 * rows - 50,
        "half": rows.half(),
        "double": rows.double(),
    }[kind]


@pytest.mark.parametrize("kind", ["soft", "several", "regression", "half", "double"])
@pytest.mark.parametrize("name", MIXING)
def test_rows_are_mixed_by_the_shares_of_the_images(small_net, name, kind, no_waiting):
    images, rows = torch.randn(6, 3, 16, 16), _rows(kind)
    stage = SaliencyStage(METHODS[name].build(5), target="max", warmup_epochs=0)
    with no_waiting():
        trace = stage.trace(small_net, images, rows)
    # Each image a class of its own: the targets of the class indices are then the shares, which other tests hold.
    shares = METHODS[name].build(6).targets(torch.arange(6), trace.drawn, (16, 16)).double()
    expected = torch.zeros(6, 5, dtype=torch.float64)
    for i in range(6):
        for j in range(6):
            for k in range(5):
                expected[i, k] += shares[i, j] * rows[j, k].double()
    assert trace.targets.dtype == (torch.float64 if kind == "double" else torch.float32)
    torch.testing.assert_close(trace.targets.double(), expected, rtol=1e-5, atol=1e-5)
    assert (shares.diagonal() < 1).any()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in MIXING])
@pytest.mark.parametrize(
    "labels",
    [_rows("soft"), _rows("several")[:, :3], torch.rand(6), torch.rand(6, 2, 2), {"age": torch.rand(6)}, {}],
    ids=["soft", "other columns", "scalars", "boxes", "dictionary", "none"],
)
def test_methods_that_leave_labels_take_any(small_net, name, labels):
    entry, images = METHODS[name], torch.randn(6, 3, 16, 16)
    for warmup in (0, 1):
        stage = SaliencyStage(entry.build(5), saliency=entry.saliency, target="max", warmup_epochs=warmup)
        stage.set_epoch(0)
        assert stage(small_net, images, labels, images)[1] is labels


@pytest.mark.parametrize("target", ["label", "loss"])
@pytest.mark.parametrize("method", ["gradient", "smoothgrad", "guided", "grad_cam"])
def test_the_map_of_a_one_hot_row_is_that_of_the_class(small_net, method, target):
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 4, 2, 2])
    maps = [
        saliency_map(
            small_net,
            images,
            given,
            method=method,
            target=target,
            samples=2,
            generator=torch.Generator().manual_seed(1),
        )
        for given in (labels, torch.eye(5)[labels], torch.eye(5, dtype=torch.float64)[labels])
    ]
    assert maps[0].any()
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(maps[2], maps[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("target", ["label", "loss"])
def test_the_map_of_rows_is_the_gradient_of_the_weighted_logits(target):
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(5, 3, 4, 4, generator=generator, dtype=torch.float64)
    net = nn.Sequential(nn.Conv2d(3, 5, 4, bias=False), nn.Flatten()).double()
    net[0].weight.data.copy_(weight)
    images, rows = torch.randn(6, 3, 4, 4, generator=generator, dtype=torch.float64), _rows("several")
    got = saliency_map(net, images, rows, target=target, scale=1.0)
    w, x, y = weight.numpy().reshape(5, -1), images.numpy().reshape(6, -1), rows.numpy().astype(np.float64)
    for i in range(6):
        logits = w @ x[i]
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        # Of −CE = Σ y_k log p_k: y_k − p_k Σ y_k.
        scalar = y[i] if target == "label" else y[i] - shares * y[i].sum()
        expected = np.abs((scalar @ w).reshape(3, 4, 4)).max(0)
        np.testing.assert_allclose(got[i].double().numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", MIXING)
def test_every_one_refuses_rows_that_are_not_finite(small_net, name, wrong):
    images, rows = torch.randn(6, 3, 16, 16), _rows("soft")
    rows[3, 1] = wrong
    for target in ("label", "max"):
        stage = SaliencyStage(METHODS[name].build(5), target=target, warmup_epochs=0)
        with pytest.raises(ValueError, match=rf"labels must be finite; got {wrong}$"):
            stage(small_net, images, rows)


def test_rows_of_other_columns_and_scalars_say_what_to_do(small_net):
    images = torch.randn(6, 3, 16, 16)
    with pytest.raises(ValueError, match=r"rows \(B, 5\), floating point; got float32 \(6, 3\) .* number of columns"):
        SaliencyStage(CutMix(5))(small_net, images, torch.rand(6, 3))
    with pytest.raises(ValueError, match=r"got float32 \(6,\) on cpu\. .*labels\[:, None\]"):
        SaliencyStage(Mixup(1))(small_net, images, torch.rand(6))
    for labels in (torch.rand(6), torch.rand(6, 4)):
        for target in ("label", "loss"):
            with pytest.raises(ValueError, match=r"rows \(B, 5\), floating point; got .* give target='max'"):
                SaliencyStage(KeepCutout(4), target=target)(small_net, images, labels)
    _, targets = SaliencyStage(Mixup(1, partners="replacement"), seed=1)(small_net, images, torch.arange(6.0)[:, None])
    assert targets.shape == (6, 1)
    assert not torch.equal(targets, torch.arange(6.0)[:, None])


def test_a_dictionary_is_refused_by_what_needs_one_tensor(small_net):
    images, labels = torch.randn(6, 3, 16, 16), {"kind": torch.arange(6) % 5, "age": torch.rand(6)}
    with pytest.raises(
        ValueError, match=r"one tensor for CutMix\(.*batch\.labels\['kind'\]; got a .*\['kind', 'age'\]"
    ):
        SaliencyStage(CutMix(5))(small_net, images, labels)
    with pytest.raises(ValueError, match=r"for saliency target 'label' \(target 'max' does without\), such as"):
        SaliencyStage(KeepPaste(4))(small_net, images, labels, images)
    with pytest.raises(ValueError, match=r"does without\); got a dictionary of \[\]"):
        SaliencyStage(KeepPaste(4))(small_net, images, {}, images)
    with pytest.raises(ValueError, match=r"labels\['age'\] must be a tensor \(6, \.\.\.\) on cpu; got float32 \(5,\)"):
        SaliencyStage(Cutout(4))(small_net, images, labels | {"age": torch.rand(5)})
    assert SaliencyStage(KeepCutout(4), saliency="fine_grained")(small_net, images, labels)[1] is labels


def test_what_is_no_label_is_refused(small_net):
    images = torch.randn(6, 3, 16, 16)
    for labels in ([0] * 6, None, torch.zeros(6, dtype=torch.bool), torch.zeros(5), torch.zeros(6, 1).long()):
        with pytest.raises(ValueError, match=r"labels must be an int64 tensor \(6,\), or a floating-point tensor"):
            SaliencyStage(Cutout(4))(small_net, images, labels)


def test_the_consistency_loss_takes_class_indices_only(small_net):
    images = torch.randn(6, 3, 16, 16)
    with pytest.raises(ValueError, match=r"labels must be an int64 tensor \(6,\) on cpu; got float32 \(6, 5\)"):
        SaliencyConsistency()(small_net, images, images, _rows("soft"))


@pytest.mark.usefixtures("fake_gpu")
def test_on_a_gpu_rows_that_are_not_finite_are_an_assertion_on_the_device():
    with FakeTensorMode():
        rows = torch.full((4, 5), float("nan"), device="cuda")
        for entry in METHODS.values():
            method = entry.build(5)
            if isinstance(method, MixingMethod):
                drawn = method.draw(torch.empty(4, 3, 16, 16, device="cuda"), torch.empty(4, 8, 8, device="cuda"), None)
                assert method.targets(rows, drawn, (16, 16)).device.type == "cuda"


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_narrower_integers_are_cast(small_net, dtype):
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    for method in (KeepCutout(6), CutMix(5)):
        expected = SaliencyStage(method, seed=1)(small_net, images, labels)
        inputs, targets = SaliencyStage(method, seed=1)(small_net, images, labels.to(dtype))
        assert torch.equal(inputs, expected[0])
        assert torch.equal(targets, expected[1])
        assert targets.dtype == expected[1].dtype
    assert torch.equal(saliency_map(small_net, images, labels.to(dtype)), saliency_map(small_net, images, labels))
