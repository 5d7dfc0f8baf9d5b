"""Backbones and detectors: torchvision's own stages, freezing and outputs; no second resize; frozen BatchNorm."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from train.errors import UserError
from train.models.registry import build_model
from train.tasks.detection.backbones import Body, LastStage, stages_of
from train.tasks.detection.detectors import DETECTORS, Detector, DetectorOptions

SIZES = [(64, 48), (40, 64)]


def _detector(kind: str = "fasterrcnn_fpn", name: str = "small", **options: object) -> Detector:
    torch.manual_seed(0)
    chosen = {"side": 64, "channels": 8, "proposals": 16, "trainable": None, "frozen_norm": False} | options
    return Detector(build_model(name, 3, None), 3, DetectorOptions(kind, **chosen), name)  # type: ignore[arg-type]


def _batch(count: int = 2) -> tuple[Tensor, list[tuple[int, int]], list[dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, 64, 64, generator=generator)
    boxes = [torch.tensor([[4.0, 6, 30, 40], [20, 2, 44, 22]]), torch.zeros(0, 4)]
    labels = [torch.tensor([2, 0]), torch.zeros(0, dtype=torch.int64)]
    targets = [{"boxes": b, "labels": c} for b, c in zip(boxes, labels, strict=True)]
    return images, SIZES[:count], targets[:count]


@pytest.mark.parametrize(
    ("name", "strides", "channels"),
    [
        ("small", [1, 2, 4, 8], [16, 32, 64, 128]),
        ("resnet50", [2, 4, 8, 16, 32], [64, 256, 512, 1024, 2048]),
        ("mobilenet_v3_small", [2, 4, 8, 16, 32], [16, 72, 96, 288, 576]),
        ("timm/resnet10t", [2, 4, 8, 16, 32], [64, 64, 128, 256, 512]),
    ],
)
def test_stages_hold_all_parameters_but_the_heads(name: str, strides: list[int], channels: list[int]) -> None:
    model = build_model(name, 7, None)
    stages = stages_of(model, name)
    assert [stage.stride for stage in stages] == strides
    assert [stage.channels for stage in stages] == channels
    parameters = [name for stage in stages for name in stage.parameters]
    assert len(parameters) == len(set(parameters))
    rest = {name for name, _ in model.named_parameters()} - set(parameters)
    assert rest <= {name for name in rest if name.split(".")[0] in ("fc", "classifier", "12")}
    body = Body(model, stages, frozen_norm=False).eval()
    with torch.no_grad():
        outputs = body(torch.rand(1, 3, 64, 96))
    expected = [(stage.channels, 64 // stage.stride, 96 // stage.stride) for stage in stages]
    assert [tuple(output.shape[1:]) for output in outputs.values()] == expected


@pytest.mark.parametrize("trainable", [0, 3, 5])
def test_trainable_layers_are_torchvisions(trainable: int) -> None:
    own = _detector(name="resnet18", trainable=trainable, frozen_norm=True)
    theirs = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=trainable)
    expected = {name.removeprefix("body.") for name, p in theirs.named_parameters() if p.requires_grad}
    prefix = "detector.backbone.body.features."
    found = {
        name.removeprefix(prefix) for name, p in own.named_parameters() if p.requires_grad and name.startswith(prefix)
    }
    # Their frozen BatchNorm has no parameters.
    assert found == {name for name in expected if not name.startswith("fpn")}
    too_many = "--trainable-layers must be at most 5, the stages of --model resnet18; got 6"
    with pytest.raises(UserError, match=too_many):
        _detector(name="resnet18", trainable=6)


def test_frozen_batch_norm_is_torchvisions() -> None:
    torch.manual_seed(0)
    model = resnet18(norm_layer=nn.BatchNorm2d)
    frozen = resnet18(norm_layer=FrozenBatchNorm2d)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.uniform_(-1, 1)
            nn.init.uniform_(module.weight)
    frozen.load_state_dict(model.state_dict(), strict=False)
    stages = stages_of(model, "resnet18")
    images = torch.rand(2, 3, 64, 64)
    before = [buffer.clone() for buffer in model.buffers()]
    body = Body(model, stages, frozen_norm=True).train()
    theirs = Body(frozen, stages_of(frozen, "resnet18"), frozen_norm=False).train()
    for mine, other in zip(body(images).values(), theirs(images).values(), strict=True):
        assert torch.allclose(mine, other, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert not any(p.requires_grad for name, p in model.named_parameters() if ".bn" in name)
    trained = Body(model, stages, frozen_norm=False).train()
    trained(images)
    assert not all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_the_last_stage_continues_where_the_one_before_ends(name: str) -> None:
    model = build_model(name, 3, None)
    body = Body(model, stages_of(model, name)[-2:], frozen_norm=False)
    last = LastStage(body).eval()
    with torch.no_grad():
        outputs = body.eval()(torch.rand(2, 3, 64, 64))
        assert torch.allclose(last(outputs["0"]), outputs["1"].mean((2, 3)), atol=1e-5)


def test_what_cannot_be_a_backbone_is_named() -> None:
    class Branching(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images if images.sum() > 0 else -images

    with pytest.raises(UserError, match=r"--model branching cannot be a backbone: torch\.fx cannot trace it: "):
        stages_of(Branching(), "branching")
    reasons = {"vit_b_16": "256×256 pixels: Wrong image height!", "squeezenet1_1": "no feature maps at two resolutions"}
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=rf"--model {name} cannot be a backbone: .*{reason}"):
            stages_of(build_model(name, 3, None), name)


@pytest.mark.parametrize("kind", DETECTORS)
def test_losses_have_gradients_and_detections_are_in_the_images(kind: str) -> None:
    detector = _detector(kind).train()
    images, sizes, targets = _batch()
    losses = detector(images, sizes, targets)
    total = torch.stack(list(losses.values())).sum()
    assert total.isfinite()
    total.backward()
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)
    assert [target["labels"].tolist() for target in targets] == [[2, 0], []]  # as they were
    with torch.no_grad():
        found = detector.eval()(images, sizes)
    for detection, (height, width) in zip(found, sizes, strict=True):
        assert detection["boxes"].shape[1:] == (4,)
        assert bool((detection["labels"] >= 0).all()) and bool((detection["labels"] < 3).all())  # noqa: PT018
        limits = torch.tensor([width, height, width, height])
        assert bool((detection["boxes"] <= limits).all())


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_learns_one_image_by_heart(kind: str) -> None:
    detector = _detector(kind, channels=32).train()
    images, sizes, targets = (each[:1] for each in _batch())
    optimizer = torch.optim.Adam([p for p in detector.parameters() if p.requires_grad], lr=3e-3)
    totals = []
    for _ in range(15 if kind == "fasterrcnn_c4" else 40):
        optimizer.zero_grad()
        totals.append(torch.stack(list(detector(images, sizes, targets).values())).sum())
        totals[-1].backward()
        optimizer.step()
    assert totals[-1] < (0.9 if kind == "retinanet" else 0.5) * totals[0]  # its last layers start almost at 0
    if kind != "fasterrcnn_fpn":  # and C4's last stage normalises other crops in eval mode
        return
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None  # of one image
    with torch.no_grad():
        (found,) = detector.eval()(images, sizes)
    for box, label in zip(targets[0]["boxes"], targets[0]["labels"], strict=True):
        same = found["labels"] == label
        best = found["boxes"][same][found["scores"][same].argmax()]
        assert (best - box).abs().max() < 8


def test_nothing_is_resized_or_normalised_again() -> None:
    """The same network by torchvision's own transform, told to change nothing, returns the same."""
    detector = _detector().eval()
    images, sizes, _ = _batch()
    masked = torch.zeros_like(images)
    for row, (height, width) in enumerate(sizes):
        masked[row, :, :height, :width] = images[row, :, :height, :width]
    inner = detector.detector
    assert isinstance(inner, FasterRCNN)
    with torch.no_grad():
        mine = detector(masked, sizes)
        from torchvision.models.detection.transform import GeneralizedRCNNTransform

        inner.transform = _Unchanged(64, 64, [0.0] * 3, [1.0] * 3, size_divisible=64)
        assert isinstance(inner.transform, GeneralizedRCNNTransform)
        theirs = inner([image[:, :height, :width] for image, (height, width) in zip(images, sizes, strict=True)])
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one["boxes"], other["boxes"], atol=1e-4)
        assert torch.equal(one["labels"], other["labels"] - 1)


def _unchanged(self: object, image: Tensor, target: object = None) -> tuple[Tensor, object]:
    return image, target


def _make_unchanged() -> type:
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    return type("_Unchanged", (GeneralizedRCNNTransform,), {"resize": _unchanged})


_Unchanged = _make_unchanged()


def test_anchors_of_a_resnet_at_800_pixels_are_torchvisions() -> None:
    def sides(generator: AnchorGenerator) -> Sequence[Sequence[int]]:
        return [[round(side) for side in level] for level in generator.sizes]

    model = resnet50(weights=None)
    for kind, expected in (
        ("fasterrcnn_fpn", [[32], [64], [128], [256], [512]]),
        ("fasterrcnn_c4", [[32, 64, 128, 256, 512]]),
        ("retinanet", [[x, round(x * 2 ** (1 / 3)), round(x * 2 ** (2 / 3))] for x in (32, 64, 128, 256, 512)]),
    ):
        detector = Detector(model, 3, DetectorOptions(kind, side=800, channels=8), "resnet50").detector
        generator = detector.anchor_generator if kind == "retinanet" else detector.rpn.anchor_generator
        assert sides(generator) == expected


def test_mixed_precision_is_the_backbones_alone() -> None:
    detector = _detector(amp=torch.bfloat16).eval()
    seen = []
    backbone = detector.detector.backbone
    backbone.body.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs["0"].dtype))
    backbone.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs["0"].dtype))
    images, sizes, _ = _batch()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = detector(images, sizes)
    assert seen == [torch.bfloat16, torch.float32]
    assert found[0]["boxes"].dtype == torch.float32
